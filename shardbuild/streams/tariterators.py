"""Iterators of the samples of tars, as tarproc and webdataset name them."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from shardbuild.codecs.handlers import Decoder as SampleDecoder
from shardbuild.errors import Handler, SampleError, reraise_exception
from shardbuild.shards.rawmembers import read_members
from shardbuild.shards.reader import read_stream
from shardbuild.shards.samples import base_plus_ext, is_meta
from shardbuild.storage.gopen import gopen
from shardbuild.storage.urls import expand_urls, slice_of
from shardbuild.streams.guarding import goes_on, note_sample
from shardbuild.streams.shardlists import shard_order

if TYPE_CHECKING:
    from shardbuild.shards.samples import Sample
    from shardbuild.storage.urls import StorageOptions

__all__ = [
    "TarIterator",
    "TarIterator1",
    "group_by_keys",
    "tar_file_expander",
    "tariterator",
    "url_opener",
    "valid_sample",
]

logger = logging.getLogger(__name__)

Keys = Callable[[str], tuple[str | None, str | None] | None]
"""Gives key and extension of a member's name, or None."""
Decoder = Callable[[dict[str, Any]], dict[str, Any]]

_ZMQ = re.compile(r"zr?(?:push|pull|pub|sub)(?:\+[a-z]+)?:")


def valid_sample(sample: Any) -> bool:
    """Whether something is a sample with fields, and not marked ``__bad__``.

    >>> [valid_sample(found) for found in ({"__key__": "a", "cls": b"3"}, {}, None)]
    [True, False, False]
    """
    return isinstance(sample, dict) and bool(sample) and not sample.get("__bad__")


def tariterator(
    fileobj: Any,
    keys: Keys = base_plus_ext,
    decoder: Decoder | str | bool | None = None,  # noqa: FBT001
    suffixes: Collection[str] | None = None,
    errors: Handler | bool = True,  # noqa: FBT001, FBT002
    container: str | None = None,
) -> Iterator[Sample]:
    """Read the samples of a tar, plain or compressed, from an open file.

    >>> import tarfile
    >>> member = tarfile.TarInfo("7.txt").tobuf(tarfile.USTAR_FORMAT)
    >>> list(tariterator(io.BytesIO(member + bytes(1024)), decoder=True))
    [{'__key__': '7', 'txt': ''}]

    Args:
        fileobj: A binary file; it is not closed.
        keys: What gives the key and the extension of a name, or None.
        decoder: What is done to each sample: a function; True decodes fields by
            their extensions, a text such as ``"rgb8"`` pictures too.
        suffixes: The fields that are read, in lower case; None is all. Samples that
            have none of them are left out.
        errors: What decides about damage: a handler; False ends there quietly.
        container: A field that, decoded, is a mapping: its items become the fields.

    Raises:
        ShardError: The tar is damaged.
        SampleError: A sample's container is no mapping.
    """
    name = getattr(fileobj, "name", "")
    url = name if isinstance(name, str) and name else "<stream>"
    return _samples_of(fileobj, url, keys, decoder, suffixes, errors, container)


def _samples_of(  # noqa: PLR0913
    fileobj: Any,
    url: str,
    keys: Keys,
    decoder: Decoder | str | bool | None,  # noqa: FBT001
    suffixes: Collection[str] | None,
    errors: Handler | bool,  # noqa: FBT001
    container: str | None,
) -> Iterator[Sample]:
    handler = _handler_of(errors)
    decode = _decoder_of(decoder)
    stream = fileobj if hasattr(fileobj, "readinto") else _Readable(fileobj)
    samples = _grouped(stream, url, keys, suffixes)
    while True:
        sample: Sample | None = None
        try:
            sample = next(samples, None)
            if sample is None:
                return
            result = decode(sample)
            if container is not None:
                result = _unpacked(result, container, url)
        except Exception as error:  # noqa: BLE001  # the handler decides
            note_sample(error, sample)
            if goes_on(error, handler):
                continue
            return
        yield result


def _grouped(
    stream: Any, url: str, keys: Keys, suffixes: Collection[str] | None
) -> Iterator[Sample]:
    if keys is not base_plus_ext:
        members = read_members(stream, url)
        files = ({"fname": name, "data": data} for name, data in members)
        yield from group_by_keys(files, keys, suffixes=suffixes)
        return
    for sample in read_stream(stream, url):
        if suffixes is None:
            yield sample
            continue
        kept = {name: value for name, value in sample.items() if name in suffixes}
        if kept:
            yield {"__key__": sample["__key__"], **kept}


def _handler_of(errors: Handler | bool) -> Handler:  # noqa: FBT001
    if callable(errors):
        return errors
    return reraise_exception if errors else _stop_quietly


def _stop_quietly(error: Exception) -> bool:
    logger.info("stopped reading at: %s", error)
    return False


def _decoder_of(decoder: Decoder | str | bool | None) -> Decoder:  # noqa: FBT001
    if callable(decoder):
        return decoder
    if not decoder:
        return lambda sample: sample
    specs: Any = () if decoder is True else decoder
    return SampleDecoder(specs)


def _unpacked(sample: Sample, container: str, url: str) -> Sample:
    inside = sample.get(container)
    if not isinstance(inside, Mapping):
        kind = type(inside).__name__
        problem = f"field {container!r} should be a mapping of fields, not a {kind}"
        raise SampleError(url, problem, sample["__key__"])
    return {"__key__": sample["__key__"], **inside}


class _Readable(io.RawIOBase):
    """What has only ``read`` as a file."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


# -- from urls ----------------------------------------------------------------


class TarIterator1:
    """The samples of one tar, or of all that a url with braces stands for.

    Each has ``__source__``: the url that it is from. ``a.tar#3,5`` are the samples
    3 to 5 of a tar, counted from 0, and ``a.tar#3`` is one. It can be iterated again.

    >>> import tempfile
    >>> from shardbuild.shards.writer import TarWriter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with TarWriter(f"{folder}/a.tar") as writer:
    ...         for number in range(4):
    ...             _ = writer.write({"__key__": f"{number}", "cls": number})
    ...     [sample["cls"] for sample in TarIterator1(f"{folder}/a.tar#1,2")]
    [b'1', b'2']

    Args:
        url: A url, or a list of them.
        braceexpand: Whether braces, globs, lists and manifests are expanded.
        shuffle: Whether the tars come in a random order.
        allow_missing: Whether tars that do not exist are left out, with a warning in
            the log.
        seed: Another seed, another order.
        storage_options: What to pass on to fsspec.
        kw: What `tariterator` takes.
    """

    def __init__(
        self,
        url: str | Iterable[str],
        braceexpand: bool = True,  # noqa: FBT001, FBT002
        shuffle: bool = False,  # noqa: FBT001, FBT002
        allow_missing: bool = False,  # noqa: FBT001, FBT002
        *,
        seed: int = 0,
        storage_options: StorageOptions | None = None,
        **kw: Any,
    ) -> None:
        self.urls = [url] if isinstance(url, str) else list(url)
        self.braceexpand = braceexpand
        self.shuffle = shuffle
        self.allow_missing = allow_missing
        self.seed = seed
        self.storage_options = storage_options
        self.options = {**_DEFAULTS, **kw}
        unknown = sorted(self.options.keys() - _DEFAULTS.keys())
        if unknown:
            raise TypeError(f"tariterator has no parameters {unknown}")

    def __iter__(self) -> Iterator[Sample]:
        slices = self._slices()
        for name, first, last in shard_order(
            slices, shuffle=self.shuffle, seed=self.seed
        ):
            stream = gopen(
                name,
                storage_options=self.storage_options,
                allow_missing=self.allow_missing,
            )
            if stream is None:
                logger.warning("%s: is not there: left out", name)
                continue
            with closing(stream):
                samples = _samples_of(stream, name, **self.options)
                stop = None if last is None else last + 1
                for sample in islice(samples, first, stop):
                    sample.setdefault("__source__", name)
                    yield sample

    def _slices(self) -> Iterator[tuple[str, int, int | None]]:
        """All urls, each with the first and the last sample that are asked for."""
        for spec in self.urls:
            url, first, last = slice_of(spec)
            names = [url]
            if self.braceexpand:
                names = expand_urls(url, self.storage_options)
            for name in names:
                yield name, first, last


_DEFAULTS: dict[str, Any] = {
    "keys": base_plus_ext,
    "decoder": None,
    "suffixes": None,
    "errors": True,
    "container": None,
}


def TarIterator(url: str | Iterable[str], **kw: Any) -> Iterable[Sample]:  # noqa: N802
    """The samples of tars (`TarIterator1`), or of a ZMQ url (`Connection`).

    >>> isinstance(TarIterator("s3://bucket/train-{000..999}.tar"), TarIterator1)
    True

    Args:
        url: A url; several may be given for tars.
        kw: What `TarIterator1` takes, or ``Connection``.
    """
    if isinstance(url, str) and _ZMQ.match(url):
        from shardbuild.streams.zcom import Connection

        return Connection(url, **kw)
    return TarIterator1(url, **kw)


# -- stages of webdataset -----------------------------------------------------


def url_opener(
    urls: Iterable[str | Mapping[str, Any]],
    handler: Handler = reraise_exception,
    storage_options: StorageOptions | None = None,
) -> Iterator[dict[str, Any]]:
    """Open urls: give each, ``url``, with its open file, ``stream``.

    A file is closed when the next one is asked for.

    >>> [found["url"] for found in url_opener(["pipe:echo a", {"url": "pipe:echo b"}])]
    ['pipe:echo a', 'pipe:echo b']

    Raises:
        StorageError: One cannot be opened, unless the handler bears it.
    """
    for given in urls:
        found = {"url": given} if isinstance(given, str) else dict(given)
        try:
            stream = gopen(found["url"], storage_options=storage_options)
        except Exception as error:  # noqa: BLE001  # the handler decides
            if goes_on(error, handler):
                continue
            return
        with closing(stream):
            yield {**found, "stream": stream}


def tar_file_expander(
    sources: Iterable[Mapping[str, Any]], handler: Handler = reraise_exception
) -> Iterator[dict[str, Any]]:
    """Read the files of tars: ``fname``, ``data`` and ``__url__`` of each.

    ``sources`` are as from `url_opener`. After each tar comes a file without a name,
    where `group_by_keys` ends a sample: ``{}``, or what says that the tar is damaged
    and the sample perhaps not whole.

    >>> import tarfile
    >>> member = tarfile.TarInfo("7.txt").tobuf(tarfile.USTAR_FORMAT)
    >>> source = {"url": "a.tar", "stream": io.BytesIO(member + bytes(1024))}
    >>> list(tar_file_expander([source]))
    [{'fname': '7.txt', 'data': b'', '__url__': 'a.tar'}, {}]

    Raises:
        ShardError: A tar is damaged, unless the handler bears it.
    """
    for source in sources:
        url = source["url"]
        try:
            stream = cast("BinaryIO", source["stream"])
            for name, data in read_members(stream, url):
                if not is_meta(name):
                    yield {"fname": name, "data": data, "__url__": url}
        except Exception as error:  # noqa: BLE001  # the handler decides
            is_over = not goes_on(error, handler)
            yield {"__bad__": True}
            if is_over:
                return
            continue
        yield {}


def group_by_keys(
    files: Iterable[Mapping[str, Any]],
    keys: Keys = base_plus_ext,
    lcase: bool = True,  # noqa: FBT001, FBT002  # as in webdataset
    suffixes: Collection[str] | None = None,
    handler: Handler = reraise_exception,
) -> Iterator[Sample]:
    """Make samples of files that follow each other and have one key.

    >>> files = [{"fname": "a.CLS", "data": b"3"}, {"fname": "b.txt", "data": b"x"}]
    >>> list(group_by_keys(files)), list(group_by_keys(files, suffixes={"txt"}))
    ([{'__key__': 'a', 'cls': b'3'}, {'__key__': 'b', 'txt': b'x'}], \
[{'__key__': 'b', 'txt': b'x'}])

    Args:
        files: As from `tar_file_expander`.
        keys: What gives the key and the extension of a name, or None.
        lcase: Whether extensions become lower case.
        suffixes: The fields that samples get; None is all. Samples without any of
            them are left out.
        handler: What decides about a sample that has one field twice.

    Raises:
        SampleError: A sample has one field twice, unless the handler bears it.
    """
    sample: Sample = {}
    for file in files:
        found = _placed(file, keys)
        if found is None:
            continue
        start, field = found
        if not start or not start.items() <= sample.items():
            if _has_fields(sample) and not file.get("__bad__"):
                yield sample
            sample = start
        try:
            _add(sample, file, field.lower() if lcase else field, suffixes)
        except SampleError as error:
            if not handler(error):
                return
    if _has_fields(sample):
        yield sample


def _placed(file: Mapping[str, Any], keys: Keys) -> tuple[Sample, str] | None:
    """How the sample of a file begins, and the file's field; None if it has none.

    Where a tar ends, no sample begins.
    """
    if "fname" not in file:
        return {}, ""
    key, field = keys(file["fname"]) or (None, None)
    if key is None or field is None:
        return None
    url = file.get("__url__")
    return {"__key__": key, **({} if url is None else {"__url__": url})}, field


def _add(
    sample: Sample,
    file: Mapping[str, Any],
    field: str,
    suffixes: Collection[str] | None,
) -> None:
    if not sample or (suffixes is not None and field not in suffixes):
        return
    if field in sample:
        problem = f"{file['fname']!r} is the field {field!r} once more"
        raise SampleError(sample.get("__url__", "<files>"), problem, sample["__key__"])
    sample[field] = file["data"]


def _has_fields(sample: Sample) -> bool:
    return valid_sample(sample) and not sample.keys() <= {"__key__", "__url__"}

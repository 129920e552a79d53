"""What the inputs of a run are, and how tasks read them."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from shardbuild.build.folders import is_folder, list_labels, read_listed, slice_folder
from shardbuild.build.plan import Source
from shardbuild.build.rows import EXTENT
from shardbuild.build.windows import Containers, read_windows, split_windows
from shardbuild.errors import (
    ManifestError,
    PlanError,
    ShardbuildError,
    ShardError,
    StorageError,
)
from shardbuild.shards.decompress import compression_of
from shardbuild.shards.index import index_url, load_index
from shardbuild.shards.manifest import load_manifest
from shardbuild.shards.reader import (
    read_fragment,
    read_samples,
    read_stream,
    scan_shard,
)
from shardbuild.shards.tarformat import sample_tar_bytes
from shardbuild.storage import (
    expand_urls,
    gopen,
    is_remote,
    list_names,
    read_bytes,
    read_range,
    split_url,
    stat_url,
    write_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shardbuild.build.settings import Settings
    from shardbuild.shards.index import ShardIndex
    from shardbuild.shards.samples import KeyRule, Sample
    from shardbuild.storage import StorageOptions, UrlFacts

OnDamage = Callable[[ShardbuildError], None]
"""Is told what is wrong with an input."""

logger = logging.getLogger(__name__)

_PARALLEL = 16
_PROBED_SAMPLES = 64
_PROBED_BYTES = 4 << 20
_HEAD_BYTES = 512
_PIECE_WINDOW_BYTES = 8 << 20


# --- finding out what there is ------------------------------------------------


def find_sources(settings: Settings, specs: str | Sequence[str]) -> list[Source]:
    """What the inputs are: size, fingerprint, and what is known of the samples.

    Args:
        settings: the options of the call.
        specs: url specs of shards, manifests, or folders.

    Raises:
        StorageError: one does not exist, unless bad inputs are skipped.
        PlanError: there is no input.
    """
    sources: list[Source] = []
    for spec in [specs] if isinstance(specs, str) else specs:
        if is_folder(spec):
            sources += _folder_sources(settings, spec, len(sources))
        else:
            sources += _shard_sources(settings, spec, len(sources))
    if not sources:
        raise PlanError(str(specs), "names no input")
    if settings.label_from and not any(s.kind == "folder" for s in sources):
        raise PlanError("label_from 'folder'", "the input is not a folder")
    return sources


def _folder_sources(settings: Settings, url: str, first: int) -> list[Source]:
    skipped: list[str] = []
    slices = slice_folder(
        url,
        settings.key_rule,
        find_labels(settings, url),
        storage_options=settings.storage_options,
        on_skipped=skipped.append,
    )
    sources = [
        Source(
            number=number,
            url=url,
            num_bytes=one.num_bytes,
            fingerprint=one.fingerprint,
            kind="folder",
            num_samples=one.num_samples,
        )
        for number, one in enumerate(slices, first)
    ]
    if skipped:
        message = "%s: %d files are no part of a sample, such as %r"
        logger.warning(message, url, len(skipped), skipped[0])
    return sources


def find_labels(settings: Settings, url: str) -> list[str] | None:
    """The class list of a folder, if labels are wanted."""
    if not settings.label_from:
        return None
    options = settings.storage_options
    return list_labels(url, settings.key_rule, storage_options=options)


def write_listings(settings: Settings, sources: Sequence[Source]) -> None:
    """Write the listing of each slice of a folder, for the tasks that read it.

    Raises:
        StorageError: the folder is not as it was when the sources were found.
    """
    folders = {source.url for source in sources if source.kind == "folder"}
    for url in sorted(folders):
        mine = [s for s in sources if s.url == url and s.kind == "folder"]
        slices = slice_folder(
            url,
            settings.key_rule,
            find_labels(settings, url),
            storage_options=settings.storage_options,
        )
        for source, one in zip_longest(mine, slices):
            if not (source and one) or one.fingerprint != source.fingerprint:
                raise StorageError(url, "changed while it was read")
            write_bytes(
                listing_url(settings, source),
                b"".join(one.lines),
                storage_options=settings.storage_options,
            )


def listing_url(settings: Settings, source: Source) -> str:
    """Where the listing of a slice of a folder is kept."""
    return settings.state_url(f"listings/{source.number:06d}.jsonl")


def _shard_sources(settings: Settings, spec: str, first: int) -> list[Source]:
    options = settings.storage_options
    counts: dict[str, int | None] = {}
    if spec.endswith(".json"):
        manifest = load_manifest(spec, storage_options=options)
        found = zip(manifest.shard_urls(spec), manifest.shards, strict=True)
        counts = {url: facts.num_samples for url, facts in found}
    urls = list(counts) or expand_urls(spec, storage_options=options)
    names = _names_beside(urls, options)
    numbered = list(enumerate(urls, first))

    def inspect(numbered_url: tuple[int, str]) -> Source:
        number, url = numbered_url
        has_index = not _is_stream(url) and (
            split_url(index_url(url))[1] in names[_folder_of(url)]
        )
        try:
            facts = stat_url(url, storage_options=options)
            compressed = _is_compressed(facts, has_index=has_index, options=options)
        except StorageError as error:
            if settings.errors == "raise":
                raise
            return Source(
                number,
                url,
                num_bytes=0,
                fingerprint="missing",
                num_samples=counts.get(url),
                problem=error.problem,
            )
        return Source(
            number=number,
            url=url,
            num_bytes=facts.num_bytes or 0,
            fingerprint=facts.fingerprint,
            num_samples=counts.get(url),
            has_index=has_index,
            is_compressed=compressed,
        )

    if not any(map(is_remote, urls)):
        return list(map(inspect, numbered))
    with ThreadPoolExecutor(_PARALLEL) as pool:
        return list(pool.map(inspect, numbered))


def _is_stream(url: str) -> bool:
    return url == "-" or url.startswith("pipe:")


def _folder_of(url: str) -> str:
    return "" if _is_stream(url) else split_url(url)[0]


def _names_beside(
    urls: Iterable[str], options: StorageOptions | None
) -> dict[str, set[str]]:
    """The names in the folders of some shards; none where a store cannot list."""
    names = {}
    for folder in {_folder_of(url) for url in urls if not _is_stream(url)}:
        try:
            names[folder] = set(list_names(folder, storage_options=options))
        except StorageError:
            names[folder] = set()
    return names


def _is_compressed(
    facts: UrlFacts, *, has_index: bool, options: StorageOptions | None
) -> bool:
    """Whether a shard is; a store is asked for its first bytes, and for no more."""
    url, num_bytes = facts.url, facts.num_bytes
    if _is_stream(url) or (has_index and url.endswith(".tar")):
        return False
    if num_bytes is not None:
        stop = min(num_bytes, _HEAD_BYTES)
        return (
            compression_of(read_range(url, 0, stop, storage_options=options))
            is not None
        )
    with gopen(url, "rb", storage_options=options) as stream:
        return compression_of(stream.read(_HEAD_BYTES)) is not None


def probe_sample_bytes(settings: Settings, sources: Sequence[Source]) -> float | None:
    """The mean bytes of a sample at the start of the first readable shard."""
    for source in sources:
        if source.problem or source.kind != "shard" or _is_stream(source.url):
            continue
        sizes = []
        samples = _first_samples(settings, source)
        with contextlib.suppress(ShardError):  # the run will say what is wrong
            for _, sample in zip(range(_PROBED_SAMPLES), samples, strict=False):
                fields = {k: len(v) for k, v in sample.items() if k != "__key__"}
                sizes.append(sample_tar_bytes("key", fields))
        if sizes:
            return sum(sizes) / len(sizes)
    return None


def _first_samples(settings: Settings, source: Source) -> Iterator[Sample]:
    """Samples at the start of a shard; a store is asked for them by one request.

    There the last one is cut off, which is a ShardError.
    """
    url, options = source.url, settings.storage_options
    if not is_remote(url):
        return read_samples(url, storage_options=options, key_rule=settings.key_rule)
    stop = min(source.num_bytes, _PROBED_BYTES)
    head = io.BytesIO(read_range(url, 0, stop, storage_options=options))
    return read_stream(head, url, key_rule=settings.key_rule)


def split_source(settings: Settings, source: Source) -> list[Source]:
    """Pieces of a large shard that has an index; every other input as it is."""
    if source.num_bytes <= settings.memory or not source.has_index:
        return [source]
    if source.is_compressed or source.kind != "shard":
        return [source]
    index = index_of(settings, source)
    sizes = np.diff(index.sample_offsets)
    return [
        replace(
            source,
            first=first,
            last=last,
            num_samples=last - first,
            num_bytes=int(sizes[first:last].sum()),
        )
        for first, last in split_windows(sizes, settings.memory)
    ]


def known_samples(settings: Settings, source: Source) -> int | None:
    """How many samples a manifest or an index says that an input holds."""
    if source.num_samples is None and source.has_index:
        try:
            index = load_index(source.url, settings.storage_options)
        except ShardbuildError:
            return None
        return None if index is None else index.num_samples
    return source.num_samples


# --- reading ----------------------------------------------------------------


def read_source(settings: Settings, source: Source) -> Iterator[Sample]:
    """The samples of one input, with their fields as bytes."""
    options = settings.storage_options
    if source.problem:
        raise StorageError(source.url, source.problem)
    if source.last is not None:
        return _read_piece(settings, source, source.last)
    if source.kind == "folder":
        listing = read_bytes(listing_url(settings, source), storage_options=options)
        return read_listed(listing.splitlines(), storage_options=options)
    return read_samples(source.url, storage_options=options, key_rule=settings.key_rule)


def _read_piece(settings: Settings, source: Source, last: int) -> Iterator[Sample]:
    """Samples of a part of a shard, with all checks that reading a shard makes."""
    offsets = index_of(settings, source).sample_offsets[source.first : last + 1]
    extents = np.zeros(last - source.first, EXTENT)
    extents["offset"] = offsets[:-1]
    extents["num_bytes"] = np.diff(offsets)
    options = settings.storage_options
    with Containers(lambda _: source.url, storage_options=options) as containers:
        for window, mine, _ in read_windows(extents, containers, _PIECE_WINDOW_BYTES):
            first = int(mine["offset"][0])
            yield from read_extent(window, source.url, first, settings.key_rule)


def read_extent(
    data: memoryview, url: str, offset: int, key_rule: KeyRule
) -> Iterator[Sample]:
    """Whole samples from some bytes of a shard that lie at ``offset`` in it.

    Raises:
        ShardError: it is damaged; the offset is that in the shard.
    """
    try:
        yield from read_fragment(data, url, key_rule=key_rule)
    except ShardError as error:
        here = type(error)(url, error.problem, offset + error.offset)
        raise here from error


def index_of(
    settings: Settings, source: Source, on_damage: OnDamage | None = None
) -> ShardIndex:
    """The index of a shard: that beside it, or else one made by reading it.

    ``on_damage`` is told of damage, before which the index ends.
    """
    options = settings.storage_options
    if source.has_index:
        num_bytes = None if source.last is not None else source.num_bytes
        try:
            index = load_index(source.url, options, num_bytes=num_bytes)
        except ManifestError as error:
            logger.warning("%s; the shard is read instead", error)
            index = None
        if index is not None:
            return index
    return scan_shard(
        source.url,
        storage_options=options,
        key_rule=settings.key_rule,
        on_damage=on_damage,
    )

"""How others do it: imported here and nowhere else, and only when asked for."""

from __future__ import annotations

import contextlib
import importlib
import io
import tarfile
from typing import TYPE_CHECKING, Any

from shardbuild.errors import MissingExtraError
from shardbuild.shards.samples import Sample, base_plus_ext

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = [
    "load_peer",
    "read_by_tarfile",
    "read_by_webdataset",
    "read_by_wids",
    "versions",
    "write_by_webdataset",
]


def load_peer(name: str, extra: str = "bench") -> Any:
    """Import a package that only a bench needs.

    Raises:
        MissingExtraError: it is not installed; names the extra that brings it.

    >>> load_peer("json").__name__
    'json'
    >>> load_peer("no_such_package")
    Traceback (most recent call last):
      ...
    shardbuild.errors.MissingExtraError: shardbuild bench: needs the package \
'no_such_package': pip install 'shardbuild[bench]'
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise MissingExtraError("shardbuild bench", package, extra) from error


def read_by_webdataset(urls: Sequence[str]) -> Iterator[Sample]:
    """Read raw samples by webdataset."""
    webdataset = load_peer("webdataset")
    return iter(webdataset.WebDataset(list(urls), shardshuffle=False))


def read_by_tarfile(urls: Sequence[str], mode: str) -> Iterator[Sample]:
    """Read samples by ``tarfile``, streaming (``r|*``) or seeking (``r:``)."""
    for url in urls:
        sample: Sample = {}
        with tarfile.open(url, mode) as tar:  # type: ignore[call-overload]
            for member in tar:
                parts = base_plus_ext(member.name)
                content = tar.extractfile(member)
                if parts is None or content is None:
                    continue
                key, extension = parts
                if sample and sample["__key__"] != key:
                    yield sample
                    sample = {}
                if not sample:
                    sample = {"__key__": key}
                sample[extension] = content.read()
                # Without this a pass keeps all headers that it has seen.
                tar.members = []
        if sample:
            yield sample


def _bytes_of(sample: Sample) -> Sample:
    """Turn what wids gives into the same dict of bytes as everybody's."""
    return {
        name.removeprefix("."): value.read() if isinstance(value, io.BytesIO) else value
        for name, value in sample.items()
    }


def read_by_wids(
    urls: Sequence[str], counts: Sequence[int], positions: Iterable[int] | None = None
) -> Iterator[Sample]:
    """Read samples by position by wids, in order or in the order of ``positions``."""
    wids = load_peer("wids")
    shardlist = [
        {"url": url, "nsamples": count} for url, count in zip(urls, counts, strict=True)
    ]
    with contextlib.redirect_stderr(io.StringIO()):
        dataset = wids.ShardListDataset(
            shardlist, localname=_in_place, transformations=[_bytes_of]
        )
    try:
        for position in range(len(dataset)) if positions is None else positions:
            yield dataset[position]
    finally:
        dataset.close()


def _in_place(url: str) -> str:
    """Tell wids that a local shard needs no copy."""
    return url


def write_by_webdataset(path: Path, samples: Iterable[Sample], **options: Any) -> None:
    """Write a shard by webdataset's TarWriter."""
    webdataset = load_peer("webdataset")
    with webdataset.TarWriter(str(path), **options) as writer:
        for sample in samples:
            writer.write(sample)


def versions(names: Sequence[str]) -> dict[str, str]:
    """Tell which of some packages are installed, and which versions.

    >>> versions(["no-such-package"])
    {}
    """
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found

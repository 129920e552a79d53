"""How others feed a training: webdataset shuffled, litData, torch's DataLoader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardbuild.bench.peers import load_peer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from shardbuild.shards.samples import Sample

__all__ = [
    "load_torch_loader",
    "read_by_litdata",
    "shuffle_by_webdataset",
    "with_torch_loader",
    "write_by_litdata",
]

_CHUNK_BYTES = "64MB"  # its default
_SHUFFLED_AHEAD = 1000


def load_torch_loader() -> Any:
    """Import torch's DataLoader.

    Raises:
        MissingExtraError: torch is not installed.
    """
    return load_peer("torch.utils.data", extra="torch").DataLoader


def shuffle_by_webdataset(urls: Sequence[str], seed: int) -> Iterator[Sample]:
    """Read raw samples by webdataset, shards and a buffer of samples shuffled."""
    webdataset = load_peer("webdataset")
    shards = webdataset.WebDataset(list(urls), shardshuffle=len(urls), seed=seed)
    return iter(shards.shuffle(_SHUFFLED_AHEAD, seed=seed))


def write_by_litdata(folder: Path, samples: Iterable[Sample]) -> None:
    """Write samples in litData's own format, in their order: as its ``optimize`` does.

    Raises:
        MissingExtraError: litData is not installed.
    """
    cache = load_peer("litdata.streaming").Cache(str(folder), chunk_bytes=_CHUNK_BYTES)
    for number, sample in enumerate(samples):
        cache[number] = sample
    cache.done()
    cache.merge()


def read_by_litdata(
    folder: Path, *, shuffle: bool, num_workers: int = 0, batch: int = 1
) -> Iterable[Any]:
    """Read by litData: samples, or with workers lists of samples."""
    litdata = load_peer("litdata")
    dataset = litdata.StreamingDataset(str(folder), shuffle=shuffle)
    read: Iterable[Any] = dataset
    if num_workers:
        read = litdata.StreamingDataLoader(
            dataset, batch_size=batch, num_workers=num_workers, collate_fn=list
        )
    return read


def with_torch_loader(dataset: Any, num_workers: int, batch: int | None) -> Any:
    """Read a data set by workers of torch's: lists of ``batch``, or what it has."""
    loader = load_torch_loader()
    if batch is None:
        return loader(dataset, batch_size=None, num_workers=num_workers)
    return loader(dataset, batch_size=batch, num_workers=num_workers, collate_fn=list)

"""How others feed a training: webdataset shuffled, litData, torch's DataLoader."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.bench.peers import load_peer, read_by_tarfile
from shardbuild.errors import ShardbuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shardbuild.shards.samples import Sample

__all__ = [
    "load_litdata",
    "load_torch_loader",
    "main",
    "read_by_litdata",
    "shuffle_by_webdataset",
    "with_torch_loader",
    "write_by_litdata",
]

_CHUNK_BYTES = "64MB"  # its default
_SHUFFLED_AHEAD = 1000


def load_litdata() -> Any:
    """Import litData.

    Raises:
        MissingExtraError: it is not installed.
    """
    return load_peer("litdata")


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


def write_by_litdata(urls: Sequence[str], folder: Path) -> None:
    """Write the samples of shards in litData's own format, in their order.

    In a process of its own: it has a home and a folder for passing things that go
    away, and what it starts ends with it.

    Raises:
        MissingExtraError: litData is not installed.
        ShardbuildError: it failed.
    """
    load_litdata()
    command = [sys.executable, "-m", __name__, str(folder), *urls]
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        places = {"HOME": scratch, "TMPDIR": scratch}
        done = subprocess.run(
            command,
            env={**os.environ, **places},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode or not (folder / "index.json").exists():
        raise ShardbuildError(str(folder), f"litData failed: {done.stderr[-2000:]}")


def read_by_litdata(
    folder: Path, *, shuffle: bool, num_workers: int = 0, batch: int = 1
) -> Iterable[Any]:
    """Read by litData: samples, or with workers lists of samples."""
    litdata = load_litdata()
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


def _samples_of(url: str) -> Iterator[Sample]:
    """Read a shard: what litData calls in a process of its own, as a generator."""
    yield from read_by_tarfile([url], "r:")


def main(argv: Sequence[str]) -> None:
    """Write shards in litData's format: ``FOLDER SHARD...``."""
    folder, *urls = argv
    load_litdata().optimize(
        _samples_of,
        inputs=urls,
        output_dir=str(Path(folder)),
        chunk_bytes=_CHUNK_BYTES,
        num_workers=1,
        reorder_files=False,
        keep_data_ordered=True,
        verbose=False,
    )


if __name__ == "__main__":
    main(sys.argv[1:])

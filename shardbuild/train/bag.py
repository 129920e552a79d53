"""Dask bags of a data set: one partition a run of its index."""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from shardbuild.errors import UsageError
from shardbuild.streams.sources import samples_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dask.bag import Bag

    from shardbuild.train.dataset import Dataset

__all__ = ["to_bag"]


def to_bag(dataset: Dataset, npartitions: int | None = None) -> Bag:
    """A bag of what a data set with an index gives, through all of its stages.

    A partition is read when it is computed, one sample at a time. What is random in
    a stage (`shuffle`) is so within each partition.

    Args:
        dataset: Shards, or some of their samples.
        npartitions: How many runs of samples, equal but for one sample; by default
            one for each shard.

    Raises:
        UsageError: The shards have no index, or there are not so many samples.

    >>> import shardbuild as sb, tempfile
    >>> from shardbuild.train.dataset import Dataset
    >>> folder = tempfile.TemporaryDirectory()
    >>> with sb.ShardWriter(f"{folder.name}/a-%06d.tar", maxcount=2) as writer:
    ...     for number in range(5):
    ...         _ = writer.write({"__key__": f"{number}", "cls": number})
    >>> bag = to_bag(Dataset(f"{folder.name}/a.json").decode().to_tuple("cls"))
    >>> bag.npartitions, bag.compute(scheduler="sync")
    (3, [(0,), (1,), (2,), (3,), (4,)])
    >>> folder.cleanup()
    """
    import dask.bag

    runs = list(pairwise(_bounds(dataset, npartitions)))
    read = partial(_read_runs, dataset=dataset)
    return dask.bag.from_sequence(runs, npartitions=len(runs)).map_partitions(read)


def _bounds(dataset: Dataset, npartitions: int | None) -> list[int]:
    """Where the partitions begin, and the end of all."""
    counts = dataset.catalog().counts
    num_samples = int(counts.sum())
    if npartitions is None:
        ends = np.cumsum(counts[counts > 0])
        bounds: list[int] = [0, *ends.tolist()]
        return bounds if num_samples else [0, 0]
    if not 1 <= npartitions <= max(num_samples, 1):
        raise UsageError(
            f"npartitions {npartitions}", f"there are {num_samples} samples"
        )
    return [num_samples * i // npartitions for i in range(npartitions + 1)]


def _read_runs(runs: Iterable[tuple[int, int]], *, dataset: Dataset) -> Iterator[Any]:
    for first, last in runs:
        part = dataset[first:last]
        # All of the run, whatever the environment of the task's worker says.
        source = dataclasses.replace(part._source, splitter=None, nodesplitter=None)
        yield from samples_of(source, part._stages, 0)

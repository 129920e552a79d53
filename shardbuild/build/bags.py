"""Dask bags of samples: wiring only, with as little logic as possible."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.bag as db
import numpy as np
from dask._task_spec import Task, TaskRef
from dask.local import get_sync
from dask.optimization import cull

from shardbuild.build.conversion import run_build
from shardbuild.build.plan import Source, plan_build
from shardbuild.build.settings import read_settings
from shardbuild.build.windows import split_windows
from shardbuild.errors import PlanError
from shardbuild.shards.index import load_index
from shardbuild.shards.reader import read_indexed, read_samples
from shardbuild.storage import expand_urls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Unpack

    from dask.bag import Bag

    from shardbuild.build.execute import Runner
    from shardbuild.build.report import Report
    from shardbuild.build.settings import BuildOptions
    from shardbuild.shards.samples import KeyRule, Sample
    from shardbuild.storage import StorageOptions

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one partition reads: a shard, or some samples of an indexed one."""

    url: str
    first: int = 0
    last: int | None = None
    """One past the last sample; None: the shard is read whole."""


def read_shards(
    urls: str | Sequence[str],
    *,
    partition_bytes: int | None = None,
    key_rule: KeyRule = "first-dot",
    storage_options: StorageOptions | None = None,
) -> Bag:
    """A bag of samples, one partition a shard, read one sample at a time.

    Args:
        urls: shards (urls, braces, globs, lists) or a manifest.
        partition_bytes: split shards that are larger than this and have an index
            into partitions of about so many bytes.
        key_rule: where a key ends in a member's name.
        storage_options: passed on to fsspec.

    Raises:
        StorageError: nothing matches, when the bag is made; a shard is missing, when
            it is computed.
        ShardError: a shard is damaged, when it is computed.

    >>> import shardbuild as sb
    >>> with sb.TarWriter("memory://bags/a.tar") as writer:
    ...     for i in range(3):
    ...         _ = writer.write({"__key__": str(i), "cls": i})
    >>> bag = sb.read_shards("memory://bags/a.tar")
    >>> bag.pluck("__key__").compute(scheduler="sync")
    ['0', '1', '2']
    """
    pieces = [
        piece
        for url in expand_urls(urls, storage_options=storage_options)
        for piece in _split(url, partition_bytes, storage_options)
    ]
    read = partial(_read_pieces, key_rule=key_rule, storage_options=storage_options)
    return db.from_sequence(pieces, npartitions=len(pieces)).map_partitions(read)


def _split(
    url: str, partition_bytes: int | None, options: StorageOptions | None
) -> Iterator[Piece]:
    index = load_index(url, options) if partition_bytes else None
    if partition_bytes is None or index is None or index.file_bytes != index.num_bytes:
        yield Piece(url)
        return
    sizes = np.diff(index.sample_offsets)
    windows = split_windows(sizes, partition_bytes)
    if len(windows) <= 1:
        yield Piece(url)
        return
    for first, last in windows:
        yield Piece(url, first, last)


def _read_pieces(
    pieces: Iterable[Piece],
    *,
    key_rule: KeyRule,
    storage_options: StorageOptions | None,
) -> Iterator[Sample]:
    for piece in pieces:
        if piece.last is None:
            yield from read_samples(
                piece.url, key_rule=key_rule, storage_options=storage_options
            )
            continue
        index = load_index(piece.url, storage_options)
        if index is None:
            raise PlanError(piece.url, "its index has gone since the bag was made")
        positions = range(piece.first, piece.last)
        yield from read_indexed(
            piece.url, index, positions, storage_options=storage_options
        )


def write_shards(bag: Bag, pattern: str, **options: Unpack[BuildOptions]) -> Report:
    """Compute a bag of samples and write it as shards, in any order.

    Args:
        bag: a Dask bag of samples. Its partitions stand for the input shards.
        pattern: of the output shards, such as ``"out/train-%06d.tar"``.
        options: see `BuildOptions`; methods are ``stream`` and ``spill``.

    Raises:
        PlanError, DestinationError, SampleError: as `convert`.

    >>> import dask.bag as db, tempfile
    >>> samples = [{"__key__": str(i), "cls": i} for i in range(10)]
    >>> bag = db.from_sequence(samples, npartitions=3)
    >>> out = tempfile.mkdtemp()
    >>> options = {"order": "sort:cls", "maxcount": 5, "scheduler": "sync"}
    >>> write_shards(bag, f"{out}/a-%06d.tar", **options).num_shards
    2
    """
    settings = read_settings(pattern, None, options)
    sources = [
        Source(number, f"{bag.name}[{number}]", 0, bag.name, kind="partition")
        for number in range(bag.npartitions)
    ]
    plan = plan_build(settings, sources)
    return run_build(settings, plan, options, partial(_run_first, bag))


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of a bag, with what is to be done with its samples."""

    item: Any
    key: Any
    graph: dict[Any, Any]
    """Computes ``key``, and nothing that another partition needs."""


def _run_first(
    bag: Bag,
    runner: Runner,
    task: Callable[..., Record],
    items: Sequence[Any],
    on_done: Callable[[Record], None],
) -> None:
    """Run a task on each partition of a bag, where the partition is computed."""
    keys = [(bag.name, _partition_of(item)) for item in items]
    graph = dict(bag.__dask_optimize__(bag.__dask_graph__(), keys))
    graphs = [cull(graph, [key])[0] for key in keys]
    if sum(map(len, graphs)) > len(set().union(*graphs)):
        _run_shuffled(bag, runner, task, items, on_done)
        return
    partitions = map(Partition, items, keys, graphs)
    runner.run(partial(_run_partition, task), list(partitions), on_done)


def _run_partition(task: Callable[..., Record], partition: Partition) -> Record:
    samples = get_sync(partition.graph, partition.key)
    return task(partition.item, samples=iter(samples))


def _run_shuffled(
    bag: Bag,
    runner: Runner,
    task: Callable[..., Record],
    items: Sequence[Any],
    on_done: Callable[[Record], None],
) -> None:
    """As `_run_first`, for partitions that share what Dask has to compute once.

    Such a partition is a list, as all that Dask itself moves between tasks.
    """
    lists = bag.map_partitions(list)
    sources = [(lists.name, _partition_of(item)) for item in items]
    graph = dict(lists.__dask_optimize__(lists.__dask_graph__(), sources))
    keys = []
    for item, source in zip(items, sources, strict=True):
        keys.append(("write", *source))
        run = partial(_consume, task, item)
        graph[keys[-1]] = Task(keys[-1], run, TaskRef(source))
    runner.run_graph(graph, keys, on_done)


def _consume(task: Callable[..., Record], item: Any, samples: list[Sample]) -> Record:
    return task(item, samples=iter(samples))


def _partition_of(item: Any) -> int:
    source: Source = item if isinstance(item, Source) else item.sources[0]
    return source.number


def reshuffle(
    bag: Bag, *, to: str | None = None, **options: Unpack[BuildOptions]
) -> Bag:
    """A bag of the same samples in a new order, the same for the same seed.

    The samples are written as shards first: no order of a data set larger than
    memory can do without.

    Args:
        bag: a Dask bag of samples.
        to: pattern of the shards; by default in a new temporary folder of this
            machine, which the workers have to share.
        options: see `BuildOptions`; ``seed`` says which order.

    >>> import dask.bag as db
    >>> samples = [{"__key__": str(i), "cls": b"0"} for i in range(10)]
    >>> bag = db.from_sequence(samples, npartitions=3)
    >>> shuffled = reshuffle(bag, seed=7, maxcount=5, scheduler="sync")
    >>> keys = shuffled.pluck("__key__").compute(scheduler="sync")
    >>> keys != sorted(keys) and sorted(keys) == [str(i) for i in range(10)]
    True
    """
    pattern = to or f"{tempfile.mkdtemp(prefix='shardbuild-')}/shuffled-%06d.tar"
    options["order"] = "shuffle"
    report = write_shards(bag, pattern, **options)
    return read_shards(report.manifest, storage_options=options.get("storage_options"))

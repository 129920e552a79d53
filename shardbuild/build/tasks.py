"""What runs inside a worker: tasks that read some files and publish some files.

Each is a function of the settings and one small item, and returns a record (plain
JSON) of what it did. The record is kept beside what the task has published: a
task that finds its record does nothing more.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shardbuild.build.ordering import cost_cuts
from shardbuild.build.quarantine import Quarantine
from shardbuild.build.report import Tally
from shardbuild.build.rows import (
    EXTENT,
    Table,
    join_tables,
    load_slice,
    save_table,
)
from shardbuild.build.runs import RunSorter, RunWriter
from shardbuild.build.scanning import scan_source
from shardbuild.build.sieve import Sieve
from shardbuild.build.state import (
    RUNS_PER_TASK,
    Record,
    committed,
    level_name,
    open_containers,
    part_url,
    run_url,
    table_url,
)
from shardbuild.build.windows import read_windows
from shardbuild.build.writing import Copier
from shardbuild.errors import SampleError
from shardbuild.shards.index import save_index
from shardbuild.shards.writer import TarWriter
from shardbuild.storage import (
    is_remote,
    map_parallel,
    read_bytes,
    read_range,
    remove,
    write_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardbuild.build.ordering import SortKey
    from shardbuild.build.plan import Source
    from shardbuild.build.settings import Settings
    from shardbuild.shards.samples import Sample


# --- items ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadItem:
    """Inputs that one task of the first pass reads."""

    number: int
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class MergeItem:
    """Runs that a merge task turns into one: those of some tables of a level."""

    level: int
    """Of the result; its input is the level below, or the map tasks' runs at 0."""
    number: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class SortItem:
    """A range of the whole order, to be collected from all tables."""

    number: int
    tables: str
    num_tables: int
    start: SortKey | None
    stop: SortKey | None


@dataclass(frozen=True, slots=True)
class CutItem:
    """The whole order, to be cut into shards."""

    number: int
    num_rows: tuple[int, ...]
    """Of each part."""


@dataclass(frozen=True, slots=True)
class WriteItem:
    """One output shard: slices of parts, in order."""

    number: int
    containers: str
    """What the extents point to: see `open_containers`."""
    slices: tuple[tuple[int, int, int], ...]
    """(part, first row, one past the last row)"""


# --- the first pass: scan, map or stream ------------------------------------


def scan_task(settings: Settings, item: ReadItem) -> Record:
    """Find the samples of some inputs, and keep one sorted table of them."""
    name = f"scan-{item.number:06d}"
    return committed(settings, name, lambda: _scan(settings, item))


def _scan(settings: Settings, item: ReadItem) -> Record:
    sieves = [Sieve(settings, source) for source in item.sources]
    with ExitStack() as stack:
        tables = [scan_source(sieve) for sieve in map(stack.enter_context, sieves)]
    return _save_first(settings, "scan", item.number, join_tables(tables), sieves)


def _save_first(
    settings: Settings, tables: str, number: int, table: Table, sieves: list[Sieve]
) -> Record:
    table = table.sorted()
    url = table_url(settings, tables, number)
    save_table(url, table, storage_options=settings.storage_options)
    tally = sum((sieve.tally() for sieve in sieves), Tally())
    return {
        "tally": tally.to_json(),
        "sources": [[s.source.number, s.num_read, s.keys_sum] for s in sieves],
        "quarantine": _names_of([s.quarantine for s in sieves]),
        **_table_facts(table, number),
    }


def _names_of(quarantines: list[Quarantine]) -> list[str]:
    return [one.name for one in quarantines if one.num_samples]


def _table_facts(table: Table, number: int) -> Record:
    sample = [(_pack_key(key), weight) for key, weight in table.sample(number)]
    text_bytes = sum(map(len, table.texts or ()))
    return {"num_rows": len(table), "text_bytes": text_bytes, "sample": sample}


def _pack_key(key: SortKey) -> list[Any]:
    first = key[0].hex() if isinstance(key[0], bytes) else key[0]
    return [first, *key[1:]]


def unpack_key(packed: list[Any]) -> SortKey:
    """The sort key that a record holds."""
    first = bytes.fromhex(packed[0]) if isinstance(packed[0], str) else packed[0]
    return (first, packed[1], packed[2], packed[3])


def map_task(
    settings: Settings, item: ReadItem, *, samples: Iterator[Sample] | None = None
) -> Record:
    """Put the samples of some inputs through the job, into sorted runs.

    ``samples`` are those of a partition of a bag, which nothing else can read.
    """
    name = f"map-{item.number:06d}"
    return committed(settings, name, lambda: _map(settings, item, samples))


def _map(
    settings: Settings, item: ReadItem, samples: Iterator[Sample] | None
) -> Record:
    sorter = RunSorter(settings, item.number)
    sieves = [Sieve(settings, source, samples) for source in item.sources]
    with ExitStack() as stack:
        for sieve in map(stack.enter_context, sieves):
            for position, sub, sample in sieve.samples():
                try:
                    sorter.add(sieve, position, sub, sample)
                except SampleError as error:
                    sieve.reject(position, sample, error)
                else:
                    sieve.num_written += 1
        table = sorter.finish()
    record = _save_first(settings, "map", item.number, table, sieves)
    return {"num_runs": sorter.num_runs, **record}


def stream_task(
    settings: Settings, source: Source, *, samples: Iterator[Sample] | None = None
) -> Record:
    """Read one input, put it through the job, and write one output shard."""
    name = f"stream-{source.number:06d}"
    return committed(settings, name, lambda: _stream(settings, source, samples))


def _stream(
    settings: Settings, source: Source, samples: Iterator[Sample] | None
) -> Record:
    with (
        Sieve(settings, source, samples) as sieve,
        TarWriter(
            settings.shard_url(source.number),
            storage_options=settings.storage_options,
            key_rule=settings.key_rule,
        ) as writer,
    ):
        for position, _, sample in sieve.samples():
            try:
                writer.write(sample)
            except SampleError as error:
                sieve.reject(position, sample, error)
            else:
                sieve.num_written += 1
        if not writer.num_samples:
            writer.discard()
    return {
        "tally": sieve.tally().to_json(),
        "sources": [[source.number, sieve.num_read, sieve.keys_sum]],
        "quarantine": _names_of([sieve.quarantine]),
        **(shard_record(settings, writer, source.number) if sieve.num_written else {}),
    }


def shard_record(settings: Settings, writer: TarWriter, number: int) -> Record:
    """Save the index of a shard that has been written, and say what it holds."""
    facts, index = writer.facts, writer.index
    save_index(
        index, settings.shard_url(number), storage_options=settings.storage_options
    )
    kinds = np.bincount(index.member_extension, minlength=len(index.extensions))
    fields = zip(index.extensions, kinds.tolist(), strict=True)
    return {
        "shard": {
            "number": number,
            "num_samples": facts.num_samples,
            "num_bytes": facts.num_bytes,
            "sha256": facts.sha256,
        },
        "fields": dict(sorted(fields)),
    }


# --- merging, sorting, cutting ----------------------------------------------


def merge_task(settings: Settings, item: MergeItem) -> Record:
    """Turn several runs into one, longer run."""
    name = f"merge{item.level}-{item.number:06d}"
    record = committed(settings, name, lambda: _merge(settings, item))
    for container in record["merged"]:
        url = run_url(settings, level_name(item.level - 1), container)
        remove(url, storage_options=settings.storage_options)
    return record


def _merge(settings: Settings, item: MergeItem) -> Record:
    options = settings.storage_options
    below, here = level_name(item.level - 1), level_name(item.level)
    tables = [
        load_slice(table_url(settings, below, n), None, None, storage_options=options)
        for n in range(item.first, item.last)
    ]
    table = join_tables(tables).sorted()
    container = item.number * RUNS_PER_TASK
    url = run_url(settings, here, container)
    with (
        open_containers(settings, below) as containers,
        RunWriter(url, storage_options=options) as run,
    ):
        extents = extents_of(table)
        window = containers.window_bytes(settings.memory, extents)
        for data, _, _ in read_windows(extents, containers, window):
            run.write(data)
    rows = table.rows.copy()
    rows["container"] = container
    rows["offset"] = np.cumsum(rows["num_bytes"]) - rows["num_bytes"]
    merged = Table(rows, table.texts)
    save_table(table_url(settings, here, item.number), merged, storage_options=options)
    runs = np.unique(table.rows["container"]).tolist()
    return {"merged": runs, **_table_facts(merged, item.number)}


def extents_of(table: Table) -> np.ndarray[Any, Any]:
    """Where the samples of a table are, in its order."""
    extents = np.empty(len(table), EXTENT)
    for name in ("container", "offset", "num_bytes"):
        extents[name] = table.rows[name]
    return extents


def sort_task(settings: Settings, item: SortItem) -> Record:
    """Collect a range of the order from all tables, and sort it."""
    name = f"sort-{item.number:06d}"
    return committed(settings, name, lambda: _sort(settings, item))


def _sort(settings: Settings, item: SortItem) -> Record:
    options = settings.storage_options

    def load(number: int) -> Table:
        url = table_url(settings, item.tables, number)
        return load_slice(url, item.start, item.stop, storage_options=options)

    each = map_parallel if is_remote(settings.state) else map
    table = join_tables(list(each(load, range(item.num_tables)))).sorted()
    bodies = table.rows["body"].astype("<i8")
    write_bytes(
        part_url(settings, item.number, "extents"),
        extents_of(table).tobytes(),
        storage_options=options,
    )
    write_bytes(
        part_url(settings, item.number, "bodies"),
        bodies.tobytes(),
        storage_options=options,
    )
    largest = int(bodies.max(initial=0))
    return {"num_rows": len(table), "body": int(bodies.sum()), "largest": largest}


def cut_task(settings: Settings, item: CutItem) -> Record:
    """Find where the output shards begin: exact, from the sizes of all samples."""
    name = f"cut-{item.number:06d}"
    return committed(settings, name, lambda: _cut(settings, item.num_rows))


def _cut(settings: Settings, num_rows: tuple[int, ...]) -> Record:
    limits = settings.limits

    def blocks() -> Iterator[np.ndarray[Any, Any]]:
        for number, count in enumerate(num_rows):
            if count:
                url = part_url(settings, number, "bodies")
                data = read_range(
                    url, 0, 8 * count, storage_options=settings.storage_options
                )
                yield limits.costs(np.frombuffer(data, "<i8"))

    cuts = cost_cuts(blocks, limits.capacity)
    url = settings.state_url("cuts.npy")
    data = cuts.astype("<i8").tobytes()
    write_bytes(url, data, storage_options=settings.storage_options)
    return {"num_shards": max(0, len(cuts) - 1)}


def load_cuts(settings: Settings) -> np.ndarray[Any, Any]:
    """What the cut task found."""
    url = settings.state_url("cuts.npy")
    data = read_bytes(url, storage_options=settings.storage_options)
    return np.frombuffer(data, "<i8")


# --- output -----------------------------------------------------------------


def write_task(settings: Settings, item: WriteItem) -> Record:
    """Collect the samples of one output shard and write it."""
    name = f"write-{item.number:06d}"
    return committed(settings, name, lambda: _write(settings, item))


def _write(settings: Settings, item: WriteItem) -> Record:
    options = settings.storage_options
    size = EXTENT.itemsize
    extents = np.concatenate(
        [
            np.frombuffer(
                read_range(
                    part_url(settings, part, "extents"),
                    first * size,
                    last * size,
                    storage_options=options,
                ),
                EXTENT,
            )
            for part, first, last in item.slices
        ]
    )
    quarantine = Quarantine(settings, f"shard-{item.number:06d}")
    try:
        with (
            open_containers(settings, item.containers) as containers,
            TarWriter(
                settings.shard_url(item.number),
                storage_options=options,
                key_rule=settings.key_rule,
            ) as writer,
        ):
            copier = Copier(settings, containers, writer, quarantine)
            copier.copy(extents)
            if not writer.num_samples:
                writer.discard()
        quarantine.close()
    except BaseException:
        quarantine.discard()
        raise
    return {
        "tally": copier.tally().to_json(),
        "quarantine": _names_of([quarantine]),
        **(shard_record(settings, writer, item.number) if writer.num_samples else {}),
    }

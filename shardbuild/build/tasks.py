"""What runs inside a worker: tasks that read some files and publish some files.

Each is a function of the settings and one small item, and returns a record (plain
JSON) of what it did. The record is kept beside what the task has published: a
task that finds its record does nothing more.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from shardbuild.build.ordering import cost_cuts, field_key, shuffle_key
from shardbuild.build.plan import window_bytes
from shardbuild.build.quarantine import Quarantine
from shardbuild.build.report import Tally
from shardbuild.build.rows import (
    EXTENT,
    ROW,
    Table,
    join_tables,
    load_slice,
    save_table,
)
from shardbuild.build.sieve import Sieve
from shardbuild.build.sources import listing_url, scan_source
from shardbuild.build.windows import Containers, read_windows
from shardbuild.build.writing import Copier, RunWriter
from shardbuild.errors import SampleError, ShardError, StorageError
from shardbuild.shards.framing import SampleFramer, TarOptions
from shardbuild.shards.index import save_index
from shardbuild.shards.writer import TarWriter
from shardbuild.storage import (
    exists,
    metered,
    read_bytes,
    read_range,
    remove,
    write_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from shardbuild.build.ordering import SortKey
    from shardbuild.build.plan import Source
    from shardbuild.build.settings import Settings
    from shardbuild.shards.samples import Sample

Record = dict[str, Any]

_RUNS_PER_TASK = 1 << 12
_SAMPLE_OVERHEAD = 600
_MEMBER_OVERHEAD = 250


# --- commit records ---------------------------------------------------------


def commit_url(settings: Settings, name: str) -> str:
    """Where the record of a finished task is kept."""
    return settings.state_url(f"commits/{name}.json")


def committed(settings: Settings, name: str, work: Callable[[], Record]) -> Record:
    """Do a task's work unless it has been done, and keep its record."""
    options = settings.storage_options
    url = commit_url(settings, name)
    if exists(url, storage_options=options):
        record: Record = json.loads(read_bytes(url, storage_options=options))
        return record
    started = time.perf_counter()
    with metered() as meter:
        record = work()
    record |= {
        "task": name,
        "seconds": time.perf_counter() - started,
        "read_bytes": meter.read_bytes,
        "read_requests": meter.read_requests,
        "written_bytes": meter.written_bytes,
        "write_requests": meter.write_requests,
    }
    data = json.dumps(record).encode()
    write_bytes(url, data, storage_options=options)
    return record


# --- items ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MapItem:
    """Inputs whose samples a map task turns into sorted runs."""

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
class WriteItem:
    """One output shard: slices of parts, in order."""

    number: int
    containers: str
    """What the extents point to: see `open_containers`."""
    slices: tuple[tuple[int, int, int], ...]
    """(part, first row, one past the last row)"""


# --- names in the state folder ----------------------------------------------


def table_url(settings: Settings, tables: str, number: int) -> str:
    """Where a table of a level is kept."""
    return settings.state_url(f"tables/{tables}-{number:06d}")


def part_url(settings: Settings, number: int, what: str) -> str:
    """Where a part of the sorted order is kept."""
    return settings.state_url(f"parts/{number:06d}.{what}")


def run_url(settings: Settings, level: str, container: int) -> str:
    """Where a run is kept: ``container`` numbers the task, and its runs."""
    task, run = divmod(container, _RUNS_PER_TASK)
    return settings.state_url(f"runs/{level}-{task:06d}-{run:04d}.tar")


def sources_url(settings: Settings) -> str:
    """Where the urls of all inputs are kept."""
    return settings.state_url("sources.json")


def open_containers(settings: Settings, kind: str) -> Containers:
    """The runs of a level, or the inputs as they are: shards, listings of a folder.

    Args:
        settings: the options of the call.
        kind: the name of the level, or the digest that `write_source_urls` gave.
    """
    options = settings.storage_options
    if kind.startswith(("map", "merge")):
        return Containers(partial(run_url, settings, kind), frozenset(), options)
    if kind not in _known_sources:
        data = read_bytes(sources_url(settings), storage_options=options)
        _known_sources.clear()
        _known_sources[kind] = json.loads(data)
    known = _known_sources[kind]
    return Containers(known["urls"].__getitem__, frozenset(known["listings"]), options)


_known_sources: dict[str, Any] = {}
"""The last list of sources that this process has read: it may be long."""


def write_source_urls(settings: Settings, sources: Iterable[Source]) -> str:
    """Say once, for all tasks, where the extents of each input are.

    Returns:
        What tasks call it by: a hash of it.
    """
    urls, listings = [], []
    for source in sources:
        is_listing = source.kind == "folder"
        urls.append(listing_url(settings, source) if is_listing else source.url)
        if is_listing:
            listings.append(source.number)
    data = json.dumps({"urls": urls, "listings": listings}).encode()
    write_bytes(sources_url(settings), data, storage_options=settings.storage_options)
    return hashlib.sha256(data).hexdigest()


# --- the first pass: scan, map or stream ------------------------------------


def scan_task(settings: Settings, source: Source) -> Record:
    """Find the samples of one input, and keep a sorted table of them."""
    return committed(
        settings, f"scan-{source.number:06d}", lambda: _scan(settings, source)
    )


def _scan(settings: Settings, source: Source) -> Record:
    sieve = Sieve(settings, source)
    try:
        table, keys = scan_source(settings, source)
    except (ShardError, StorageError) as error:
        sieve.lose(error)
        table, keys = Table(np.empty(0, ROW)), []
    sieve.note_keys(keys)
    return _save_first(settings, "scan", source.number, table, [sieve])


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
    return {"num_rows": len(table), "sample": sample}


def _pack_key(key: SortKey) -> list[Any]:
    first = key[0].hex() if isinstance(key[0], bytes) else key[0]
    return [first, *key[1:]]


def unpack_key(packed: list[Any]) -> SortKey:
    """The sort key that a record holds."""
    first = bytes.fromhex(packed[0]) if isinstance(packed[0], str) else packed[0]
    return (first, packed[1], packed[2], packed[3])


def map_task(
    settings: Settings, item: MapItem, *, samples: Iterator[Sample] | None = None
) -> Record:
    """Put the samples of some inputs through the job, into sorted runs.

    ``samples`` are those of a partition of a bag, which nothing else can read.
    """
    name = f"map-{item.number:06d}"
    return committed(settings, name, lambda: _map(settings, item, samples))


def _map(settings: Settings, item: MapItem, samples: Iterator[Sample] | None) -> Record:
    sorter = RunSorter(settings, item.number)
    sieves = []
    try:
        for source in item.sources:
            sieve = Sieve(settings, source, samples)
            sieves.append(sieve)
            for position, sub, sample in sieve.samples():
                try:
                    sorter.add(source, position, sub, sample)
                except SampleError as error:
                    sieve.reject(position, sample, error)
                else:
                    sieve.num_written += 1
        table = sorter.finish()
        for sieve in sieves:
            sieve.quarantine.close()
    except BaseException:
        for sieve in sieves:
            sieve.quarantine.discard()
        raise
    record = _save_first(settings, "map", item.number, table, sieves)
    return {"num_runs": sorter.num_runs, **record}


class RunSorter:
    """Holds as many samples as memory allows; writes them as sorted runs."""

    def __init__(self, settings: Settings, task: int) -> None:
        self.settings = settings
        self.task = task
        self._held: list[tuple[SortKey, list[bytes], int]] = []
        self._held_bytes = 0
        self.num_runs = 0
        self._tables: list[Table] = []
        tar = TarOptions(key_rule=settings.key_rule)
        self._framer = SampleFramer(settings.pattern, tar)

    def add(self, source: Source, position: int, sub: int, sample: Sample) -> None:
        """Hold one more sample.

        Raises:
            SampleError: it cannot be written, or has no such sort key.
        """
        order = self.settings.order
        key: int | bytes = 0
        if order.kind == "shuffle":
            name = sample["__key__"]
            if self.settings.rekey:
                name = name.partition("/")[2]
            key = shuffle_key(order.seed, name, source.number, position)
        elif order.kind == "sort":
            key = field_key(order, source.url, sample)
        _, _, parts, sizes, num_bytes, _ = self._framer.frame(sample)
        self._held.append(((key, source.number, position, sub), parts, num_bytes))
        self._held_bytes += num_bytes + _SAMPLE_OVERHEAD + _MEMBER_OVERHEAD * len(sizes)
        if self._held_bytes >= self.settings.memory:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        self._held.sort(key=_first)
        container = self.task * _RUNS_PER_TASK + self.num_runs
        url = run_url(self.settings, "map", container)
        rows = np.zeros(len(self._held), ROW)
        by_text = self.settings.order.by_text
        keys = [key for key, _, _ in self._held]
        if not by_text:
            rows["key"] = [key[0] for key in keys]
        for column, name in enumerate(("source", "position", "sub"), 1):
            rows[name] = [key[column] for key in keys]
        rows["container"] = container
        rows["num_bytes"] = rows["body"] = [num_bytes for _, _, num_bytes in self._held]
        rows["offset"] = np.cumsum(rows["num_bytes"]) - rows["num_bytes"]
        options = self.settings.storage_options
        with RunWriter(url, storage_options=options) as run:
            for _, parts, num_bytes in self._held:
                run.append(parts, num_bytes)
        texts = [bytes(key[0]) for key in keys] if by_text else None
        self._tables.append(Table(rows, texts))
        self.num_runs += 1
        self._held, self._held_bytes = [], 0

    def finish(self) -> Table:
        """Write what is held; the rows of all runs."""
        self._flush()
        return join_tables(self._tables)


def _first(held: tuple[SortKey, list[bytes], int]) -> SortKey:
    return held[0]


def stream_task(
    settings: Settings, source: Source, *, samples: Iterator[Sample] | None = None
) -> Record:
    """Read one input, put it through the job, and write one output shard."""
    name = f"stream-{source.number:06d}"
    return committed(settings, name, lambda: _stream(settings, source, samples))


def _stream(
    settings: Settings, source: Source, samples: Iterator[Sample] | None
) -> Record:
    sieve = Sieve(settings, source, samples)
    try:
        with TarWriter(
            settings.shard_url(source.number),
            storage_options=settings.storage_options,
            key_rule=settings.key_rule,
        ) as writer:
            for position, _, sample in sieve.samples():
                try:
                    writer.write(sample)
                except SampleError as error:
                    sieve.reject(position, sample, error)
                else:
                    sieve.num_written += 1
            if not writer.num_samples:
                writer.discard()
        sieve.quarantine.close()
    except BaseException:
        sieve.quarantine.discard()
        raise
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


def level_name(level: int) -> str:
    """What the runs and tables of a level are called; level -1 is the map tasks'."""
    return f"merge{level}" if level >= 0 else "map"


def _merge(settings: Settings, item: MergeItem) -> Record:
    options = settings.storage_options
    below, here = level_name(item.level - 1), level_name(item.level)
    tables = [
        load_slice(table_url(settings, below, n), None, None, storage_options=options)
        for n in range(item.first, item.last)
    ]
    table = join_tables(tables).sorted()
    container = item.number * _RUNS_PER_TASK
    url = run_url(settings, here, container)
    with (
        open_containers(settings, below) as containers,
        RunWriter(url, storage_options=options) as run,
    ):
        window = window_bytes(settings.memory)
        for data, _, _ in read_windows(extents_of(table), containers, window):
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
    tables = [
        load_slice(
            table_url(settings, item.tables, number),
            item.start,
            item.stop,
            storage_options=options,
        )
        for number in range(item.num_tables)
    ]
    table = join_tables(tables).sorted()
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


def cut_task(settings: Settings, num_rows: list[int]) -> Record:
    """Find where the output shards begin: exact, from the sizes of all samples."""
    return committed(settings, "cut", lambda: _cut(settings, num_rows))


def _cut(settings: Settings, num_rows: list[int]) -> Record:
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

"""What each step of a run reads, writes and asks for: arithmetic, no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shardbuild.build.plan import Source
    from shardbuild.build.settings import Settings

ROW_BYTES = 52
"""What the sort knows of one sample, in bytes."""
ROWS_PER_BYTE_OF_MEMORY = 3 * ROW_BYTES
"""Sorting rows takes their bytes three times."""
SLICE_BYTES = 1 << 20
"""A run is read in slices of at least this, else runs are merged first."""
LOCAL_SLICE_BYTES = 128 << 10
"""As much is enough for a slice of a run on local disk."""
BASE_BYTES = 150 << 20
"""What a worker takes before it reads anything: Python, numpy, Dask, fsspec."""
INDEX_BYTES = 48
"""An index takes about this much for each sample."""
MIN_TASKS = 48
"""A data set is divided among so many map tasks, if it has so many inputs."""

# One request of a sequential read or write, of a store and of a local disk.
STORE_READ_BYTES = 4 << 20
STORE_WRITE_BYTES = 8 << 20
LOCAL_READ_BYTES = 2 << 20
LOCAL_WRITE_BYTES = 1 << 19
LOCAL_RUN_BYTES = 1 << 20
LARGE_SAMPLE_BYTES = 32 << 10
"""Mean size from which on a local sample is read by two requests of its own."""


@dataclass(frozen=True, slots=True)
class Step:
    """One phase of a plan: tasks that can run at the same time."""

    name: str
    num_tasks: int
    read_bytes: int
    written_bytes: int
    read_requests: int
    write_requests: int


@dataclass(frozen=True, slots=True)
class Load:
    """What the arithmetic of the steps needs to know of a run."""

    num_inputs: int
    num_samples: int
    num_bytes: int
    num_shards: int
    memory: int
    from_store: bool
    """Whether the inputs are in a store."""
    to_store: bool
    """Whether the outputs are, and what lies beside them meanwhile."""

    def reads(self, num_bytes: int, num_files: int) -> int:
        """Requests to read so much of the inputs, each file front to back."""
        if self.from_store:
            return num_bytes // STORE_READ_BYTES + 2 * num_files
        if self.num_bytes > LARGE_SAMPLE_BYTES * self.num_samples:
            # One for the headers and one for the payload; what was looked ahead to
            # is read again now and then.
            share = num_bytes / self.num_bytes
            return math.ceil(2.1 * self.num_samples * share) + 3 * num_files
        return num_bytes // LOCAL_READ_BYTES + 4 * num_files

    def writes(self, num_files: int, local_bytes: int) -> int:
        """Requests to write all samples into so many files.

        ``local_bytes`` is what a local file is given at once.
        """
        step = STORE_WRITE_BYTES if self.to_store else local_bytes
        return self.num_bytes // step + num_files

    def windows(self, num_containers: int) -> int:
        """How many windows all output shards take, read from so many containers."""
        if self.to_store:
            num_containers = 0
        return num_windows(self.num_bytes, self.num_shards, self.memory, num_containers)


def stream_steps(
    load: Load, _settings: Settings, _sources: Sequence[Source]
) -> list[Step]:
    """Work out one pass that keeps shards and order."""
    return [
        Step(
            "stream",
            load.num_inputs,
            load.num_bytes,
            load.num_bytes,
            load.reads(load.num_bytes, load.num_inputs),
            load.writes(3 * load.num_inputs, LOCAL_WRITE_BYTES),
        )
    ]


def gather_steps(
    load: Load, settings: Settings, sources: Sequence[Source]
) -> list[Step]:
    """Work out a sort of places, and reads of each sample from its input."""
    indexed = sum(source.has_index for source in sources)
    bare = [s for s in sources if not s.has_index]
    if settings.order.kind == "sort" and settings.order.field != "__key__":
        scan_bytes = load.num_bytes
        scan_requests = load.reads(load.num_bytes, load.num_inputs)
    else:
        share = indexed / max(1, load.num_inputs)
        scan_bytes = int(load.num_samples * INDEX_BYTES * share)
        bare_bytes = sum(s.num_bytes for s in bare if s.kind == "shard")
        scan_bytes += bare_bytes
        scan_requests = indexed + load.reads(bare_bytes, len(bare))
    row_bytes = load.num_samples * ROW_BYTES
    num_tables = sum(1 for _ in group_scans(sources, settings.memory))
    return [
        Step("scan", num_tables, scan_bytes, row_bytes, scan_requests, 2 * num_tables),
        *_sort_steps(load, settings, num_tables),
        _write_step(load, load.num_samples),
    ]


def spill_steps(
    load: Load, settings: Settings, sources: Sequence[Source]
) -> list[Step]:
    """Work out sorted runs of all samples, and reads of slices of them."""
    groups = list(group_sources(sources, settings.memory))
    num_runs = sum(count_runs(sources[a:b], settings.memory) for a, b in groups)
    row_bytes = load.num_samples * ROW_BYTES
    steps = [
        Step(
            "map",
            len(groups),
            load.num_bytes,
            load.num_bytes + row_bytes,
            load.reads(load.num_bytes, load.num_inputs),
            load.writes(4 * num_runs, LOCAL_RUN_BYTES),
        )
    ]
    for level, num_merged in enumerate(merge_levels(num_runs, settings.memory)):
        slices = num_runs * max(1, load.num_bytes // num_runs // SLICE_BYTES)
        steps.append(
            Step(
                f"merge{level}",
                num_merged,
                load.num_bytes + row_bytes,
                load.num_bytes + row_bytes,
                slices + 2 * num_runs,
                load.writes(4 * num_merged, LOCAL_RUN_BYTES),
            )
        )
        num_runs = num_merged
    return [
        *steps,
        *_sort_steps(load, settings, num_runs),
        _write_step(load, load.windows(num_runs) * num_runs),
    ]


def _sort_steps(load: Load, settings: Settings, num_tables: int) -> list[Step]:
    """Sorting rows and cutting shards, after the tables have been written."""
    row_bytes = load.num_samples * ROW_BYTES
    num_parts = count_parts(load.num_samples, load.memory)
    slices = num_tables * num_parts
    reads = num_tables * 2
    if num_parts > 1:
        reads = slices * (5 if settings.order.by_text else 3)
    steps = [Step("sort", num_parts, row_bytes, row_bytes // 2, reads, 3 * num_parts)]
    if settings.limits.max_body_bytes is not None:
        read_bytes, written_bytes = load.num_samples * 8, load.num_shards * 8
        steps.append(Step("cut", 1, read_bytes, written_bytes, 2 * num_parts, 2))
    return steps


def _write_step(load: Load, num_reads: int) -> Step:
    return Step(
        "write",
        load.num_shards,
        load.num_bytes + load.num_samples * 20,
        load.num_bytes + load.num_samples * INDEX_BYTES,
        num_reads + 2 * load.num_shards,
        load.writes(4 * load.num_shards, LOCAL_WRITE_BYTES),
    )


def task_memory(memory: int) -> int:
    """What a worker takes at most, if a task may hold ``memory`` bytes of samples."""
    return BASE_BYTES + memory + memory // 2


def window_bytes(memory: int, num_containers: int = 0) -> int:
    """Bytes of samples that a task which writes an output shard holds at once.

    Args:
        memory: bytes that the task may hold.
        num_containers: shards or runs on local disk that it reads. Small slices
            of them cost little, and a small window stays in the processor's cache.
            0: they are in a store, where few requests are better.
    """
    most = max(1 << 20, memory // 2)
    if not num_containers:
        return most
    return min(most, max(8 << 20, num_containers * LOCAL_SLICE_BYTES))


def num_windows(
    num_bytes: int, num_shards: int, memory: int, num_containers: int = 0
) -> int:
    """How many windows all output shards take together; see `window_bytes`."""
    if not num_shards:
        return 0
    size = window_bytes(memory, num_containers)
    return num_shards * math.ceil(num_bytes / num_shards / size)


def count_parts(num_rows: int, memory: int, text_bytes: int = 0) -> int:
    """How many tasks share the sorting of so many rows, and of their texts."""
    needed = num_rows * ROWS_PER_BYTE_OF_MEMORY + 3 * text_bytes
    return max(1, math.ceil(needed / memory))


def fan_in(memory: int) -> int:
    """How many runs one task may read: each in slices that are worth a request."""
    return max(2, window_bytes(memory) // SLICE_BYTES)


def merge_levels(num_runs: int, memory: int) -> list[int]:
    """How many runs are left after each level of merging; none if few enough.

    >>> merge_levels(64, 128 << 20), merge_levels(1000, 128 << 20)
    ([], [16])
    """
    levels = []
    while num_runs > fan_in(memory):
        num_runs = math.ceil(num_runs / fan_in(memory))
        levels.append(num_runs)
    return levels


def group_sources(sources: Sequence[Source], memory: int) -> Iterator[tuple[int, int]]:
    """Which inputs a map task reads: neighbours that fill one run together.

    A small data set is divided all the same, so that several workers share it.

    Yields:
        (first input, one past the last) of each task.

    >>> from shardbuild.build.plan import Source
    >>> inputs = [Source(n, f"{n}.tar", 60, "") for n in range(100)]
    >>> len(list(group_sources(inputs, 1000))), len(list(group_sources(inputs, 90)))
    (50, 100)
    """
    return _groups([source.num_bytes for source in sources], memory)


def group_scans(sources: Sequence[Source], memory: int) -> Iterator[tuple[int, int]]:
    """Which inputs a scan task looks at: neighbours whose rows are sorted together.

    Yields:
        (first input, one past the last) of each task.

    >>> from shardbuild.build.plan import Source
    >>> facts = {"num_samples": 10_000, "has_index": True}
    >>> inputs = [Source(n, f"{n}.tar", 1 << 30, "", **facts) for n in range(1000)]
    >>> len(list(group_scans(inputs, 16 << 20)))
    100
    """
    costs = [
        ROWS_PER_BYTE_OF_MEMORY * (source.num_samples or 0)
        if source.has_index
        else source.num_bytes
        for source in sources
    ]
    return _groups(costs, memory)


def _groups(costs: Sequence[int], memory: int) -> Iterator[tuple[int, int]]:
    """Divide inputs: those of unknown cost, which is 0, are alone."""
    most = min(memory, max(1, sum(costs) // MIN_TASKS))
    start, held = 0, 0
    for stop, cost in enumerate(costs):
        if stop > start and (cost == 0 or held + cost > most):
            yield start, stop
            start, held = stop, 0
        held += cost
    if start < len(costs):
        yield start, len(costs)


def count_runs(sources: Sequence[Source], memory: int) -> int:
    """How many runs a map task of these inputs is expected to write."""
    return max(1, math.ceil(sum(source.num_bytes for source in sources) / memory))

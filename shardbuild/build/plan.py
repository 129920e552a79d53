"""What a run will do, as arithmetic on the inputs' sizes: no I/O happens here."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from shardbuild.build.report import format_bytes
from shardbuild.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shardbuild.build.settings import Settings

ResolvedMethod = Literal["stream", "gather", "spill"]

ROW_BYTES = 52
"""What the sort knows of one sample, in bytes."""
ROWS_PER_BYTE_OF_MEMORY = 3 * ROW_BYTES
"""Sorting rows takes their bytes three times."""
SLICE_BYTES = 1 << 20
"""A run is read in slices of at least this, else runs are merged first."""
LOCAL_SLICE_BYTES = 128 << 10
"""As much is enough for a slice of a run on local disk."""
READ_BYTES = 4 << 20
"""One request of a sequential read or write."""
BASE_BYTES = 150 << 20
"""What a worker takes before it reads anything: Python, numpy, Dask, fsspec."""
INDEX_BYTES = 48
"""An index takes about this much for each sample."""
MIN_TASKS = 48
"""A data set is divided among so many map tasks, if it has so many inputs."""
LOCAL_REQUEST_BYTES = 4 << 10
REMOTE_REQUEST_BYTES = 256 << 10
"""A request costs as much time as moving so many bytes."""


@dataclass(frozen=True, slots=True)
class Source:
    """One input: a shard, a slice of a folder, or a partition of a bag."""

    number: int
    url: str
    num_bytes: int
    """Size on storage; 0 when nothing says it before it is read."""
    fingerprint: str
    """Changes when the input does."""
    kind: Literal["shard", "folder", "partition"] = "shard"
    num_samples: int | None = None
    has_index: bool = False
    is_compressed: bool = False
    first: int = 0
    """The first sample that is meant: not 0 in a piece of a large shard."""
    last: int | None = None
    """One past the last sample; None: all that there are."""
    problem: str = ""
    """Why it cannot be read; the error policy decides what this means."""


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
class Plan:
    """What a run will do: made before anything is written, and compared on resume."""

    pattern: str
    sources: tuple[Source, ...]
    method: ResolvedMethod
    why: str
    """Why this method."""
    num_samples: int
    """In the input; the first input's mean size stands for what is not known."""
    is_exact: bool
    """Whether the number of samples is known, not estimated."""
    input_bytes: int
    num_shards: int
    shards_are_exact: bool
    """Whether the number of shards is known, not estimated."""
    steps: tuple[Step, ...]
    memory_bytes: int
    """What one task takes at most, with its worker."""
    temporary_bytes: int
    """Intermediate shards on storage, gone after success."""

    @property
    def read_bytes(self) -> int:
        return sum(step.read_bytes for step in self.steps)

    @property
    def written_bytes(self) -> int:
        return sum(step.written_bytes for step in self.steps)

    @property
    def read_requests(self) -> int:
        return sum(step.read_requests for step in self.steps)

    @property
    def write_requests(self) -> int:
        return sum(step.write_requests for step in self.steps)

    @property
    def num_tasks(self) -> int:
        return sum(step.num_tasks for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON has it, totals included."""
        totals = ("read_bytes", "written_bytes", "read_requests", "write_requests")
        return {
            **asdict(self),
            **{name: getattr(self, name) for name in totals},
            "num_tasks": self.num_tasks,
        }

    def to_bytes(self) -> bytes:
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False).encode()

    def summary(self) -> str:
        """The plan as a few lines for people."""
        about = "" if self.is_exact else "about "
        about_shards = "" if self.shards_are_exact else "about "
        lines = [
            (
                f"{self.pattern}: {about}{self.num_samples:,} samples, "
                f"{format_bytes(self.input_bytes)} in {len(self.sources):,} inputs "
                f"-> {about_shards}{self.num_shards:,} shards"
            ),
            f"  method {self.method}: {self.why}",
            (
                f"  memory {format_bytes(self.memory_bytes)} a task, "
                f"temporary storage {format_bytes(self.temporary_bytes)}"
            ),
            _row("step", "tasks", "read", "written", "gets", "puts"),
        ]
        for step in self.steps:
            sizes = format_bytes(step.read_bytes), format_bytes(step.written_bytes)
            counts = f"{step.read_requests:,}", f"{step.write_requests:,}"
            lines.append(_row(step.name, f"{step.num_tasks:,}", *sizes, *counts))
        bad = [source for source in self.sources if source.problem]
        lines += [f"  cannot read {source.url}: {source.problem}" for source in bad]
        return "\n".join(lines)


def _row(name: str, *cells: str) -> str:
    return f"  {name:8}" + "".join(f" {cell:>12}" for cell in cells)


@dataclass(frozen=True, slots=True)
class _Size:
    """The numbers that the arithmetic of the steps needs."""

    num_inputs: int
    num_samples: int
    num_bytes: int
    num_shards: int
    memory: int


def plan_build(
    settings: Settings,
    sources: Sequence[Source],
    *,
    is_remote: bool = False,
    sample_bytes: float | None = None,
) -> Plan:
    """Decide the method, and work out what each step reads, writes and asks for.

    Args:
        settings: the options of the call.
        sources: the inputs.
        is_remote: whether the inputs are in a store where a request costs time.
        sample_bytes: mean bytes of a sample, for inputs that do not say how many
            samples they hold.

    Raises:
        PlanError: the method that was asked for cannot be used.
    """
    num_bytes = sum(source.num_bytes for source in sources)
    known = [s for s in sources if s.num_samples is not None]
    num_samples = sum(s.num_samples or 0 for s in known)
    is_exact = len(known) == len(sources)
    if not is_exact:
        rest = num_bytes - sum(s.num_bytes for s in known)
        num_samples += math.ceil(rest / (sample_bytes or 100_000))
    request_bytes = REMOTE_REQUEST_BYTES if is_remote else LOCAL_REQUEST_BYTES
    method, why = _choose_method(
        settings, sources, num_samples, num_bytes, request_bytes
    )
    num_shards = _count_shards(settings, sources, method, num_samples, num_bytes)
    by_count = settings.limits.max_body_bytes is None
    size = _Size(len(sources), num_samples, num_bytes, num_shards, settings.memory)
    steps = _STEPS[method](size, settings, sources)
    return Plan(
        pattern=settings.pattern,
        sources=tuple(sources),
        method=method,
        why=why,
        num_samples=num_samples,
        is_exact=is_exact,
        input_bytes=num_bytes,
        num_shards=num_shards,
        shards_are_exact=settings.transform is None
        and (method == "stream" or (is_exact and by_count)),
        steps=tuple(steps),
        memory_bytes=task_memory(settings.memory),
        temporary_bytes=num_bytes if method == "spill" else 0,
    )


def task_memory(memory: int) -> int:
    """What a worker takes at most, if a task may hold ``memory`` bytes of samples."""
    return BASE_BYTES + memory + memory // 2


def _choose_method(
    settings: Settings,
    sources: Sequence[Source],
    num_samples: int,
    num_bytes: int,
    request_bytes: int,
) -> tuple[ResolvedMethod, str]:
    obstacle = _gather_obstacle(settings, sources)
    if settings.method == "gather" and obstacle:
        raise PlanError("method gather", f"{obstacle}: use spill or auto")
    if settings.method in ("gather", "spill"):
        return settings.method, "as asked for"
    folders = any(source.kind == "folder" for source in sources)
    if settings.order.kind == "keep" and not settings.is_sized and not folders:
        return "stream", "neither the order nor the shards change"
    if settings.method == "stream":
        raise PlanError("method stream", "a folder has no shards: use auto")
    if obstacle:
        return "spill", obstacle
    slices = (2 * num_bytes / settings.memory) ** 2
    most = slices + 2 * num_bytes / request_bytes
    rule = (
        f"(2 x {format_bytes(num_bytes)} / {format_bytes(settings.memory)})^2 + "
        f"2 x {format_bytes(num_bytes)} / {format_bytes(request_bytes)} = {most:,.0f}"
    )
    if num_samples <= most:
        return "gather", f"{num_samples:,} samples <= {rule}"
    return "spill", f"{num_samples:,} samples > {rule}"


def _gather_obstacle(settings: Settings, sources: Sequence[Source]) -> str:
    if settings.transform is not None:
        return "a job changes the samples"
    for source in sources:
        if source.is_compressed:
            return f"{source.url} is compressed"
        if source.kind == "partition":
            return "a bag has no shards to gather from"
        if "::" in source.url or source.url.startswith("pipe:") or source.url == "-":
            return f"{source.url} cannot be read at an offset"
    return ""


def _count_shards(
    settings: Settings,
    sources: Sequence[Source],
    method: ResolvedMethod,
    num_samples: int,
    num_bytes: int,
) -> int:
    if method == "stream":
        return len(sources)
    limits = settings.limits
    by_count = by_bytes = 0
    if limits.max_samples is not None:
        by_count = math.ceil(num_samples / limits.max_samples)
    if limits.max_body_bytes is not None:
        by_bytes = math.ceil(num_bytes / limits.max_body_bytes)
    return max(by_count, by_bytes)


def _requests(num_bytes: int, num_files: int) -> int:
    return num_bytes // READ_BYTES + num_files


def _stream_steps(
    size: _Size, _settings: Settings, _sources: Sequence[Source]
) -> list[Step]:
    return [
        Step(
            "stream",
            size.num_inputs,
            size.num_bytes,
            size.num_bytes,
            _requests(size.num_bytes, 2 * size.num_inputs),
            _requests(size.num_bytes, 3 * size.num_inputs),
        )
    ]


def _sort_steps(size: _Size, settings: Settings, num_tables: int) -> list[Step]:
    """Sorting rows and cutting shards, after the tables have been written."""
    row_bytes = size.num_samples * ROW_BYTES
    num_parts = count_parts(size.num_samples, size.memory)
    slices = num_tables * num_parts
    reads = num_tables * 2
    if num_parts > 1:
        reads = slices * (5 if settings.order.by_text else 3)
    steps = [Step("sort", num_parts, row_bytes, row_bytes // 2, reads, 3 * num_parts)]
    if settings.limits.max_body_bytes is not None:
        read_bytes, written_bytes = size.num_samples * 8, size.num_shards * 8
        steps.append(Step("cut", 1, read_bytes, written_bytes, num_parts, 2))
    return steps


def _gather_steps(
    size: _Size, settings: Settings, sources: Sequence[Source]
) -> list[Step]:
    indexed = sum(source.has_index for source in sources)
    bare = [s for s in sources if not s.has_index]
    if settings.order.kind == "sort" and settings.order.field != "__key__":
        scan_bytes = size.num_bytes
        scan_requests = _requests(size.num_bytes, 2 * size.num_inputs)
    else:
        share = indexed / max(1, size.num_inputs)
        scan_bytes = int(size.num_samples * INDEX_BYTES * share)
        bare_bytes = sum(s.num_bytes for s in bare if s.kind == "shard")
        scan_bytes += bare_bytes
        scan_requests = indexed + _requests(bare_bytes, 2 * len(bare))
    row_bytes = size.num_samples * ROW_BYTES
    return [
        Step(
            "scan",
            size.num_inputs,
            scan_bytes,
            row_bytes,
            scan_requests,
            2 * size.num_inputs,
        ),
        *_sort_steps(size, settings, size.num_inputs),
        _write_step(size, size.num_samples),
    ]


def _write_step(size: _Size, num_reads: int) -> Step:
    return Step(
        "write",
        size.num_shards,
        size.num_bytes + size.num_samples * 20,
        size.num_bytes + size.num_samples * INDEX_BYTES,
        num_reads + size.num_shards,
        _requests(size.num_bytes, 4 * size.num_shards),
    )


def _spill_steps(
    size: _Size, settings: Settings, sources: Sequence[Source]
) -> list[Step]:
    groups = list(group_sources(sources, settings.memory))
    num_runs = sum(count_runs(sources[a:b], settings.memory) for a, b in groups)
    row_bytes = size.num_samples * ROW_BYTES
    steps = [
        Step(
            "map",
            len(groups),
            size.num_bytes,
            size.num_bytes + row_bytes,
            _requests(size.num_bytes, 2 * size.num_inputs),
            _requests(size.num_bytes, 4 * num_runs),
        )
    ]
    for level, num_merged in enumerate(merge_levels(num_runs, settings.memory)):
        slices = num_runs * max(1, size.num_bytes // num_runs // SLICE_BYTES)
        steps.append(
            Step(
                f"merge{level}",
                num_merged,
                size.num_bytes + row_bytes,
                size.num_bytes + row_bytes,
                slices + 2 * num_runs,
                _requests(size.num_bytes, 4 * num_merged),
            )
        )
        num_runs = num_merged
    windows = num_windows(size.num_bytes, size.num_shards, settings.memory)
    return [
        *steps,
        *_sort_steps(size, settings, num_runs),
        _write_step(size, windows * num_runs),
    ]


_STEPS = {"stream": _stream_steps, "gather": _gather_steps, "spill": _spill_steps}


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


def num_windows(num_bytes: int, num_shards: int, memory: int) -> int:
    """How many windows all output shards take together."""
    if not num_shards:
        return 0
    return num_shards * math.ceil(num_bytes / num_shards / window_bytes(memory))


def count_parts(num_rows: int, memory: int) -> int:
    """How many tasks share the sorting of so many rows."""
    return max(1, math.ceil(num_rows * ROWS_PER_BYTE_OF_MEMORY / memory))


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

    >>> inputs = [Source(n, f"{n}.tar", 60, "") for n in range(100)]
    >>> len(list(group_sources(inputs, 1000))), len(list(group_sources(inputs, 90)))
    (50, 100)
    """
    total = sum(source.num_bytes for source in sources)
    most = min(memory, max(1, total // MIN_TASKS))
    start, held = 0, 0
    for stop, source in enumerate(sources):
        alone = source.num_bytes == 0
        if stop > start and (alone or held + source.num_bytes > most):
            yield start, stop
            start, held = stop, 0
        held += source.num_bytes
    if start < len(sources):
        yield start, len(sources)


def count_runs(sources: Sequence[Source], memory: int) -> int:
    """How many runs a map task of these inputs is expected to write."""
    return max(1, math.ceil(sum(source.num_bytes for source in sources) / memory))


def check_fits(
    plan: Plan,
    *,
    num_workers: int,
    worker_limit: int | None,
    available_memory: int | None,
    free_bytes: int | None,
) -> None:
    """Refuse a plan that does not fit where it is to run.

    Args:
        plan: the plan.
        num_workers: how many tasks run at once.
        worker_limit: bytes of memory that one worker may use, if limited.
        available_memory: bytes of memory that all workers share, if they do.
        free_bytes: bytes that are free at the destination, if it says.

    Raises:
        PlanError: it does not fit; the message names the option that mends it.
    """
    need = plan.memory_bytes
    if worker_limit is not None and need > worker_limit:
        raise PlanError(
            plan.pattern,
            f"a task takes {format_bytes(need)}, a worker may use "
            f"{format_bytes(worker_limit)}: use {_memory_remedy(worker_limit)}",
        )
    if available_memory is not None and num_workers * need > available_memory:
        each = available_memory // num_workers
        raise PlanError(
            plan.pattern,
            f"{num_workers} tasks take {format_bytes(need)} each, "
            f"{format_bytes(available_memory)} are available: use fewer --workers, or "
            f"{_memory_remedy(each)}",
        )
    wanted = plan.input_bytes + plan.temporary_bytes
    if free_bytes is not None and wanted > free_bytes:
        remedy = "free some, or write elsewhere"
        if plan.temporary_bytes and plan.input_bytes <= free_bytes:
            remedy += ", or use --method gather if no job changes the samples"
        raise PlanError(
            plan.pattern,
            f"needs {format_bytes(wanted)} of storage ({format_bytes(plan.input_bytes)}"
            f" of shards, {format_bytes(plan.temporary_bytes)} temporary), "
            f"{format_bytes(free_bytes)} are free: {remedy}",
        )


def _memory_remedy(limit: int) -> str:
    fitting = (limit - BASE_BYTES) * 2 // 3
    if fitting < 1 << 20:
        return f"workers with more than {format_bytes(BASE_BYTES)}"
    return f"--memory {fitting >> 20}MiB"

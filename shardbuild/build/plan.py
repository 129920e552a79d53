"""What a run will do, as arithmetic on the inputs' sizes: no I/O happens here."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from shardbuild.build.report import format_bytes
from shardbuild.build.steps import (
    BASE_BYTES,
    Load,
    Step,
    gather_steps,
    spill_steps,
    stream_steps,
    task_memory,
)
from shardbuild.errors import PlanError
from shardbuild.storage.urlparts import is_remote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardbuild.build.settings import Settings

ResolvedMethod = Literal["stream", "gather", "spill"]

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


def plan_build(
    settings: Settings,
    sources: Sequence[Source],
    *,
    from_store: bool = False,
    sample_bytes: float | None = None,
) -> Plan:
    """Decide the method, and work out what each step reads, writes and asks for.

    Args:
        settings: the options of the call.
        sources: the inputs.
        from_store: whether the inputs are in a store where a request costs time.
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
    request_bytes = REMOTE_REQUEST_BYTES if from_store else LOCAL_REQUEST_BYTES
    method, why = _choose_method(
        settings, sources, num_samples, num_bytes, request_bytes
    )
    num_shards = _count_shards(settings, sources, method, num_samples, num_bytes)
    by_count = settings.limits.max_body_bytes is None
    load = Load(
        len(sources),
        num_samples,
        num_bytes,
        num_shards,
        settings.memory,
        from_store=from_store,
        to_store=is_remote(settings.pattern),
    )
    steps = _STEPS[method](load, settings, sources)
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


_STEPS = {"stream": stream_steps, "gather": gather_steps, "spill": spill_steps}


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

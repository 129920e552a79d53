"""The main job: read a data set, transform, reorder, write, account for all of it."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.build.destination import Destination, make_identity
from shardbuild.build.execute import choose_scheduler, open_runner
from shardbuild.build.ordering import choose_splitters, count_cuts
from shardbuild.build.phases import FirstPass, Phases
from shardbuild.build.plan import Plan, check_fits, plan_build
from shardbuild.build.result import publish
from shardbuild.build.settings import read_settings
from shardbuild.build.sources import (
    find_sources,
    probe_sample_bytes,
    split_source,
    write_listings,
)
from shardbuild.build.state import level_name, write_source_urls
from shardbuild.build.steps import (
    count_parts,
    fan_in,
    group_scans,
    group_sources,
    merge_levels,
)
from shardbuild.build.tasks import (
    CutItem,
    MergeItem,
    ReadItem,
    SortItem,
    WriteItem,
    cut_task,
    load_cuts,
    map_task,
    merge_task,
    scan_task,
    sort_task,
    stream_task,
    unpack_key,
    write_task,
)
from shardbuild.errors import PlanError
from shardbuild.storage import free_bytes, is_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Unpack

    from shardbuild.build.execute import Runner
    from shardbuild.build.plan import Source
    from shardbuild.build.report import Report
    from shardbuild.build.settings import BuildOptions, Settings
    from shardbuild.build.state import Record


def convert(
    src: str | Sequence[str],
    dst: str,
    transform: Callable[[Any], Any] | None = None,
    **options: Unpack[BuildOptions],
) -> Report:
    """Read a data set, transform its samples, reorder them, and write shards.

    The same call gives the same bytes on every scheduler and any number of
    workers. Given again after it was stopped, it goes on where it was.

    Args:
        src: shards (urls, braces, globs, lists), a manifest, or a folder of files:
            those that share folder and base name are one sample.
        dst: pattern of the output shards, such as ``"out/train-%06d.tar"``; its
            manifest is ``out/train.json``.
        transform: a function of a sample that returns a sample, None to drop it, or
            a list of samples. Fields are bytes; values that are not bytes are
            encoded by extension.
        options: see `BuildOptions`.

    Raises:
        PlanError: the options do not go together, or the plan does not fit.
        DestinationError: the place holds something else.
        StorageError, ShardError, SampleError: the input is bad, and
            ``errors="raise"``.

    >>> import shardbuild as sb, tempfile
    >>> out = tempfile.mkdtemp()
    >>> with sb.ShardWriter(f"{out}/a-%06d.tar", maxcount=2) as writer:
    ...     for i in range(4):
    ...         _ = writer.write({"__key__": f"{i}", "cls": i})
    >>> report = convert(f"{out}/a.json", f"{out}/b-%06d.tar", order="shuffle", seed=7)
    >>> report.num_read, report.num_written, report.num_shards
    (4, 4, 1)
    """
    settings = read_settings(dst, transform, options)
    return run_build(settings, _plan(settings, src), options)


def run_build(
    settings: Settings,
    plan: Plan,
    options: BuildOptions,
    first_pass: FirstPass | None = None,
) -> Report:
    """Run a plan, or go on with it, and publish its result.

    Args:
        settings: the options of the call, checked.
        plan: what to do.
        options: the options of the call: where tasks run, and who hears of it.
        first_pass: runs the tasks that read the input, if a runner cannot do it.
    """
    scheduler = choose_scheduler(options.get("scheduler"), options.get("workers"))
    destination = Destination(settings, make_identity(settings, plan))
    finished = destination.find_report()
    if finished is not None:
        return finished
    phases = Phases(settings, plan, options.get("progress"), first_pass)
    with open_runner(scheduler) as runner:
        build = Build(settings, plan, phases, runner)
        build.check_fits()
        destination.start()
        destination.sweep()
        build.run()
    report = publish(build, destination)
    destination.finish()
    return report


def make_plan(
    src: str | Sequence[str],
    dst: str,
    transform: Callable[[Any], Any] | None = None,
    **options: Unpack[BuildOptions],
) -> Plan:
    """What `convert` with the same arguments would do; nothing is written.

    Raises:
        PlanError: the options do not go together.
        StorageError: an input is missing, and ``errors="raise"``.
    """
    return _plan(read_settings(dst, transform, options), src)


def _plan(settings: Settings, src: str | Sequence[str]) -> Plan:
    sources = find_sources(settings, src)
    sample_bytes = None
    if any(source.num_samples is None for source in sources):
        sample_bytes = probe_sample_bytes(settings, sources)
    remote = any(is_remote(source.url) for source in sources)
    return plan_build(settings, sources, from_store=remote, sample_bytes=sample_bytes)


class Build:
    """One run of a plan: which phases it has, and what each is given."""

    def __init__(
        self, settings: Settings, plan: Plan, phases: Phases, runner: Runner
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.phases = phases
        self.first: list[Record] = []
        """Records of the pass that reads the input."""
        self.shards: list[Record] = []
        """Records of the tasks that wrote output shards."""
        self.started = time.perf_counter()
        self._runner = runner

    def check_fits(self) -> None:
        """Refuse a plan that does not fit where it is to run."""
        if self.phases.is_resumed:
            return
        is_local = self._runner.memory_limit is None
        is_known = self.settings.transform is None
        check_fits(
            self.plan,
            num_workers=self._runner.num_workers,
            worker_limit=self._runner.memory_limit,
            available_memory=_available_memory() if is_local else None,
            free_bytes=free_bytes(self.settings.folder or ".") if is_known else None,
        )

    def _phase(
        self, name: str, task: Callable[[Settings, Any], Record], items: Sequence[Any]
    ) -> list[Record]:
        return self.phases.run(self._runner, name, task, items)

    def run(self) -> None:
        """Run all phases that the method has."""
        sources = self.plan.sources
        write_listings(self.settings, sources)
        if self.plan.method == "stream":
            self.first = self.shards = self._phase("stream", stream_task, sources)
        elif self.plan.method == "gather":
            containers = write_source_urls(self.settings, sources)
            self.first = self._phase(
                "scan",
                scan_task,
                _read_items(sources, group_scans(sources, self.settings.memory)),
            )
            self._write("scan", self.first, containers)
        else:
            self.first = self._map()
            level, tables = self._merge(self.first)
            self._write(level, tables, level)

    def _map(self) -> list[Record]:
        """Put the input through the job, into sorted runs."""
        settings = self.settings
        whole = self.plan.sources
        sources = [piece for one in whole for piece in split_source(settings, one)]
        items = _read_items(sources, group_sources(sources, settings.memory))
        return self._phase("map", map_task, items)

    def _merge(self, tables: list[Record]) -> tuple[str, list[Record]]:
        """Merge runs until they are few; the last level, and records of its tables."""
        level = -1
        counts = [record["num_runs"] for record in tables]
        while merge_levels(sum(counts), self.settings.memory) and len(counts) > 1:
            level += 1
            groups = _group_runs(counts, self.settings.memory)
            items = [MergeItem(level, n, a, b) for n, (a, b) in enumerate(groups)]
            tables = self._phase(level_name(level), merge_task, items)
            counts = [1] * len(items)
        return level_name(level), tables

    def _write(self, level: str, tables: list[Record], containers: str) -> None:
        """Sort the rows of all tables, cut the order into shards, write these."""
        parts = self._phase("sort", sort_task, self._sort_items(level, tables))
        num_rows = [record["num_rows"] for record in parts]
        slices = slice_parts(num_rows, self._cuts(parts))
        items = [WriteItem(n, containers, one) for n, one in enumerate(slices)]
        self.shards = self._phase("write", write_task, items)

    def _sort_items(self, level: str, tables: list[Record]) -> list[SortItem]:
        num_rows = sum(record["num_rows"] for record in tables)
        text_bytes = sum(record["text_bytes"] for record in tables)
        num_parts = count_parts(num_rows, self.settings.memory, text_bytes)
        sample = [
            (unpack_key(key), weight)
            for record in tables
            for key, weight in record["sample"]
        ]
        edges = [None, *choose_splitters(sample, num_parts), None]
        return [
            SortItem(number, level, len(tables), start, stop)
            for number, (start, stop) in enumerate(pairwise(edges))
        ]

    def _cuts(self, parts: list[Record]) -> Sequence[int]:
        limits = self.settings.limits
        num_rows = [record["num_rows"] for record in parts]
        total = sum(num_rows)
        if limits.max_body_bytes is None:
            most = limits.max_samples or 1
            return [int(c) for c in count_cuts(total, most)] if total else [0]
        largest = max((record["largest"] for record in parts), default=0)
        if largest > limits.max_body_bytes:
            problem = (
                f"a sample takes {largest} bytes, more than the {limits.max_body_bytes}"
                f" that a shard of maxsize has room for: raise --maxsize"
            )
            raise PlanError(self.settings.pattern, problem)
        self._phase("cut", cut_task, [CutItem(0, tuple(num_rows))])
        return [int(cut) for cut in load_cuts(self.settings)]


def _read_items(
    sources: Sequence[Source], groups: Iterable[tuple[int, int]]
) -> list[ReadItem]:
    return [ReadItem(n, tuple(sources[a:b])) for n, (a, b) in enumerate(groups)]


def slice_parts(
    num_rows: Sequence[int], cuts: Sequence[int]
) -> list[tuple[tuple[int, int, int], ...]]:
    """Which rows of which parts make each output shard.

    Args:
        num_rows: rows of each part.
        cuts: rank of the first sample of each shard, and the number of samples.

    >>> slice_parts([3, 4], [0, 2, 5, 7])
    [((0, 0, 2),), ((0, 2, 3), (1, 0, 2)), ((1, 2, 4),)]
    """
    shards = []
    part, before = 0, 0
    for first, last in pairwise(cuts):
        slices = []
        rank = first
        while rank < last:
            while rank >= before + num_rows[part]:
                before += num_rows[part]
                part += 1
            stop = min(last, before + num_rows[part])
            slices.append((part, rank - before, stop - before))
            rank = stop
        shards.append(tuple(slices))
    return shards


def _group_runs(counts: Sequence[int], memory: int) -> list[tuple[int, int]]:
    """Which tables a merge task takes together: as many runs as it may read."""
    groups = []
    start, held = 0, 0
    for stop, count in enumerate(counts):
        if stop > start + 1 and held + count > fan_in(memory):
            groups.append((start, stop))
            start, held = stop, 0
        held += count
    groups.append((start, len(counts)))
    return groups


def _available_memory() -> int | None:
    """Bytes that the processes of this machine may still take, if it says."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    facts = dict(line.split(":", 1) for line in lines)
    available = facts.get("MemAvailable")
    return None if available is None else int(available.split()[0]) * 1024

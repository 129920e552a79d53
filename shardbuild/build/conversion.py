"""The main job: read a data set, transform, reorder, write, account for all of it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from shardbuild.build.destination import Destination, make_identity
from shardbuild.build.execute import choose_scheduler, open_runner
from shardbuild.build.ordering import choose_splitters, count_cuts
from shardbuild.build.plan import (
    Plan,
    check_fits,
    count_parts,
    fan_in,
    group_sources,
    merge_levels,
    plan_build,
)
from shardbuild.build.quarantine import quarantine_url
from shardbuild.build.report import (
    PhaseReport,
    Report,
    Tally,
    add_tallies,
    check_conservation,
)
from shardbuild.build.settings import Progress, read_settings
from shardbuild.build.sieve import budget_error
from shardbuild.build.sources import (
    find_labels,
    find_sources,
    probe_sample_bytes,
    split_source,
    write_listings,
)
from shardbuild.build.tasks import (
    MapItem,
    MergeItem,
    SortItem,
    WriteItem,
    commit_url,
    cut_task,
    level_name,
    load_cuts,
    map_task,
    merge_task,
    scan_task,
    sort_task,
    stream_task,
    unpack_key,
    write_source_urls,
    write_task,
)
from shardbuild.errors import PlanError
from shardbuild.shards.manifest import ShardFacts, make_manifest, save_manifest
from shardbuild.storage import (
    free_bytes,
    is_remote,
    list_names,
    read_bytes,
    write_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Unpack

    from shardbuild.build.execute import Runner
    from shardbuild.build.plan import Source
    from shardbuild.build.settings import BuildOptions, Settings

Record = dict[str, Any]


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


FirstPass = Callable[
    ["Runner", Callable[..., Record], Sequence[Any], Callable[[Record], None]], None
]
"""Runs the tasks that read the input: (runner, task, items, what to do when done)."""


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
    build = Build(settings, plan, options.get("progress"), first_pass)
    with open_runner(scheduler) as runner:
        build.check_fits(runner)
        destination.start()
        destination.sweep()
        build.run(runner)
    report = build.publish(destination)
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
    return plan_build(settings, sources, is_remote=remote, sample_bytes=sample_bytes)


class Build:
    """One run of a plan: its phases, one after the other, and what came of them."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        progress: Callable[[Progress], None] | None = None,
        first_pass: FirstPass | None = None,
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.phases: list[PhaseReport] = []
        self.first: list[Record] = []
        """Records of the pass that reads the input."""
        self.shards: list[Record] = []
        """Records of the tasks that wrote output shards."""
        self._accounts: list[Record] = []
        """Records of all tasks that read or wrote samples."""
        self._progress = progress
        self._first_pass = first_pass
        self._started = time.perf_counter()
        self._committed: set[str] | None = None

    # --- running ----------------------------------------------------------

    def check_fits(self, runner: Runner) -> None:
        """Refuse a plan that does not fit where it is to run."""
        if self._find_committed():
            return
        local = runner.memory_limit is None
        free = None
        if self.settings.transform is None:
            free = free_bytes(self.settings.folder or ".")
        check_fits(
            self.plan,
            num_workers=runner.num_workers,
            worker_limit=runner.memory_limit,
            available_memory=_available_memory() if local else None,
            free_bytes=free,
        )

    def run(self, runner: Runner) -> None:
        """Run all phases that the method has."""
        write_listings(self.settings, self.plan.sources)
        if self.plan.method == "stream":
            self._stream(runner)
            return
        if self.plan.method == "gather":
            containers = write_source_urls(self.settings, self.plan.sources)
            self.first = self._phase(
                runner, "scan", scan_task, self.plan.sources, _source_number
            )
            tables, num_tables = "scan", len(self.plan.sources)
        else:
            tables, num_tables = self._spill(runner)
            containers = tables
        self._write(runner, tables, num_tables, containers)

    def _stream(self, runner: Runner) -> None:
        records = self._phase(
            runner, "stream", stream_task, self.plan.sources, _source_number
        )
        self.first = records
        self.shards = records

    def _spill(self, runner: Runner) -> tuple[str, int]:
        """Map the input to sorted runs, and merge these until they are few."""
        settings = self.settings
        whole = self.plan.sources
        sources = [piece for one in whole for piece in split_source(settings, one)]
        groups = enumerate(group_sources(sources, settings.memory))
        items = [MapItem(n, tuple(sources[a:b])) for n, (a, b) in groups]
        self.first = self._phase(runner, "map", map_task, items, _item_number)
        return self._merge(runner, self.first)

    def _merge(self, runner: Runner, records: list[Record]) -> tuple[str, int]:
        level = -1
        counts = [record["num_runs"] for record in records]
        while merge_levels(sum(counts), self.settings.memory) and len(counts) > 1:
            level += 1
            groups = _group_runs(counts, self.settings.memory)
            items = [MergeItem(level, n, a, b) for n, (a, b) in enumerate(groups)]
            self._phase(runner, level_name(level), merge_task, items, _item_number)
            counts = [1] * len(items)
        return level_name(level), len(counts)

    def _write(
        self, runner: Runner, tables: str, num_tables: int, containers: str
    ) -> None:
        """Sort the rows of all tables, cut the order into shards, write these."""
        last = self._last_records if tables != level_name(-1) else self.first
        items = self._sort_items(tables, num_tables, last)
        parts = self._phase(runner, "sort", sort_task, items, _item_number)
        num_rows = [record["num_rows"] for record in parts]
        slices = slice_parts(num_rows, self._cuts(runner, parts))
        writes = [WriteItem(n, containers, one) for n, one in enumerate(slices)]
        self.shards = self._phase(runner, "write", write_task, writes, _item_number)

    def _sort_items(
        self, tables: str, num_tables: int, records: list[Record]
    ) -> list[SortItem]:
        num_rows = sum(record["num_rows"] for record in records)
        num_parts = count_parts(num_rows, self.settings.memory)
        sample = [
            (unpack_key(key), weight)
            for record in records
            for key, weight in record["sample"]
        ]
        edges = [None, *choose_splitters(sample, num_parts), None]
        return [
            SortItem(number, tables, num_tables, start, stop)
            for number, (start, stop) in enumerate(pairwise(edges))
        ]

    def _cuts(self, runner: Runner, parts: list[Record]) -> Sequence[int]:
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
        self._phase(runner, "cut", cut_task, [num_rows], _no_number)
        return [int(cut) for cut in load_cuts(self.settings)]

    # --- one phase --------------------------------------------------------

    def _phase(
        self,
        runner: Runner,
        name: str,
        task: Callable[[Settings, Any], Record],
        items: Sequence[Any],
        number_of: Callable[[Any], int | None],
    ) -> list[Record]:
        """Run the tasks of a phase that no earlier run has finished.

        Returns:
            Their records, in the order of the items.
        """
        records: dict[str, Record] = {}
        num_bytes = self._step_bytes(name)
        is_first = not self.phases
        tally = self._sum_tallies()

        def account(record: Record) -> None:
            nonlocal tally
            records[record["task"]] = record
            if "tally" in record:
                tally += Tally.from_json(record["tally"])
            self._check_budget(tally)
            if self._progress is not None:
                done = sum(r["read_bytes"] for r in records.values())
                samples = sum(r.get("num_rows", 0) for r in records.values())
                self._progress(
                    Progress(
                        name,
                        len(items),
                        len(records),
                        max(num_bytes, done),
                        done,
                        samples or tally.num_written,
                        tally.num_errors,
                    )
                )

        names = [_task_name(name, number_of(item)) for item in items]
        committed = self._find_committed()
        missing = []
        for item, one in zip(items, names, strict=True):
            if one in committed:
                account(self._load_record(one))
            else:
                missing.append(item)
        num_resumed = len(items) - len(missing)
        if missing:
            run = self._first_pass if is_first and self._first_pass else _run
            run(runner, partial(task, self.settings), missing, account)
        ordered = [records[one] for one in names]
        self.phases.append(_phase_report(name, ordered, num_resumed))
        self._last_records = ordered
        self._accounts += [record for record in ordered if "tally" in record]
        return ordered

    def _step_bytes(self, name: str) -> int:
        return sum(step.read_bytes for step in self.plan.steps if step.name == name)

    def _find_committed(self) -> set[str]:
        if self._committed is None:
            names = list_names(
                self.settings.state_url("commits"),
                storage_options=self.settings.storage_options,
            )
            self._committed = {name.removesuffix(".json") for name in names}
        return self._committed

    def _load_record(self, name: str) -> Record:
        url = commit_url(self.settings, name)
        data = read_bytes(url, storage_options=self.settings.storage_options)
        record: Record = json.loads(data)
        return record

    def _check_budget(self, tally: Tally) -> None:
        most = self.settings.max_errors
        if most is not None and tally.num_errors > most:
            raise budget_error(most)

    # --- the result -------------------------------------------------------

    def publish(self, destination: Destination) -> Report:
        """Check that all is accounted for; write the report, and the manifest last."""
        settings = self.settings
        tally = self._tally()
        check_conservation(settings.manifest, tally)
        written = [record for record in self.shards if "shard" in record]
        shards = [
            ShardFacts(
                settings.shard_url(record["shard"]["number"]),
                record["shard"]["num_samples"],
                record["shard"]["num_bytes"],
                record["shard"]["sha256"],
            )
            for record in written
        ]
        report = Report(
            num_read=tally.num_read,
            num_made=tally.num_made,
            num_written=tally.num_written,
            num_dropped=tally.num_dropped,
            num_quarantined=tally.num_quarantined,
            reasons=tally.reasons,
            losses=tally.losses,
            num_shards=len(shards),
            num_bytes=sum(shard.num_bytes or 0 for shard in shards),
            seconds=time.perf_counter() - self._started,
            method=self.plan.method,
            order=str(settings.order),
            manifest=settings.manifest,
            quarantine=tuple(self._quarantine()),
            phases=tuple(self.phases),
            identity=destination.identity,
        )
        manifest = make_manifest(shards, settings.manifest, self._facts(tally, written))
        options = settings.storage_options
        write_bytes(settings.report, report.to_bytes(), storage_options=options)
        save_manifest(manifest, settings.manifest, storage_options=options)
        return report

    def _tally(self) -> Tally:
        """Counts of the whole run: what the writers lost was not written."""
        total = self._sum_tallies()
        if self.plan.method == "stream":
            return total
        written = sum(r["tally"]["num_written"] for r in self.shards)
        return Tally(
            total.num_read,
            total.num_made,
            written,
            total.num_dropped,
            total.num_quarantined,
            total.reasons,
            total.losses,
        )

    def _sum_tallies(self) -> Tally:
        return add_tallies(Tally.from_json(r["tally"]) for r in self._accounts)

    def _quarantine(self) -> Iterator[str]:
        for record in self._accounts:
            for name in record.get("quarantine", ()):
                yield quarantine_url(self.settings, name)

    def _facts(self, tally: Tally, written: list[Record]) -> dict[str, Any]:
        """What the manifest says of the data: nothing that time or place decides."""
        fields: Counter[str] = Counter()
        for record in written:
            fields.update(record["fields"])
        inputs: dict[int, list[int]] = {}
        for record in self.first:
            for number, num_read, keys_sum in record["sources"]:
                found = inputs.setdefault(number, [number, 0, 0])
                found[1] += num_read
                found[2] = (found[2] + keys_sum) % (1 << 64)
        listed = json.dumps(sorted(inputs.values())).encode()
        digest = hashlib.sha256(listed).hexdigest()
        labels = {}
        folders = {s.url for s in self.plan.sources if s.kind == "folder"}
        if self.settings.label_from:
            found = [find_labels(self.settings, url) or [] for url in sorted(folders)]
            labels = {"classes": found[0] if len(found) == 1 else found}
        return {
            **self.settings.describe(),
            **labels,
            "counts": {
                "num_read": tally.num_read,
                "num_made": tally.num_made,
                "num_written": tally.num_written,
                "num_dropped": tally.num_dropped,
                "num_quarantined": tally.num_quarantined,
            },
            "fields": dict(sorted(fields.items())),
            "inputs": {"num_inputs": len(inputs), "keys_sha256": digest},
        }


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


def _run(
    runner: Runner,
    task: Callable[..., Record],
    items: Sequence[Any],
    on_done: Callable[[Record], None],
) -> None:
    runner.run(task, items, on_done)


def _phase_report(name: str, records: list[Record], num_resumed: int) -> PhaseReport:
    seconds = [record["seconds"] for record in records]
    return PhaseReport(
        name=name,
        num_tasks=len(records),
        num_resumed=num_resumed,
        seconds=sum(seconds),
        slowest_task_seconds=max(seconds, default=0.0),
        read_bytes=sum(record["read_bytes"] for record in records),
        written_bytes=sum(record["written_bytes"] for record in records),
        read_requests=sum(record["read_requests"] for record in records),
        write_requests=sum(record["write_requests"] for record in records),
    )


def _task_name(phase: str, number: int | None) -> str:
    return phase if number is None else f"{phase}-{number:06d}"


def _source_number(source: Source) -> int:
    return source.number


def _item_number(item: Any) -> int:
    return int(item.number)


def _no_number(_item: Any) -> None:
    return None


def _available_memory() -> int | None:
    """Bytes that the processes of this machine may still take."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None

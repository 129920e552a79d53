"""The phases of a run: tasks that can run at the same time, and what they report."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from shardbuild.build.report import PhaseReport, Tally, add_tallies
from shardbuild.build.settings import Progress
from shardbuild.build.sieve import budget_error
from shardbuild.build.state import commit_url
from shardbuild.storage import (
    is_remote,
    list_names,
    map_parallel,
    read_bytes,
    remove,
    split_url,
)

if TYPE_CHECKING:
    from shardbuild.build.execute import Runner
    from shardbuild.build.plan import Plan
    from shardbuild.build.settings import Settings
    from shardbuild.build.state import Record

FirstPass = Callable[
    ["Runner", Callable[..., Any], Sequence[Any], Callable[[Any], None]], None
]
"""Runs the tasks that read the input: (runner, task, items, what to do when done)."""


class Phases:
    """Runs the phases of a build, one after the other, and keeps account of them.

    A task that an earlier run has finished is not run again: its record is read.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        progress: Callable[[Progress], None] | None = None,
        first_pass: FirstPass | None = None,
    ) -> None:
        self.settings = settings
        self.reports: list[PhaseReport] = []
        self.accounts: list[Record] = []
        """Records of all tasks that read or wrote samples."""
        self._plan = plan
        self._progress = progress
        self._first_pass = first_pass
        names = list_names(
            settings.state_url("commits"), storage_options=settings.storage_options
        )
        self._committed = {name.removesuffix(".json") for name in names}

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier run has finished some task."""
        return bool(self._committed)

    def run(
        self,
        runner: Runner,
        name: str,
        task: Callable[[Settings, Any], Record],
        items: Sequence[Any],
    ) -> list[Record]:
        """Run the tasks of a phase that no earlier run has finished.

        Returns:
            Their records, in the order of the items.
        """
        ledger = _Ledger(self, name, len(items))
        names = [f"{name}-{item.number:06d}" for item in items]
        done = [one for one in names if one in self._committed]
        each = map_parallel if is_remote(self.settings.state) else map
        for record in filter(None, each(self._load_record, done)):
            ledger.account(record)
        pairs = zip(items, names, strict=True)
        missing = [item for item, one in pairs if one not in ledger.records]
        if missing:
            run = self._first_pass if self._first_pass and not self.reports else _run
            run(runner, partial(task, self.settings), missing, ledger.account)
        records = [ledger.records[one] for one in names]
        num_resumed = len(items) - len(missing)
        self.reports.append(_phase_report(name, records, num_resumed))
        self.accounts += [record for record in records if "tally" in record]
        return records

    def _load_record(self, name: str) -> Record | None:
        """The record of a finished task; None if its shard has gone since."""
        options = self.settings.storage_options
        url = commit_url(self.settings, name)
        record: Record = json.loads(read_bytes(url, storage_options=options))
        if "shard" in record:
            shard = self.settings.shard_url(record["shard"]["number"])
            if split_url(shard)[1] not in self._shards:
                remove(url, storage_options=options)
                return None
        return record

    @functools.cached_property
    def _shards(self) -> set[str]:
        """Names of the files that are there already."""
        options = self.settings.storage_options
        return set(list_names(self.settings.folder, storage_options=options))

    def tally(self) -> Tally:
        """What became of all samples in the phases that have run."""
        return add_tallies(Tally.from_json(r["tally"]) for r in self.accounts)

    def tell(self, progress: Progress) -> None:
        """Let the caller know how far a phase is."""
        if self._progress is not None:
            self._progress(progress)

    def step_bytes(self, name: str) -> int:
        """How many bytes the plan says that a phase reads."""
        return sum(step.read_bytes for step in self._plan.steps if step.name == name)


class _Ledger:
    """What the tasks of one running phase have reported."""

    def __init__(self, phases: Phases, name: str, num_tasks: int) -> None:
        self.records: dict[str, Record] = {}
        self._phases = phases
        self._name = name
        self._num_tasks = num_tasks
        self._num_bytes = phases.step_bytes(name)
        self._bytes_done = self._num_samples = 0
        self._tally = phases.tally()

    def account(self, record: Record) -> None:
        """Note that a task is done; too many errors end the run."""
        self.records[record["task"]] = record
        self._bytes_done += record["read_bytes"]
        self._num_samples += record.get("num_rows", 0)
        if "tally" in record:
            self._tally += Tally.from_json(record["tally"])
        most = self._phases.settings.max_errors
        if most is not None and self._tally.num_errors > most:
            raise budget_error(most)
        self._phases.tell(
            Progress(
                phase=self._name,
                num_tasks=self._num_tasks,
                tasks_done=len(self.records),
                num_bytes=max(self._num_bytes, self._bytes_done),
                bytes_done=self._bytes_done,
                num_samples=self._num_samples or self._tally.num_written,
                num_errors=self._tally.num_errors,
            )
        )


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

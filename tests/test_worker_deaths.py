"""Workers that are killed at any moment cost time, and nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import shardbuild as sb
from shardbuild.build.jobs import load_job
from shardbuild.build.pool import PoolProcess
from tests.building import assert_conserved, digests, is_clean, make_shards
from tests.clusters import BusyCluster, local_cluster
from tests.commands import make_job, running_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from shardbuild.build.report import Report

NUM_KILLS = 50
MOST_KILLS_IN_A_PHASE = 13
SHUFFLED: dict[str, Any] = {"order": "shuffle", "maxcount": 8, "memory": 1 << 20}


def tag(sample: sb.Sample) -> Any:
    """A job: it drops, makes and changes samples."""
    number = int(sample["__key__"].rpartition("/")[2])
    if number % 11 == 0:
        return None
    if number % 11 == 2:
        return [sample, {**sample, "__key__": sample["__key__"] + "-again"}]
    return {**sample, "txt": f"{number}"}


def label(sample: sb.Sample) -> sb.Sample:
    """What a bag is mapped with: one sample for each."""
    return {**sample, "txt": sample["__key__"]}


def stream(source: str, pattern: str, **options: Any) -> Report:
    return sb.convert(source, pattern, tag, **options)


def gather(source: str, pattern: str, **options: Any) -> Report:
    return sb.convert(source, pattern, method="gather", **SHUFFLED, **options)


def spill(source: str, pattern: str, **options: Any) -> Report:
    return sb.convert(source, pattern, tag, **SHUFFLED, **options)


def bag(source: str, pattern: str, **options: Any) -> Report:
    samples = sb.read_shards(source).map(label)
    return sb.write_shards(samples, pattern, **SHUFFLED, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("in"), 640, 8)


@pytest.fixture(scope="module")
def cluster() -> Iterator[BusyCluster]:
    with local_cluster(preload=__name__) as started:
        yield started


class Killer:
    """Kills workers of one run at random moments, each after some progress."""

    def __init__(
        self, rng: random.Random, out: Path, find_workers: Callable[[], list[int]]
    ) -> None:
        self.kills: Counter[str] = Counter()
        """How many, by the phase that the run was in."""
        self.committed: dict[str, tuple[int, int]] = {}
        """The shards that were there before some worker died."""
        self._rng = rng
        self._out = out
        self._find_workers = find_workers
        self._phase = ""
        self._progress = threading.Event()
        self._is_over = threading.Event()

    def progress(self, progress: Any) -> None:
        self._phase = progress.phase
        self._progress.set()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self._kill_some)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            self._progress.set()
            thread.join()

    def _kill_some(self) -> None:
        while True:
            self._progress.wait()
            self._progress.clear()
            phase = self._phase
            if self._is_over.wait(self._rng.uniform(0, 0.3)):
                break
            if self.kills[phase] < MOST_KILLS_IN_A_PHASE:
                self.committed |= committed_shards(self._out)
                self.kills[phase] += self._kill_one()

    def _kill_one(self) -> bool:
        pids = self._find_workers()
        try:
            os.kill(self._rng.choice(pids), signal.SIGKILL)
        except (IndexError, ProcessLookupError):
            return False
        return True


def committed_shards(out: Path) -> dict[str, tuple[int, int]]:
    """Shards that a task has committed: which file each is, and when it was written."""
    found = {}
    for commit in (out / ".s.build" / "commits").glob("*.json"):
        kind, _, number = commit.stem.rpartition("-")
        shard = out / f"s-{number}.tar"
        if kind in ("stream", "write"):
            with contextlib.suppress(FileNotFoundError):
                stat = shard.stat()
                found[shard.name] = (stat.st_ino, stat.st_mtime_ns)
    return found


def check(report: Report, out: Path, killer: Killer, expected: dict[str, str]) -> None:
    assert_conserved(report)
    assert digests(out) == expected
    assert is_clean(out, "s")
    for name, written in killer.committed.items():
        stat = (out / name).stat()
        assert (stat.st_ino, stat.st_mtime_ns) == written


@pytest.mark.parametrize("method", [stream, gather, spill, bag])
class TestOnACluster:
    def test_the_run_ends_in_the_same_bytes(
        self, method: Any, source: str, cluster: BusyCluster, tmp_path: Path
    ) -> None:
        method(source, f"{tmp_path}/expected/s-%06d.tar", scheduler="sync")
        expected = digests(tmp_path / "expected")
        rng = random.Random(method.__name__)
        kills: Counter[str] = Counter()
        num_committed = 0
        while kills.total() < NUM_KILLS:
            out = tmp_path / f"after {kills.total()} kills"
            killer = Killer(rng, out, cluster.busy_workers)
            with killer.at_work():
                report = method(
                    source,
                    f"{out}/s-%06d.tar",
                    scheduler=cluster.client,
                    progress=killer.progress,
                )
            check(report, out, killer, expected)
            kills += killer.kills
            num_committed += len(killer.committed)
        assert num_committed
        assert len(kills) >= (1 if method is stream else 2)


class TestOnTheProcessesScheduler:
    def test_the_run_ends_in_the_same_bytes(self, source: str, tmp_path: Path) -> None:
        spill(source, f"{tmp_path}/expected/s-%06d.tar", scheduler="sync")
        expected = digests(tmp_path / "expected")
        rng = random.Random(2)
        num_kills = 0
        while num_kills < 10:
            out = tmp_path / f"after {num_kills} kills"
            killer = Killer(rng, out, pool_workers)
            with killer.at_work():
                report = spill(
                    source,
                    f"{out}/s-%06d.tar",
                    scheduler="processes",
                    workers=2,
                    progress=killer.progress,
                )
            check(report, out, killer, expected)
            num_kills += killer.kills.total()
        assert pool_workers() == []


def pool_workers() -> list[int]:
    """The processes of the processes scheduler."""
    children = multiprocessing.active_children()
    return [c.pid for c in children if c.pid and isinstance(c, PoolProcess)]


class TestWholeProcessGroup:
    """``--workers 2``: the command, its cluster's workers, and all they started."""

    def test_killed_and_run_again_ends_in_the_same_bytes(self, tmp_path: Path) -> None:
        source = make_shards(tmp_path / "in", 240, 8)
        job = make_job(tmp_path / "job")
        out = tmp_path / "out"
        pattern = f"{out}/s-%06d.tar"
        arguments = ["convert", source, pattern, "--job", str(job), "--workers", "2"]
        rng = random.Random(3)
        for num_commits in (0, 0, 1, 8, 20):
            before = committed_shards(out)
            (job.parent / "loaded").unlink(missing_ok=True)
            with running_command(*arguments) as command:
                command.wait_for(job.parent / "loaded")
                command.wait_for(out / ".s.build" / "commits" / "*.json", num_commits)
                command.wait(rng.uniform(0, 1 if num_commits == 0 else 0.2))
                command.signal(signal.SIGKILL)
                assert command.finish()[0] == -signal.SIGKILL
                assert command.wait_until_gone()
            assert before.items() <= committed_shards(out).items()
        before = committed_shards(out)
        assert before
        (job.parent / "slow").unlink()
        with running_command(*arguments) as command:
            status, _, err = command.finish()
            assert (status, err) == (0, "")
            assert command.wait_until_gone()
        sb.convert(source, f"{tmp_path}/expected/s-%06d.tar", load_job(str(job)))
        expected = digests(tmp_path / "expected")
        assert digests(out) == expected
        assert is_clean(out, "s")
        for name, (inode, _) in before.items():
            assert (out / name).stat().st_ino == inode

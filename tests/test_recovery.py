"""Killed at any moment, the same command goes on, and ends in the same bytes."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

import shardbuild as sb
from tests.building import assert_conserved, digests, make_shards

NUM_KILLS = 50
METHODS = {
    "stream": {},
    "gather": {"order": "shuffle", "maxcount": 12, "method": "gather"},
    "spill": {"order": "shuffle", "maxcount": 12, "memory": 1 << 20},
}


def tag(sample: sb.Sample) -> Any:
    """A job: it drops, makes and changes samples, and fails for some."""
    number = int(sample["__key__"].rpartition("/")[2])
    if number % 11 == 0:
        return None
    if number % 11 == 1:
        raise ValueError(f"no {number}")
    if number % 11 == 2:
        return [sample, {**sample, "__key__": sample["__key__"] + "-again"}]
    return {**sample, "txt": f"{number}"}


def options_of(method: str) -> dict[str, Any]:
    options: dict[str, Any] = {**METHODS[method]}
    if method != "gather":
        options |= {"transform": tag, "errors": "quarantine"}
    return options


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("in"), 400, 25, max_bytes=20_000)


@pytest.fixture(scope="module", params=list(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def expected(
    method: str, source: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What the run gives when nothing goes wrong."""
    out = tmp_path_factory.mktemp("expected")
    sb.convert(source, f"{out}/s-%06d.tar", scheduler="sync", **options_of(method))
    return without_traces(digests(out))


def without_traces(found: dict[str, str]) -> dict[str, str]:
    """Without the quarantines, whose tracebacks name lines of this very code."""
    return {name: d for name, d in found.items() if "quarantine" not in name}


def committed_shards(out: Path) -> dict[str, int]:
    """Shards that a task, or the manifest, has committed, with the inode of each."""
    if (out / "s.json").exists():  # a run killed after this may be removing its state
        shards = list(out.glob("s-*.tar"))
    else:
        commits = out / ".s.build" / "commits"
        names = [path.stem for path in commits.glob("*.json")]
        numbers = [
            n.split("-")[1] for n in names if n.startswith(("write-", "stream-"))
        ]
        shards = [out / f"s-{number}.tar" for number in numbers]
    return {path.name: path.stat().st_ino for path in shards if path.exists()}


def check_resumed(out: Path, report: sb.Report, expected: dict[str, str]) -> None:
    assert without_traces(digests(out)) == expected
    assert_conserved(report)
    quarantine = {Path(url).name for url in report.quarantine}
    left = {path.name for path in out.iterdir()} - quarantine
    assert left == {*expected, "s.report.json"}


class TestKilledProcessGroup:
    """The process that runs everything, with all its children."""

    def test_goes_on_to_the_same_bytes(
        self, method: str, source: str, expected: dict[str, str], tmp_path: Path
    ) -> None:
        rng = random.Random(method)
        pattern = f"{tmp_path}/s-%06d.tar"
        seconds = self.time_of_run(source, tmp_path / "timed", method)
        num_interrupted = 0
        for _ in range(NUM_KILLS):
            before = committed_shards(tmp_path)
            if self.run_and_kill(source, pattern, method, rng.random() * seconds):
                num_interrupted += 1
            elif (tmp_path / "s.json").exists():
                check_finished(tmp_path, expected)
                clear(tmp_path)
                continue
            after = committed_shards(tmp_path)
            assert before.items() <= after.items()
            assert_nothing_final_is_partial(tmp_path)
        report = sb.convert(source, pattern, scheduler="sync", **options_of(method))
        check_resumed(tmp_path, report, expected)
        assert num_interrupted >= NUM_KILLS // 3

    def time_of_run(self, source: str, out: Path, method: str) -> float:
        start = time.perf_counter()
        pattern = f"{out}/s-%06d.tar"
        assert not self.run_and_kill(source, pattern, method, 600)
        seconds = time.perf_counter() - start
        clear(out)
        out.rmdir()
        return seconds

    def run_and_kill(
        self, source: str, pattern: str, method: str, seconds: float
    ) -> bool:
        """Run in a group of its own; True if it was killed after so many seconds."""
        child = os.fork()
        if child == 0:
            os.setsid()
            status = 1
            try:
                sb.convert(source, pattern, scheduler="sync", **options_of(method))
                status = 0
            except BaseException:  # noqa: BLE001 - nothing may leave this child
                traceback.print_exc()
            os._exit(status)
        with os.fdopen(os.pidfd_open(child)) as ended:
            if select.select([ended], [], [], seconds)[0]:
                _, status = os.waitpid(child, 0)
                assert status == 0
                return False
        os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)


def assert_nothing_final_is_partial(out: Path) -> None:
    """Whatever has a final name is a whole shard; a manifest means all is there."""
    for path in out.glob("s-*.tar"):
        assert list(sb.read_samples(str(path)))
    assert not (out / "s.json").exists() or is_clean_but_for_state(out)


def is_clean_but_for_state(out: Path) -> bool:
    manifest = sb.load_manifest(f"{out}/s.json")
    return all((out / shard.url).exists() for shard in manifest.shards)


def check_finished(out: Path, expected: dict[str, str]) -> None:
    assert without_traces(digests(out)) == expected


def clear(folder: Path) -> None:
    subprocess.run(["find", str(folder), "-mindepth", "1", "-delete"], check=True)

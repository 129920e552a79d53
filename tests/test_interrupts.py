"""Ctrl-C ends the command soon and quietly, and nothing of it stays behind."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

import pytest

from shardbuild.cli.main import main
from tests.building import digests, is_clean, make_shards
from tests.commands import make_job, running_command

if TYPE_CHECKING:
    from pathlib import Path

NUM_SHARDS = 40
WORKERS = ["--workers", "2"]
SCHEDULERS = {
    "sync": ["--scheduler", "sync"],
    "threads": ["--scheduler", "threads", *WORKERS],
    "processes": ["--scheduler", "processes", *WORKERS],
    "cluster": WORKERS,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("in"), 5 * NUM_SHARDS, 5)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_job(tmp_path_factory.mktemp("job") / "slow")


@pytest.fixture(scope="module")
def expected(
    source: str, job: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    out = tmp_path_factory.mktemp("expected")
    (job.parent / "slow").unlink()
    assert run(source, out, job) == 0
    (job.parent / "slow").touch()
    return digests(out)


def run(source: str, out: Path, job: Path, *options: str) -> int:
    """The command in this process, and on the sync scheduler."""
    arguments = [source, f"{out}/s-%06d.tar", "--job", str(job), *options]
    return main(["convert", *arguments, "--scheduler", "sync"])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
class TestAtWork:
    def test_ends_with_130_and_can_be_gone_on_with(
        self,
        scheduler: str,
        source: str,
        job: Path,
        expected: dict[str, str],
        tmp_path: Path,
    ) -> None:
        commits = tmp_path / ".s.build" / "commits"
        with running_command(
            "convert",
            source,
            f"{tmp_path}/s-%06d.tar",
            "--job",
            job,
            *SCHEDULERS[scheduler],
        ) as command:
            command.wait_for(commits / "*.json", 3)
            before = len(list(commits.iterdir()))
            command.signal(signal.SIGINT)
            status, _, err = command.finish()
            assert command.wait_until_gone()
        assert (status, err) == (130, "shardbuild: interrupted\n")
        after = len(list(commits.iterdir()))
        assert before <= after <= before + 8 < NUM_SHARDS
        (job.parent / "slow").unlink()
        assert run(source, tmp_path, job) == 0
        (job.parent / "slow").touch()
        assert digests(tmp_path) == expected
        assert is_clean(tmp_path, "s")


@pytest.mark.parametrize(
    ("scheduler", "seed"),
    [
        ("processes", 0),
        ("processes", 1),
        ("cluster", 0),
        ("cluster", 1),
        ("cluster", 2),
    ],
)
class TestWhileWorkersStart:
    def test_ends_with_130_and_no_word_of_theirs(
        self, scheduler: str, seed: int, source: str, job: Path, tmp_path: Path
    ) -> None:
        (job.parent / "loaded").unlink(missing_ok=True)
        with running_command(
            "convert",
            source,
            f"{tmp_path}/s-%06d.tar",
            "--job",
            job,
            *SCHEDULERS[scheduler],
        ) as command:
            command.wait_for(job.parent / "loaded")
            command.wait(random.Random(seed).uniform(0, 3))
            command.signal(signal.SIGINT)
            status, _, err = command.finish()
            assert command.wait_until_gone()
        assert (status, err) == (130, "shardbuild: interrupted\n")
        assert not (tmp_path / "s.json").exists()


@pytest.mark.parametrize("scheduler", ["processes", "cluster"])
def test_workers_go_when_the_command_alone_is_killed(
    scheduler: str, source: str, job: Path, tmp_path: Path
) -> None:
    with running_command(
        "convert",
        source,
        f"{tmp_path}/s-%06d.tar",
        "--job",
        job,
        *SCHEDULERS[scheduler],
    ) as command:
        command.wait_for(tmp_path / ".s.build" / "commits" / "*.json", 2)
        assert len(command.members()) >= 3
        command.process.kill()
        assert command.wait_until_gone()

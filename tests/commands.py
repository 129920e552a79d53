"""The command in a session of its own: interrupted, killed, and looked after."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
JOB = '''\
"""A job that says when it is loaded, and takes its time while `slow` exists."""
from __future__ import annotations

import threading
from pathlib import Path

HERE = Path(__file__).parent
(HERE / "loaded").touch()


def transform(sample):
    """Wait, and mark the sample."""
    if (HERE / "slow").exists():
        threading.Event().wait(0.02)
    return {**sample, "txt": b"seen"}
'''


def make_job(folder: Path) -> Path:
    """Write a slow job; delete ``slow`` beside it, and it is fast."""
    folder.mkdir()
    (folder / "slow").touch()
    path = folder / "job.py"
    path.write_text(JOB)
    return path


@dataclass(frozen=True)
class Command:
    """A command that runs in a process group of its own."""

    process: subprocess.Popen[str]

    @property
    def group(self) -> int:
        return self.process.pid

    def wait_for(self, path: Path, num_files: int = 1) -> None:
        """Wait until so many files match (``folder/*``), or the command ends."""
        while len(list(path.parent.glob(path.name))) < num_files:
            if self.wait(0.01):
                break

    def wait(self, seconds: float) -> bool:
        """Wait so long; whether the command has ended by then."""
        return has_ended(self.process.pid, seconds)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the group."""
        os.killpg(self.group, number)

    def finish(self) -> tuple[int, str, str]:
        """Wait for the end; exit status, stdout, stderr."""
        out, err = self.process.communicate()
        return self.process.returncode, out, err

    def members(self) -> list[int]:
        """The processes of the group that live."""
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, _, group = status.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.group and state != "Z":
                    found.append(int(status.parent.name))
        return found

    def wait_until_gone(self) -> bool:
        """Wait until all processes of the group have ended; False if one stays."""
        while members := self.members():
            if not all(has_ended(pid, 30) for pid in members):
                return False
        return True


@contextlib.contextmanager
def running_command(*arguments: str | Path) -> Iterator[Command]:
    """Start ``shardbuild`` with these arguments; whatever is left is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "shardbuild", *map(str, arguments)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    command = Command(process)
    try:
        with process:
            yield command
    finally:
        with contextlib.suppress(ProcessLookupError):
            command.signal(signal.SIGKILL)


def has_ended(pid: int, seconds: float) -> bool:
    """Wait so long for a process to end; whether it has."""
    try:
        number = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with os.fdopen(number) as ended:
        return bool(select.select([ended], [], [], seconds)[0])

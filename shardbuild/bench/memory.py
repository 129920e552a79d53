"""How much memory of its own a process and its children use."""

from __future__ import annotations

import subprocess
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from shardbuild.errors import ShardbuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run_watched", "unshared_bytes"]

INTERVAL_SECONDS = 0.02


def _anonymous_bytes(pid: int) -> int:
    """Tell what a process holds that is no file's page; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text("ascii").split())
    except OSError:  # it has just ended
        return found
    return found


def unshared_bytes(pid: int) -> int:
    """Add up the anonymous memory of a process and all that it started.

    >>> import os
    >>> unshared_bytes(os.getpid()) > 1 << 20
    True
    """
    return _anonymous_bytes(pid) + sum(map(unshared_bytes, _children(pid)))


def run_watched(command: Sequence[str]) -> int | None:
    """Run a command to its end and return the peak of its unshared memory, in bytes.

    None where the system does not tell (it does on Linux).

    Raises:
        ShardbuildError: the command failed.
    """
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak, done = 0, Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(INTERVAL_SECONDS):
            peak = max(peak, unshared_bytes(child.pid))

    watcher = Thread(target=watch)
    watcher.start()
    try:
        _, said = child.communicate()
    finally:
        done.set()
        watcher.join()
    if child.returncode:
        raise ShardbuildError(command[0], f"failed: {said.decode()[-2000:]}")
    return peak or None

"""Runs of `convert` in processes of their own, to be killed.

A script that imports what a run needs once, and forks a child for each line of
JSON that it reads, which saves most of a run's time. It has no threads when it
forks. It tells each child's id when it starts and its status when it ends, and
ends with its input.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).parent.parent


class Runs:
    """Starts runs, one after the other, each the leader of a group of processes."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        )
        self._child = 0

    def start(self, src: str, dst: str, **options: Any) -> None:
        """Start a run of `convert`."""
        assert self._process.stdin is not None
        line = json.dumps({"src": src, "dst": dst, "options": options})
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        self._child = int(self._read_line())

    def is_done(self, seconds: float) -> bool:
        """Wait so long for the run's end; whether it came. It must be a good one."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return False
        assert self._read_line() == "0"
        return True

    def kill(self) -> bool:
        """Kill the run with all its processes; False if it had just ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child, signal.SIGKILL)
        status = self._read_line()
        assert status in ("0", str(-signal.SIGKILL))
        return status != "0"

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        assert line, "the process that runs runs has ended"
        return line.strip()

    def __enter__(self) -> Runs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


def run(src: str, dst: str, options: dict[str, Any]) -> None:
    import shardbuild as sb

    sb.convert(src, dst, **options)


def main() -> None:
    """Serve runs until the input ends."""
    import dask.threaded  # noqa: F401 - imported once, for all children
    import gcsfs  # noqa: F401
    import s3fs  # noqa: F401

    import shardbuild.build.bags
    import shardbuild.build.conversion  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                run(**json.loads(line))
                status = 0
            except BaseException:  # noqa: BLE001 - nothing may leave this child
                traceback.print_exc()
            os._exit(status)
        os.setpgid(child, child)
        say(child)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def say(number: int) -> None:
    os.write(1, f"{number}\n".encode())


if __name__ == "__main__":
    main()

"""Contestants in processes of their own, as their users have them.

What one contestant imports, and what the C library learns from the memory that it
frees, is of no help to another one there.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from shardbuild.bench.timing import Lap, time_lap
from shardbuild.errors import ShardbuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardbuild.bench.timing import Role
    from shardbuild.bench.workloads import Scene

__all__ = ["Soloist", "main"]


class Soloist:
    """A process that prepares one contestant of a workload, and runs it when asked."""

    def __init__(self, workload: str, role: Role, number: int, scene: Scene) -> None:
        self._name = workload
        self._is_running = False
        sizes = (scene.num_samples, scene.num_photos, scene.num_workers, scene.seed)
        place = [workload, role, number, str(scene.folder), *sizes]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def lap(self) -> Lap:
        """Let it run once.

        Raises:
            ShardbuildError: it failed.
        """
        self._is_running = True
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: see below
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            problem = f"a process of it ended with status {self._process.wait()}"
            raise ShardbuildError(self._name, problem)
        self._is_running = False
        found = json.loads(answer)
        if isinstance(found, str):
            raise ShardbuildError(self._name, found)
        return Lap(*found)

    def close(self) -> None:
        """End it, whatever it is doing."""
        with self._process as process:
            if self._is_running:
                process.kill()


def main(argv: Sequence[str]) -> None:
    """Prepare the contestant that ``argv`` describes; run it for each line of input."""
    from shardbuild.bench.catalog import WORKLOADS
    from shardbuild.bench.workloads import Scene

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this ends it
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)  # what others print is no answer
        name, role, number, folder, *sizes = json.loads(argv[0])
        workload, scene = WORKLOADS[name], Scene(Path(folder), *sizes)
        with scene.resources:
            case = workload.prepare(scene)
            contestant = workload.contestants(role, case)[number]
            gc.collect()
            gc.freeze()  # what was made for the bench is not looked through each time
            for _ in sys.stdin.buffer:
                try:
                    answer = json.dumps(time_lap(contestant.run))
                except ShardbuildError as error:
                    answer = json.dumps(str(error))
                print(answer, file=answers)


if __name__ == "__main__":
    main(sys.argv[1:])

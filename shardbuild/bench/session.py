"""Running workloads, one after the other."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shardbuild.bench.alone import Soloist
from shardbuild.bench.peers import versions
from shardbuild.bench.targets import Verdict, judge
from shardbuild.bench.timing import Contestant, Role, Timing, measure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardbuild.bench.workloads import Scene, Workload

__all__ = [
    "Machine",
    "Result",
    "describe_machine",
    "kept_bytecode",
    "run_workload",
    "scratch_folder",
]

FULL_LAP_SECONDS = 2.0
"""How long each contestant runs in each round, at least, at the floors' sizes."""

_PACKAGES = (
    "numpy", "pillow", "isal", "zstandard", "dask", "fsspec", "s3fs",
    "webdataset", "wids", "torch", "litdata",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the figures come from."""

    python: str
    system: str
    num_cpus: int
    packages: dict[str, str]


@dataclass(frozen=True, slots=True)
class Result:
    """What one workload gave."""

    workload: str
    title: str
    unit: str
    num_samples: int
    num_bytes: int
    num_rounds: int
    is_full: bool
    """The sizes are at least those that the floors are about."""
    timings: tuple[Timing, ...]
    verdicts: tuple[Verdict, ...]


def describe_machine() -> Machine:
    """Tell what the figures depend on.

    >>> describe_machine().num_cpus >= 1
    True
    """
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        num_cpus=len(os.sched_getaffinity(0)),
        packages=versions(_PACKAGES),
    )


def run_workload(
    workload: Workload, scene: Scene, num_rounds: int, *, with_peers: bool
) -> Result:
    """Prepare a workload's data and let everybody do it, in turns.

    Raises:
        MissingExtraError: a peer, or a package the workload needs, is not installed.
        ShardbuildError: somebody did not do the work right.
    """
    try:
        case = workload.prepare(scene)
        if workload.is_alone:
            scene.save(workload.size)
        roles: list[Role] = ["baseline", "ours"]
        if with_peers:
            roles.append("peer")
        # All are asked for first: one that lacks a package starts no processes.
        groups = [(role, workload.contestants(role, case)) for role in roles]
        contestants = [
            (role, _alone(workload, role, number, each, scene))
            for role, group in groups
            for number, each in enumerate(group)
        ]
        is_full = scene.num_of(workload.size) >= workload.full_size
        timings = measure(
            contestants,
            num_rounds,
            warm_up=workload.warm_up,
            least_seconds=FULL_LAP_SECONDS if is_full else 0,
        )
    finally:
        scene.resources.close()
    return Result(
        workload.name,
        workload.title,
        workload.unit,
        case.num_samples,
        case.num_bytes,
        num_rounds,
        is_full,
        tuple(timings),
        tuple(judge(workload.name, timings)),
    )


def _alone(
    workload: Workload, role: Role, number: int, contestant: Contestant, scene: Scene
) -> Contestant:
    """Give the contestant that runs in a process of its own, if it has to."""
    if not workload.is_alone:
        return contestant
    soloist = Soloist(workload.name, role, number, scene)
    scene.resources.callback(soloist.close)
    return replace(contestant, run=soloist.lap)


_STARTED = (
    "import shardbuild.bench.catalog, shardbuild.build\n"
    "import dask.bag, distributed, PIL.JpegImagePlugin\n"
    "import shardbuild.shards.reader, shardbuild.shards.writer\n"
    "try:\n"
    "    import webdataset\n"
    "except ModuleNotFoundError:\n"
    "    pass\n"
)


@contextlib.contextmanager
def kept_bytecode(folder: Path) -> Iterator[None]:
    """Let processes that start here find compiled modules, as an installation does.

    Some environments keep no bytecode; there every new process compiles all that it
    imports, seconds that no user's workers need.

    >>> with tempfile.TemporaryDirectory() as folder, kept_bytecode(Path(folder)):
    ...     len(list(Path(folder).rglob("timing.*.pyc")))
    1
    """
    before = dict(os.environ)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        subprocess.run([sys.executable, "-c", _STARTED], check=True)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def scratch_folder(parent: str | None) -> tempfile.TemporaryDirectory[str]:
    """Make a folder that goes away, in memory where there is room for that."""
    shared_memory = Path("/dev/shm")  # a name that Linux gives everywhere
    if parent is None and os.access(shared_memory, os.W_OK):
        parent = str(shared_memory)
    return tempfile.TemporaryDirectory(prefix="shardbuild-bench-", dir=parent)

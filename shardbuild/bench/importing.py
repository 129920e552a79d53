"""Whole processes: start, import, read one shard, end."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from shardbuild.bench.peers import load_peer
from shardbuild.bench.timing import Contestant
from shardbuild.bench.workloads import Case, Workload, dialects_case
from shardbuild.errors import ShardbuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["WORKLOADS", "process"]

_BY_US = """
import sys
import shardbuild
from shardbuild.shards.reader import read_samples
count = sum(1 for sample in read_samples(sys.argv[1]))
assert count == int(sys.argv[2]), count
"""

_BY_WEBDATASET = """
import sys
import webdataset
count = sum(1 for sample in webdataset.WebDataset(sys.argv[1], shardshuffle=False))
assert count == int(sys.argv[2]), count
"""


# What a process held at most. Its parent's wait4 would count the parent's own memory,
# of which a child has a share until it becomes another program.
_PEAK = """
try:
    with open("/proc/self/status") as status:
        print(*(line.split()[1] for line in status if line.startswith("VmHWM:")))
except OSError:
    pass
"""


def process(name: str, code: str, *arguments: str) -> Contestant:
    """Make a contestant that runs Python code in a new process."""
    command = [sys.executable, "-c", code + _PEAK, *arguments]

    def run() -> int | None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ShardbuildError(name, f"failed: {done.stderr[-2000:]}")
        return int(done.stdout) * 1024 if done.stdout.strip() else None

    return Contestant(name, run)


def _reader(name: str, case: Case, code: str) -> Contestant:
    return process(name, code, case.urls[0], str(case.num_samples))


def _baseline(case: Case) -> Sequence[Contestant]:
    del case
    return [process("python", "pass"), process("import numpy", "import numpy")]


def _ours(case: Case) -> Sequence[Contestant]:
    return [
        _reader("shardbuild", case, _BY_US),
        process("import shardbuild", "import shardbuild"),
    ]


def _peers(case: Case) -> Sequence[Contestant]:
    load_peer("webdataset")
    return [
        _reader("webdataset", case, _BY_WEBDATASET),
        process("import webdataset", "import webdataset"),
    ]


WORKLOADS = [
    Workload(
        "import",
        "a process that imports the library and reads one shard of 3 KB samples",
        lambda scene: dialects_case(scene, "small", "ustar"),
        _baseline,
        _ours,
        "small",
        50_000,
        _peers,
        starts_python=True,
    )
]

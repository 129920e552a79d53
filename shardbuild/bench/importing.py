"""Whole processes: start, import, read one shard, end."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from shardbuild.bench.peers import load_peer
from shardbuild.bench.timing import Contestant
from shardbuild.bench.workloads import Case, Workload, dialects_case
from shardbuild.errors import ShardbuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["WORKLOADS"]

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


def _process(name: str, code: str, *arguments: str) -> Contestant:
    """Make a contestant that runs Python code in a new process."""

    def run() -> int:
        pid = os.posix_spawn(
            sys.executable, [sys.executable, "-c", code, *arguments], os.environ
        )
        _, status, usage = os.wait4(pid, 0)
        if status:
            problem = f"ended with status {os.waitstatus_to_exitcode(status)}"
            raise ShardbuildError(name, problem)
        return usage.ru_maxrss * 1024

    return Contestant(name, run)


def _baseline(case: Case) -> Sequence[Contestant]:
    del case
    return [
        _process("python", "pass"),
        _process("import numpy", "import numpy"),
    ]


def _ours(case: Case) -> Sequence[Contestant]:
    arguments = (case.urls[0], str(case.num_samples))
    return [
        _process("shardbuild", _BY_US, *arguments),
        _process("import shardbuild", "import shardbuild"),
    ]


def _peers(case: Case) -> Sequence[Contestant]:
    load_peer("webdataset")
    arguments = (case.urls[0], str(case.num_samples))
    return [
        _process("webdataset", _BY_WEBDATASET, *arguments),
        _process("import webdataset", "import webdataset"),
    ]


WORKLOADS = [
    Workload(
        "import",
        "a process that imports the library and reads one shard of 3 KB samples",
        lambda scene: dialects_case(scene, "small", "ustar"),
        _baseline,
        _ours,
        _peers,
    )
]

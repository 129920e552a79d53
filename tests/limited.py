"""Code that runs in a process of its own, with limits, and is measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_limited(code: str, *, cpu_seconds: int = 30) -> tuple[list[str], int]:
    """Run code in a process of its own; what it printed, and its peak memory."""
    head = f"import resource as r; r.setrlimit(r.RLIMIT_CPU, ({cpu_seconds},) * 2)"
    tail = "print(*(one for one in open('/proc/self/status') if 'VmHWM' in one))"
    done = subprocess.run(
        [sys.executable, "-c", f"{head}\n{code}\n{tail}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *printed, peak = done.stdout.split("\n")[:-2]
    return printed, int(peak.split()[1]) << 10

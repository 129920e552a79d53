"""Memory that was freed is used again, instead of being asked for page by page."""

from __future__ import annotations

import os
import subprocess
import sys

BATCHES = """
import resource
for number in range(40):
    batch = [bytes(bytearray(100_000)) for _ in range(64)]
    if number == 9:  # what is needed at all has been asked for
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del batch
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def num_faults(first_line: str) -> int:
    """Page faults that 30 batches of 64 samples of 100 KB cost a new process."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", first_line + BATCHES],
        capture_output=True,
        text=True,
        check=True,
        env=environ,
    )
    return int(done.stdout)


def test_whoever_imports_the_library_pays_no_page_faults_for_each_batch() -> None:
    alone = num_faults("")
    assert alone > 30 * 64  # glibc, as anybody finds it
    assert num_faults("import shardbuild.storage") < alone / 100

"""From a new process to the first batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardbuild.bench.feeding import feed_case, litdata_folder
from shardbuild.bench.importing import process
from shardbuild.bench.peers import load_peer
from shardbuild.bench.workloads import Case, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardbuild.bench.timing import Contestant

__all__ = ["WORKLOADS"]

_BATCH = 64

_BY_US = """
import sys
import shardbuild as sb
urls, batch, shuffle = sys.argv[1:-2], int(sys.argv[-2]), sys.argv[-1] == "shuffled"
feed = sb.Dataset(urls[0] if len(urls) == 1 else urls).feed(
    global_batch=batch, shuffle=shuffle, seed=7, rank=0, world=1, last="mask"
)
samples = next(iter(feed))
assert len(samples) == batch and all(len(sample) > 2 for sample in samples)
feed.close()
"""

_BY_WEBDATASET = """
import sys
from itertools import islice
import webdataset
urls, batch = sys.argv[1:-1], int(sys.argv[-1])
samples = list(islice(webdataset.WebDataset(urls, shardshuffle=False), batch))
assert samples
"""

_BY_LITDATA = """
import sys
from itertools import islice
import litdata
folder, batch = sys.argv[1], int(sys.argv[2])
samples = list(islice(litdata.StreamingDataset(folder, shuffle=True), batch))
assert samples
"""


def _baseline(case: Case) -> Sequence[Contestant]:
    del case
    return [process("import numpy", "import numpy"), process("python", "pass")]


def _ours(case: Case) -> Sequence[Contestant]:
    manifest = case.extra["manifest"]
    batch = str(_BATCH)
    return [
        process("shardbuild", _BY_US, manifest, batch, "shuffled"),
        process("shardbuild, forward", _BY_US, manifest, batch, "forward"),
        process("shardbuild, no manifest", _BY_US, *case.urls, batch, "shuffled"),
    ]


def _peers(case: Case) -> Sequence[Contestant]:
    load_peer("webdataset")
    batch = str(_BATCH)
    return [
        process("webdataset", _BY_WEBDATASET, *case.urls, batch),
        process("litData, shuffled", _BY_LITDATA, str(litdata_folder(case)), batch),
    ]


WORKLOADS = [
    Workload(
        "feed-start",
        "a new process, imports and all, to its first batch of 64 samples of 3 KB",
        lambda scene: feed_case(scene, "small"),
        _baseline,
        _ours,
        "small",
        100_000,
        _peers,
        starts_python=True,
    )
]

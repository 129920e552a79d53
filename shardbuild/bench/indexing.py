"""Reading samples by position, with an index."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import TYPE_CHECKING

from shardbuild.bench.peers import (
    load_peer,
    read_by_tarfile,
    read_by_webdataset,
    read_by_wids,
)
from shardbuild.bench.reading import reader, readinto
from shardbuild.bench.workloads import Case, Scene, Workload, dialects_case

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shardbuild.bench.timing import Contestant
    from shardbuild.shards.samples import Sample

__all__ = ["WORKLOADS"]


def _case(scene: Scene, size: str) -> Case:
    case = dialects_case(scene, size, "ustar")
    if not Path(f"{case.urls[0]}.npz").exists():
        from shardbuild.shards.index import save_index
        from shardbuild.shards.reader import scan_shard

        save_index(scan_shard(case.urls[0]), case.urls[0])
    order = list(range(case.num_samples))
    random.Random(scene.seed).shuffle(order)
    return Case(
        scene,
        case.urls,
        case.samples,
        case.num_samples,
        case.num_bytes,
        extra={"order": order},
    )


def _shuffled(case: Case) -> Case:
    """Make the same case with the truth in the order of the positions."""

    def truth() -> Iterator[Sample]:
        samples = list(case.samples())
        return (samples[position] for position in case.extra["order"])

    return Case(
        case.scene,
        case.urls,
        truth,
        case.num_samples,
        case.num_bytes,
    )


def _read_by_us(url: str, positions: Iterable[int]) -> Iterator[Sample]:
    from shardbuild.shards.index import load_index
    from shardbuild.shards.reader import read_indexed

    index = load_index(url)
    assert index is not None
    return read_indexed(url, index, positions)


def _baseline(case: Case) -> Sequence[Contestant]:
    return [readinto(case)]


def _ours(case: Case) -> Sequence[Contestant]:
    [url] = case.urls
    in_order = functools.partial(_read_by_us, url, range(case.num_samples))
    shuffled = functools.partial(_read_by_us, url, case.extra["order"])
    return [
        reader("shardbuild", case, in_order),
        reader("shardbuild, random order", _shuffled(case), shuffled),
    ]


def _peers(case: Case) -> Sequence[Contestant]:
    load_peer("webdataset")
    load_peer("wids")
    counts = [case.num_samples]
    wids = functools.partial(read_by_wids, case.urls, counts)
    shuffled = functools.partial(read_by_wids, case.urls, counts, case.extra["order"])
    return [
        reader("webdataset", case, functools.partial(read_by_webdataset, case.urls)),
        reader(
            "tarfile seek", case, functools.partial(read_by_tarfile, case.urls, "r:")
        ),
        reader("wids", case, wids),
        reader("wids, random order", _shuffled(case), shuffled),
    ]


WORKLOADS = [
    Workload(
        "index-small",
        "raw samples of 3 KB by position (webdataset: front to back)",
        lambda scene: _case(scene, "small"),
        _baseline,
        _ours,
        "small",
        50_000,
        _peers,
        is_alone=True,
    ),
    Workload(
        "index-img",
        "raw samples of 100 KB by position (webdataset: front to back)",
        lambda scene: _case(scene, "img"),
        _baseline,
        _ours,
        "img",
        4_000,
        _peers,
        is_alone=True,
    ),
]

"""Reading for training by the workers of torch's DataLoader."""

from __future__ import annotations

import functools
import itertools
from contextlib import closing
from typing import TYPE_CHECKING, Any

from shardbuild.bench.feeding import (
    feed_case,
    in_lists,
    litdata_folder,
    open_feed,
    take_all,
    unpadded,
)
from shardbuild.bench.peers import load_peer
from shardbuild.bench.timing import Contestant
from shardbuild.bench.trainpeers import (
    load_torch_loader,
    read_by_litdata,
    with_torch_loader,
)
from shardbuild.bench.workloads import Case, Scene, Workload, check_any_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from shardbuild.train.feed import Feed

__all__ = ["WORKLOADS"]

BATCH = 64


def _case(scene: Scene, size: str) -> Case:
    load_torch_loader()
    return feed_case(scene, size)


def _loader(name: str, case: Case, load: Callable[[], Iterable[Any]]) -> Contestant:
    """Make a contestant that takes lists of samples from workers."""

    def run() -> None:
        take_all(load())

    def check() -> None:
        samples = itertools.chain.from_iterable(load())
        check_any_order(case.urls[0], samples, case.samples())

    return Contestant(name, run, check)


def _baseline(case: Case) -> Sequence[Contestant]:
    """Make the floor: workers that have all samples, and only hand them over."""
    batches = list(in_lists(case.samples(), BATCH))
    load = functools.partial(with_torch_loader, batches, case.scene.num_workers, None)
    return [_loader("DataLoader, from memory", case, load)]


def _loaded_by_us(name: str, case: Case, *, shuffle: bool) -> Contestant:
    def feed() -> Feed:
        return open_feed(case, BATCH, shuffle=shuffle)

    def run() -> None:
        with closing(feed()) as fed:
            take_all(fed.loader(num_workers=case.scene.num_workers))

    def check() -> None:
        with closing(feed()) as fed:
            samples = unpadded(fed.loader(num_workers=case.scene.num_workers))
            check_any_order(case.extra["manifest"], samples, case.samples())

    return Contestant(name, run, check)


def _ours(case: Case) -> Sequence[Contestant]:
    return [
        _loaded_by_us("shardbuild", case, shuffle=False),
        _loaded_by_us("shardbuild, shuffled", case, shuffle=True),
    ]


def _peers(case: Case) -> Sequence[Contestant]:
    webdataset = load_peer("webdataset")
    num_workers = case.scene.num_workers

    def by_webdataset() -> Any:
        dataset = webdataset.WebDataset(list(case.urls), shardshuffle=False)
        return with_torch_loader(dataset, num_workers, BATCH)

    lit = functools.partial(
        read_by_litdata, litdata_folder(case), num_workers=num_workers, batch=BATCH
    )
    return [
        _loader("webdataset", case, by_webdataset),
        _loader("litData", case, functools.partial(lit, shuffle=False)),
        _loader("litData, shuffled", case, functools.partial(lit, shuffle=True)),
    ]


WORKLOADS = [
    Workload(
        "loader-small",
        "raw samples of 3 KB, lists of 64, by the workers of a torch DataLoader",
        lambda scene: _case(scene, "small"),
        _baseline,
        _ours,
        "small",
        50_000,
        _peers,
        is_alone=True,
    ),
    Workload(
        "loader-img",
        "raw samples of 100 KB, lists of 64, by the workers of a torch DataLoader",
        lambda scene: _case(scene, "img"),
        _baseline,
        _ours,
        "img",
        4_000,
        _peers,
        is_alone=True,
    ),
]

"""Reading for training in one process: forward and in an order of its own."""

from __future__ import annotations

import functools
import itertools
import os
import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.bench.peers import load_peer, read_by_webdataset
from shardbuild.bench.timing import Contestant
from shardbuild.bench.trainpeers import (
    read_by_litdata,
    shuffle_by_webdataset,
    write_by_litdata,
)
from shardbuild.bench.workloads import (
    Case,
    Scene,
    Workload,
    check_any_order,
    check_samples,
    shards_case,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from shardbuild.shards.samples import Sample
    from shardbuild.train.feed import Feed

__all__ = [
    "WORKLOADS",
    "feed_case",
    "in_lists",
    "litdata_folder",
    "open_feed",
    "take_all",
    "unpadded",
]

NUM_SHARDS = 8
BATCH = {"small": 256, "img": 64}
"""Everybody gives lists of so many samples: a sample that is dropped at once leaves its
memory, still in the processor's cache, to the next one, and no training does that."""


def feed_case(scene: Scene, size: str) -> Case:
    """Make a case of all samples of a size in shards with indexes and a manifest."""
    case = shards_case(scene, size, scene.shards(size, NUM_SHARDS))
    manifest = f"{scene.folder}/{size}-of-{NUM_SHARDS:03d}.json"
    if not Path(manifest).exists():
        from shardbuild.shards.index import save_index
        from shardbuild.shards.manifest import ShardFacts, make_manifest, save_manifest
        from shardbuild.shards.reader import scan_shard

        shards = []
        for url in case.urls:
            index = scan_shard(url)
            save_index(index, url)
            shards.append(ShardFacts(url, index.num_samples, index.file_bytes))
        save_manifest(make_manifest(shards, manifest), manifest)
    extra = {"manifest": manifest, "size": size, "batch": BATCH[size]}
    return replace(case, extra=extra)


def _extents(case: Case) -> list[tuple[int, int, int]]:
    """List what ``os.pread`` takes to read each sample, headers and padding too."""
    from shardbuild.shards.index import load_index

    found = []
    for url in case.urls:
        descriptor = os.open(url, os.O_RDONLY)
        case.scene.resources.callback(os.close, descriptor)
        index = load_index(url)
        assert index is not None
        ends = index.sample_offsets.tolist()
        found += [
            (descriptor, stop - start, start)
            for start, stop in itertools.pairwise(ends)
        ]
    return found


def _baseline(case: Case) -> Sequence[Contestant]:
    """Make the floors: one ``os.pread`` a sample, and nothing but lists made of it."""
    forward = _extents(case)
    shuffled = forward.copy()
    random.Random(case.scene.seed).shuffle(shuffled)

    def read(extents: Sequence[tuple[int, int, int]]) -> None:
        take_all(in_lists(itertools.starmap(os.pread, extents), case.extra["batch"]))

    return [
        Contestant("os.pread", functools.partial(read, forward)),
        Contestant("os.pread, shuffled", functools.partial(read, shuffled)),
    ]


def in_lists(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Give lists of ``size`` values.

    >>> list(in_lists("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    source = itertools.chain(values)  # litData begins anew whenever it is asked to
    while batch := list(itertools.islice(source, size)):
        yield batch


def take_all(batches: Iterable[Any]) -> None:
    """Take batches; each is let go before the next one is asked for."""
    for batch in batches:
        del batch


def unpadded(batches: Iterable[Any]) -> Iterator[Sample]:
    """Give the samples of batches, those that fill the last one left out."""
    for batch in batches:
        yield from itertools.compress(batch, batch.mask)


def open_feed(
    case: Case, batch: int, *, shuffle: bool, open_shards: int | None = None
) -> Feed:
    """Open a new feed of all samples, in batches of so many, masked at the end."""
    from shardbuild.train.dataset import Dataset

    return Dataset(case.extra["manifest"]).feed(
        global_batch=batch,
        shuffle=shuffle,
        seed=case.scene.seed,
        rank=0,
        world=1,
        last="mask",
        open_shards=open_shards,
    )


def _fed_by_us(
    name: str, case: Case, *, shuffle: bool, open_shards: int | None = None
) -> Contestant:
    """Make a contestant that takes the batches of an epoch from a new feed."""

    def feed() -> Feed:
        batch = case.extra["batch"]
        return open_feed(case, batch, shuffle=shuffle, open_shards=open_shards)

    def run() -> None:
        with closing(feed()) as batches:
            take_all(batches)

    def check() -> None:
        compare = check_any_order if shuffle else check_samples
        with closing(feed()) as batches:
            compare(case.extra["manifest"], unpadded(batches), case.samples())

    return Contestant(name, run, check)


def _ours(case: Case) -> Sequence[Contestant]:
    return [
        _fed_by_us("shardbuild", case, shuffle=False),
        _fed_by_us("shardbuild, shuffled", case, shuffle=True),
        # litData shuffles within one chunk of 64 MB after the other: about as far.
        _fed_by_us("shardbuild, in 2 shards", case, shuffle=True, open_shards=2),
    ]


def _reader(
    name: str, case: Case, read: Callable[[], Iterable[Sample]], *, in_order: bool
) -> Contestant:
    """Make a contestant that makes lists of the samples it reads."""

    def run() -> None:
        take_all(in_lists(read(), case.extra["batch"]))

    def check() -> None:
        compare = check_samples if in_order else check_any_order
        compare(case.urls[0], read(), case.samples())

    return Contestant(name, run, check)


def litdata_folder(case: Case) -> Path:
    """Give the folder of the same samples in litData's format, made when first asked.

    Raises:
        MissingExtraError: litData is not installed.
    """
    folder = case.folder / f"{case.extra['size']}-litdata"
    if not folder.exists():
        write_by_litdata(folder, case.samples())
    return folder


def _peers(case: Case) -> Sequence[Contestant]:
    load_peer("webdataset")
    web = functools.partial(read_by_webdataset, case.urls)
    shuffled = functools.partial(shuffle_by_webdataset, case.urls, case.scene.seed)
    lit = functools.partial(read_by_litdata, litdata_folder(case))
    return [
        _reader("webdataset", case, web, in_order=True),
        _reader("webdataset, shuffled", case, shuffled, in_order=False),
        _reader("litData", case, functools.partial(lit, shuffle=False), in_order=True),
        _reader(
            "litData, shuffled",
            case,
            functools.partial(lit, shuffle=True),
            in_order=False,
        ),
    ]


WORKLOADS = [
    Workload(
        "feed-small",
        "lists of 256 raw samples of 3 KB in 3 members, in one process",
        lambda scene: feed_case(scene, "small"),
        _baseline,
        _ours,
        "small",
        50_000,
        _peers,
        is_alone=True,
    ),
    Workload(
        "feed-img",
        "lists of 64 raw samples of 100 KB in 3 members, in one process",
        lambda scene: feed_case(scene, "img"),
        _baseline,
        _ours,
        "img",
        4_000,
        _peers,
        is_alone=True,
    ),
]

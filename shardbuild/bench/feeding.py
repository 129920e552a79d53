"""Reading for training in one process: forward and in an order of its own."""

from __future__ import annotations

import functools
import itertools
import os
import random
from collections import deque
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.bench.peers import load_peer, read_by_webdataset
from shardbuild.bench.reading import reader
from shardbuild.bench.timing import Contestant
from shardbuild.bench.trainpeers import (
    load_litdata,
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

__all__ = ["WORKLOADS", "feed_case", "litdata_folder", "unpadded"]

NUM_SHARDS = 8
BATCH = 256


def feed_case(scene: Scene, size: str) -> Case:
    """Make a case of all samples of a size in shards with indexes and a manifest."""
    from shardbuild.shards.index import save_index
    from shardbuild.shards.manifest import ShardFacts, make_manifest, save_manifest
    from shardbuild.shards.reader import scan_shard

    case = shards_case(scene, size, scene.shards(size, NUM_SHARDS))
    manifest = f"{scene.folder}/{size}-of-{NUM_SHARDS:03d}.json"
    if not Path(manifest).exists():
        shards = []
        for url in case.urls:
            index = scan_shard(url)
            save_index(index, url)
            shards.append(ShardFacts(url, index.num_samples, index.file_bytes))
        save_manifest(make_manifest(shards, manifest), manifest)
    return replace(case, extra={"manifest": manifest, "size": size})


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
    """Make the floors: one ``os.pread`` a sample, and nothing made of it."""
    forward = _extents(case)
    shuffled = forward.copy()
    random.Random(case.scene.seed).shuffle(shuffled)

    def read(extents: Sequence[tuple[int, int, int]]) -> None:
        deque(itertools.starmap(os.pread, extents), maxlen=0)

    return [
        Contestant("os.pread", functools.partial(read, forward)),
        Contestant("os.pread, shuffled", functools.partial(read, shuffled)),
    ]


def unpadded(batches: Iterable[Any]) -> Iterator[Sample]:
    """Give the samples of batches, those that fill the last one left out."""
    for batch in batches:
        yield from itertools.compress(batch, batch.mask)


def _fed_by_us(name: str, case: Case, *, shuffle: bool) -> Contestant:
    """Make a contestant that takes the batches of an epoch from a new feed."""
    from shardbuild.train.dataset import Dataset

    def feed() -> Any:
        dataset = Dataset(case.extra["manifest"])
        return dataset.feed(
            global_batch=BATCH,
            shuffle=shuffle,
            seed=case.scene.seed,
            rank=0,
            world=1,
            last="mask",
        )

    def run() -> None:
        with closing(feed()) as batches:
            deque(itertools.chain.from_iterable(batches), maxlen=0)

    def check() -> None:
        compare = check_any_order if shuffle else check_samples
        with closing(feed()) as batches:
            compare(case.extra["manifest"], unpadded(batches), case.samples())

    return Contestant(name, run, check)


def _ours(case: Case) -> Sequence[Contestant]:
    return [
        _fed_by_us("shardbuild", case, shuffle=False),
        _fed_by_us("shardbuild, shuffled", case, shuffle=True),
    ]


def any_order_reader(
    name: str, case: Case, read: Callable[[], Iterable[Sample]]
) -> Contestant:
    """Make a contestant that reads all samples, in whatever order."""

    def check() -> None:
        check_any_order(case.urls[0], read(), case.samples())

    return replace(reader(name, case, read), check=check)


def _peers(case: Case) -> Sequence[Contestant]:
    load_peer("webdataset")
    forward = functools.partial(read_by_webdataset, case.urls)
    shuffled = functools.partial(shuffle_by_webdataset, case.urls, case.scene.seed)
    return [
        reader("webdataset", case, forward),
        any_order_reader("webdataset, shuffled", case, shuffled),
    ]


def litdata_folder(case: Case) -> Path:
    """Give the folder of the same samples in litData's format, made when first asked.

    Raises:
        MissingExtraError: litData is not installed.
    """
    folder = case.folder / f"{case.extra['size']}-litdata"
    if not folder.exists():
        write_by_litdata(case.urls, folder)
    return folder


def _torch_peers(case: Case) -> Sequence[Contestant]:
    load_litdata()
    read = functools.partial(read_by_litdata, litdata_folder(case))
    return [
        reader("litData", case, functools.partial(read, shuffle=False)),
        any_order_reader(
            "litData, shuffled", case, functools.partial(read, shuffle=True)
        ),
    ]


WORKLOADS = [
    Workload(
        "feed-small",
        "a feed of raw samples of 3 KB in 3 members, in one process",
        lambda scene: feed_case(scene, "small"),
        _baseline,
        _ours,
        "small",
        50_000,
        _peers,
        torch_peers=_torch_peers,
    ),
    Workload(
        "feed-img",
        "a feed of raw samples of 100 KB in 3 members, in one process",
        lambda scene: feed_case(scene, "img"),
        _baseline,
        _ours,
        "img",
        4_000,
        _peers,
        torch_peers=_torch_peers,
    ),
]

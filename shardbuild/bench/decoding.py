"""Decoding photographs in a feed, beside the same calls of Pillow."""

from __future__ import annotations

import io
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

from shardbuild.bench.feeding import feed_case, in_lists, take_all, unpadded
from shardbuild.bench.timing import Contestant
from shardbuild.bench.workloads import Case, Workload
from shardbuild.errors import SampleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["WORKLOADS", "check_decoded", "decode_bare"]

BATCH = 64


def decode_bare(sample: Sample) -> Sample:
    """Decode a sample as anybody would who has its bytes in memory."""
    import numpy as np
    from PIL import Image

    return {
        "__key__": sample["__key__"],
        "jpg": np.asarray(Image.open(io.BytesIO(sample["jpg"])).convert("RGB")),
        "cls": int(sample["cls"]),
        "json": json.loads(sample["json"]),
    }


def check_decoded(url: str, got: Iterable[Sample], true: Iterable[Sample]) -> None:
    """Compare decoded samples, in their order, with the bytes they are of.

    Raises:
        SampleError: a sample is missing, or not what Pillow makes of its bytes.
    """
    samples = iter(got)
    for wanted in map(decode_bare, true):
        sample = next(samples, None)
        key = wanted["__key__"]
        if sample is None:
            raise SampleError(url, "is missing", key)
        pixels = sample["jpg"]
        if (
            any(sample[name] != wanted[name] for name in ("__key__", "cls", "json"))
            or pixels.shape != wanted["jpg"].shape
            or pixels.dtype != wanted["jpg"].dtype
            or (pixels != wanted["jpg"]).any()
        ):
            raise SampleError(url, "differs from what Pillow makes", key)
    surplus = next(samples, None)
    if surplus is not None:
        raise SampleError(url, "comes twice", surplus["__key__"])


def _decoder(
    name: str, case: Case, decode: Callable[[], Iterable[list[Sample]]]
) -> Contestant:
    def check() -> None:
        samples = itertools.chain.from_iterable(decode())
        check_decoded(case.urls[0], samples, case.samples())

    return Contestant(name, lambda: take_all(decode()), check)


def _baseline(case: Case) -> Sequence[Contestant]:
    """Make the floors: Pillow's calls on bytes in memory, alone and in two threads.

    They make lists of as many samples as the feed.
    """
    batches = list(in_lists(case.samples(), BATCH))

    def alone() -> Iterator[list[Sample]]:
        for batch in batches:
            yield list(map(decode_bare, batch))

    def in_two() -> Iterator[list[Sample]]:
        with ThreadPoolExecutor(2) as pool:
            for batch in batches:
                yield list(pool.map(decode_bare, batch))

    return [
        _decoder("Pillow", case, alone),
        _decoder("Pillow, 2 threads", case, in_two),
    ]


def _fed_by_us(name: str, case: Case, threads: int) -> Contestant:
    from shardbuild.train.dataset import Dataset

    def feed() -> Any:
        return (
            Dataset(case.extra["manifest"])
            .decode("rgb8")
            .feed(
                global_batch=BATCH,
                shuffle=False,
                rank=0,
                world=1,
                last="mask",
                threads=threads,
            )
        )

    def run() -> None:
        with closing(feed()) as batches:
            take_all(batches)

    def check() -> None:
        with closing(feed()) as batches:
            check_decoded(case.urls[0], unpadded(batches), case.samples())

    return Contestant(name, run, check)


def _ours(case: Case) -> Sequence[Contestant]:
    return [
        _fed_by_us("1 thread", case, threads=1),
        _fed_by_us("2 threads", case, threads=2),
    ]


WORKLOADS = [
    Workload(
        "feed-decode",
        "lists of 64 JPEGs of 100 KB decoded to rgb8, beside bare Pillow",
        lambda scene: feed_case(scene, "img"),
        _baseline,
        _ours,
        "img",
        1_000,
        is_alone=True,
    )
]

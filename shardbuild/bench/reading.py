"""Reading shards front to back."""

from __future__ import annotations

import functools
import mmap
import zlib
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard
from isal import isal_zlib

from shardbuild.bench.peers import (
    load_peer,
    read_by_tarfile,
    read_by_webdataset,
    read_by_wids,
)
from shardbuild.bench.timing import Contestant
from shardbuild.bench.workloads import (
    Case,
    Scene,
    Workload,
    check_samples,
    dialects_case,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["WORKLOADS", "reader", "readinto"]

BLOCK = 1 << 22


def reader(
    name: str, case: Case, read: Callable[[], Iterable[Sample]], url: str | None = None
) -> Contestant:
    """Make a contestant that reads all samples and keeps none."""

    def run() -> None:
        deque(read(), maxlen=0)

    def check() -> None:
        check_samples(url or case.urls[0], read(), case.samples())

    return Contestant(name, run, check)


def readinto(case: Case) -> Contestant:
    """Make the floor: the files' bytes, read into one buffer again and again."""
    block = mmap.mmap(-1, BLOCK)

    def run() -> None:
        for url in case.urls:
            with Path(url).open("rb", buffering=0) as stream:
                while stream.readinto(block):
                    pass

    return Contestant("readinto", run)


def _baseline(case: Case) -> Sequence[Contestant]:
    return [readinto(case)]


def _read_by_us(urls: Sequence[str]) -> Iterator[Sample]:
    from shardbuild.shards.reader import read_samples

    for url in urls:
        yield from read_samples(url)


def _ours(case: Case) -> Sequence[Contestant]:
    return [reader("shardbuild", case, functools.partial(_read_by_us, case.urls))]


def _webdataset(case: Case) -> Contestant:
    load_peer("webdataset")
    read = functools.partial(read_by_webdataset, case.urls)
    return reader("webdataset", case, read)


def _tarfile(case: Case, mode: str, name: str) -> Contestant:
    return reader(name, case, functools.partial(read_by_tarfile, case.urls, mode))


def _wids(case: Case) -> Contestant:
    load_peer("wids")
    counts = [case.num_samples]
    return reader("wids", case, functools.partial(read_by_wids, case.urls, counts))


def _peers(case: Case) -> Sequence[Contestant]:
    return [
        _webdataset(case),
        _tarfile(case, "r|*", "tarfile stream"),
        _tarfile(case, "r:", "tarfile seek"),
    ]


def _peers_and_wids(case: Case) -> Sequence[Contestant]:
    return [*_peers(case), _wids(case)]


def _packed_case(scene: Scene, suffix: str) -> Case:
    """Make a case of small samples in a compressed shard, and in .gz for the peers."""
    plain = dialects_case(scene, "small", "ustar")
    path = scene.shard("small", suffix=suffix)
    return Case(
        scene,
        urls=[str(path)],
        samples=plain.samples,
        num_samples=plain.num_samples,
        num_bytes=plain.num_bytes,
        extra={"gz": str(scene.shard("small", suffix=".tar.gz"))},
    )


def _unpack(case: Case) -> Sequence[Contestant]:
    """Make the floors: the file's bytes, and the bare codec on them."""
    path = Path(case.urls[0])

    def gunzip() -> None:
        unpack = isal_zlib.decompressobj(wbits=16 + zlib.MAX_WBITS).decompress
        with path.open("rb", buffering=0) as stream:
            while block := stream.read(1 << 18):
                unpack(block)

    def unzstd() -> None:
        block = memoryview(bytearray(1 << 20))
        with (
            path.open("rb", buffering=0) as stream,
            zstandard.ZstdDecompressor().stream_reader(stream, 1 << 18) as plain,
        ):
            while plain.readinto(block):
                pass

    if path.suffix == ".gz":
        return [Contestant("isal gunzip", gunzip), readinto(case)]
    return [Contestant("zstandard", unzstd), readinto(case)]


def _packed_peers(case: Case) -> Sequence[Contestant]:
    """Make the peers, which read .gz, whatever we read."""
    urls = [case.extra["gz"]]
    load_peer("webdataset")
    web = functools.partial(read_by_webdataset, urls)
    tar = functools.partial(read_by_tarfile, urls, "r|*")
    return [
        reader("webdataset on .gz", case, web),
        reader("tarfile on .gz", case, tar),
    ]


ODD = ("long-ustar", "long-gnu", "long-pax", "foreign-pax")

WORKLOADS = [
    Workload(
        "read-small",
        "raw samples of 3 KB in 3 members, front to back",
        lambda scene: dialects_case(scene, "small", "ustar"),
        _baseline,
        _ours,
        "small",
        50_000,
        _peers_and_wids,
        is_alone=True,
    ),
    Workload(
        "read-img",
        "raw samples of 100 KB in 3 members, front to back",
        lambda scene: dialects_case(scene, "img", "ustar"),
        _baseline,
        _ours,
        "img",
        4_000,
        _peers_and_wids,
        is_alone=True,
    ),
    Workload(
        "read-pax",
        "as read-small, with a pax mtime header per member",
        lambda scene: dialects_case(scene, "small", "pax-mtime"),
        _baseline,
        _ours,
        "small",
        50_000,
        _peers_and_wids,
        is_alone=True,
    ),
    Workload(
        "read-odd",
        "as read-small, long and foreign names in ustar, GNU and pax (4 shards)",
        lambda scene: dialects_case(scene, "small", *ODD),
        _baseline,
        _ours,
        "small",
        12_500,
        _peers,
        is_alone=True,
    ),
    Workload(
        "read-gz",
        "as read-small, from .tar.gz",
        lambda scene: _packed_case(scene, ".tar.gz"),
        _unpack,
        _ours,
        "small",
        50_000,
        _packed_peers,
        is_alone=True,
    ),
    Workload(
        "read-zst",
        "as read-small, from .tar.zst (peers: from .tar.gz)",
        lambda scene: _packed_case(scene, ".tar.zst"),
        _unpack,
        _ours,
        "small",
        50_000,
        _packed_peers,
        is_alone=True,
    ),
]

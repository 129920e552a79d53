"""Writing shards."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from shardbuild.bench.datasets import write_tar
from shardbuild.bench.peers import load_peer, read_by_tarfile, write_by_webdataset
from shardbuild.bench.timing import Contestant
from shardbuild.bench.workloads import (
    Case,
    Workload,
    check_file,
    check_samples,
    dialects_case,
)
from shardbuild.shards.samples import Sample

__all__ = ["WORKLOADS", "run_dd"]

BLOCK = 1 << 22

Write = Callable[[Path, Iterable[Sample]], None]


def run_dd(sources: Iterable[str], folder: Path) -> None:
    """Copy files into a folder by ``dd bs=4M``, one after the other."""
    for source in sources:
        target = folder / Path(source).name
        subprocess.run(
            ["dd", f"if={source}", f"of={target}", "bs=4M", "status=none"], check=True
        )


def _writer(name: str, case: Case, write: Write, *, same_bytes: bool) -> Contestant:
    """Make a contestant that writes all samples into one new shard."""
    path = case.folder / f"written by {name}.tar"
    samples = list(case.samples())

    def check() -> None:
        if same_bytes:
            check_file(path, Path(case.urls[0]))
        check_samples(str(path), read_by_tarfile([str(path)], "r|*"), samples)

    def reset() -> None:
        path.unlink(missing_ok=True)

    return Contestant(name, lambda: write(path, samples), check, reset)


def _raw_write(case: Case) -> Contestant:
    """Make the floor: the shard's bytes, already in memory, into a new file."""
    path = case.folder / "written raw.tar"
    whole = memoryview(Path(case.urls[0]).read_bytes())

    def run() -> None:
        with path.open("wb", buffering=0) as stream:
            for start in range(0, len(whole), BLOCK):
                stream.write(whole[start : start + BLOCK])

    return Contestant("raw write", run, reset=lambda: path.unlink(missing_ok=True))


def _dd(case: Case) -> Contestant:
    folder = case.folder / "copied by dd"

    def reset() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    return Contestant("dd bs=4M", lambda: run_dd(case.urls, folder), reset=reset)


def _baseline(case: Case) -> Sequence[Contestant]:
    return [_raw_write(case), _dd(case)]


def _write_by_us(path: Path, samples: Iterable[Sample], **options: Any) -> None:
    from shardbuild.shards.writer import TarWriter

    with TarWriter(str(path), **options) as writer:
        write = writer.write
        for sample in samples:
            write(sample)


def _ours(case: Case) -> Sequence[Contestant]:
    plain = functools.partial(_write_by_us, checksum=False)
    return [
        _writer("shardbuild", case, plain, same_bytes=True),
        _writer("shardbuild, sha256", case, _write_by_us, same_bytes=True),
    ]


def _peers(case: Case) -> Sequence[Contestant]:
    load_peer("webdataset")
    whole = functools.partial(write_by_webdataset, mtime=0)
    return [
        _writer("webdataset mtime=0", case, whole, same_bytes=True),
        _writer("webdataset", case, write_by_webdataset, same_bytes=False),
        _writer("tarfile", case, write_tar, same_bytes=True),
    ]


WORKLOADS = [
    Workload(
        "write-small",
        "samples of 3 KB in 3 members into one shard",
        lambda scene: dialects_case(scene, "small", "ustar"),
        _baseline,
        _ours,
        "small",
        50_000,
        _peers,
        is_alone=True,
    ),
    Workload(
        "write-img",
        "samples of 100 KB in 3 members into one shard",
        lambda scene: dialects_case(scene, "img", "ustar"),
        _baseline,
        _ours,
        "img",
        4_000,
        _peers,
        is_alone=True,
    ),
]

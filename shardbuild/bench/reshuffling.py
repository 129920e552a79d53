"""Putting all samples in a new global order."""

from __future__ import annotations

import functools
import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.bench.memory import run_watched
from shardbuild.bench.peers import (
    load_peer,
    read_by_tarfile,
    read_by_webdataset,
    write_by_webdataset,
)
from shardbuild.bench.timing import Contestant
from shardbuild.bench.workloads import (
    Case,
    Scene,
    Workload,
    check_samples,
    shards_case,
)
from shardbuild.bench.writing import run_dd
from shardbuild.errors import ShardbuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["WORKLOADS", "main"]

NUM_SHARDS = 16
SEED = 7
MEMORY_BYTES = 16 << 20
"""Of a task, where memory is measured: much less than the data."""


def _case(scene: Scene, size: str) -> Case:
    case = shards_case(scene, size, scene.shards(size, NUM_SHARDS))
    return replace(case, extra={"size": size})


def _read_sorted(folder: Path) -> Iterator[Sample]:
    urls = sorted(map(str, folder.glob("*.tar")))
    return iter(sorted(read_by_tarfile(urls, "r|*"), key=lambda each: each["__key__"]))


def _shuffler(name: str, case: Case, shuffle: Callable[[Path], Any]) -> Contestant:
    """Make a contestant that writes the samples, reordered, into a new folder."""
    folder = case.folder / f"shuffled by {name}"

    def check() -> None:
        check_samples(str(folder), _read_sorted(folder), case.samples())

    def reset() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    return Contestant(name, lambda: shuffle(folder), check, reset)


def _scheduler(method: str, size: str) -> str:
    """Collecting and hashing large pieces needs no Python; all else does."""
    return "threads" if (method, size) == ("gather", "img") else "processes"


def _shuffle_by_us(
    urls: Sequence[str], folder: Path, *, method: Any, maxcount: int, **options: Any
) -> None:
    from shardbuild.build.conversion import convert

    convert(
        list(urls),
        str(folder / "shuffled-%06d.tar"),
        order="shuffle",
        seed=SEED,
        method=method,
        maxcount=maxcount,
        **options,
    )


def _samples_a_shard(case: Case) -> int:
    return -(-case.num_samples // NUM_SHARDS)


def _copied(name: str, case: Case, copy: Callable[[Path], Any]) -> Contestant:
    folder = case.folder / f"copied by {name}"

    def reset() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    return Contestant(name, lambda: copy(folder), reset=reset)


def _baseline(case: Case) -> Sequence[Contestant]:
    # All bytes in one file: starting a dd for each shard would flatter us.
    whole = [str(case.scene.shard(case.extra["size"]))]

    def by_dd(folder: Path) -> None:
        run_dd(whole, folder)

    def by_kernel(folder: Path) -> None:
        for url in case.urls:
            shutil.copyfile(url, folder / Path(url).name)

    return [
        _copied("dd bs=4M", case, by_dd),
        _copied("copyfile", case, by_kernel),
    ]


def _ours(case: Case) -> Sequence[Contestant]:
    def method(name: str) -> Contestant:
        shuffle = functools.partial(
            _shuffle_by_us,
            case.urls,
            method=name,
            maxcount=_samples_a_shard(case),
            scheduler=_scheduler(name, case.extra["size"]),
            workers=case.scene.num_workers,
        )
        return _shuffler(name, case, shuffle)

    return [method("gather"), method("spill")]


def _bucket(sample: Sample) -> int:
    digest = hashlib.blake2b(sample["__key__"].encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % NUM_SHARDS


def _read_all(urls: Iterable[str]) -> list[Sample]:
    """Read for Dask as its users do."""
    return list(read_by_webdataset(list(urls)))


def _write_group(group: tuple[int, Sequence[Sample]], folder: Path) -> int:
    number, samples = group
    ordered = sorted(samples, key=lambda each: each["__key__"][::-1])
    write_by_webdataset(folder / f"{number:06d}.tar", ordered, mtime=0)
    return len(samples)


def _groups(case: Case, folder: Path, how: str) -> Any:
    bag = load_peer("dask.bag").from_sequence(case.urls, npartitions=len(case.urls))
    samples = bag.map_partitions(_read_all)
    groups = samples.groupby(_bucket, npartitions=NUM_SHARDS, shuffle=how)
    return groups.map(functools.partial(_write_group, folder=folder))


def _peers(case: Case) -> Sequence[Contestant]:
    load_peer("webdataset")
    dask = load_peer("dask")
    num_workers = case.scene.num_workers
    (case.folder / "partd").mkdir(exist_ok=True)
    partd = {"temporary_directory": str(case.folder / "partd")}

    def by_disk(folder: Path, scheduler: str) -> None:
        with dask.config.set(partd):
            _groups(case, folder, "disk").compute(
                scheduler=scheduler, num_workers=num_workers
            )

    def by_cluster(folder: Path) -> None:
        distributed = load_peer("distributed")
        with (
            dask.config.set(partd),
            distributed.LocalCluster(
                n_workers=num_workers, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            _groups(case, folder, "tasks").compute(scheduler=client)

    return [
        _shuffler(
            "dask groupby disk, processes",
            case,
            lambda folder: by_disk(folder, "processes"),
        ),
        _shuffler(
            "dask groupby disk, threads",
            case,
            lambda folder: by_disk(folder, "threads"),
        ),
        _shuffler("dask groupby tasks, cluster", case, by_cluster),
    ]


def _watched(name: str, case: Case, urls: Sequence[str], method: str) -> Contestant:
    """Make a contestant that shuffles in a watched process of its own."""
    folder = case.folder / f"shuffled by {name}"
    arguments = [method, str(folder), str(_samples_a_shard(case)), *urls]
    command = [sys.executable, "-m", __name__, *arguments]

    def check() -> None:
        count = sum(1 for _ in _read_sorted(folder))
        wanted = case.num_samples * len(urls) // len(case.urls)
        if count != wanted:
            raise ShardbuildError(str(folder), f"has {count} samples of {wanted}")

    def reset() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    return Contestant(name, lambda: run_watched(command), check, reset)


def _memory(case: Case) -> Sequence[Contestant]:
    half = case.urls[: len(case.urls) // 2]
    return [
        _watched(name, case, urls, method)
        for method in ("gather", "spill")
        for name, urls in ((method, case.urls), (f"{method}, half the data", half))
    ]


def main(argv: Sequence[str]) -> None:
    """Shuffle with little memory: ``METHOD FOLDER MAXCOUNT SHARD...``."""
    method, folder, maxcount, *urls = argv
    _shuffle_by_us(
        urls,
        Path(folder),
        method=method,
        maxcount=int(maxcount),
        scheduler=_scheduler(method, "img"),
        workers=2,
        memory=MEMORY_BYTES,
    )


WORKLOADS = [
    Workload(
        "reshuffle-small",
        "samples of 3 KB in 16 shards, shuffled, with checksums",
        lambda scene: _case(scene, "small"),
        _baseline,
        _ours,
        "small",
        200_000,
        _peers,
        warm_up=False,
        starts_python=True,
    ),
    Workload(
        "reshuffle-img",
        "samples of 100 KB in 16 shards, shuffled, with checksums",
        lambda scene: _case(scene, "img"),
        _baseline,
        _ours,
        "img",
        20_000,
        _peers,
        warm_up=False,
        starts_python=True,
    ),
    Workload(
        "reshuffle-memory",
        "unshared memory, samples of 100 KB, all shards and half of them",
        lambda scene: _case(scene, "img"),
        lambda case: _baseline(case)[:1],
        _memory,
        "img",
        4_000,
        warm_up=False,
        starts_python=True,
    ),
]

if __name__ == "__main__":
    main(sys.argv[1:])

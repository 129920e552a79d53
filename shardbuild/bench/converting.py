"""Converting: photographs made smaller."""

from __future__ import annotations

import functools
import io
import multiprocessing
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardbuild.bench.peers import load_peer, read_by_tarfile, read_by_webdataset
from shardbuild.bench.timing import Contestant
from shardbuild.bench.workloads import (
    Case,
    Scene,
    Workload,
    check_samples,
    shards_case,
)
from shardbuild.errors import ShardbuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["WORKLOADS", "resize_jpeg", "resize_photo"]

SMALL = (341, 256)
NUM_SHARDS = 8


def resize_jpeg(content: bytes) -> bytes:
    """Make a JPEG smaller: the bare codec calls that all contestants have in common."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        image.draft("RGB", SMALL)
        small = image.resize(SMALL, Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def resize_photo(sample: Sample) -> Sample:
    """Make a sample's ``jpg`` smaller: the transform."""
    return {**sample, "jpg": resize_jpeg(sample["jpg"])}


def _case(scene: Scene) -> Case:
    plain = shards_case(scene, "img", scene.shards("img", NUM_SHARDS))
    return Case(
        scene,
        plain.urls,
        functools.cache(lambda: [resize_photo(sample) for sample in plain.samples()]),
        plain.num_samples,
        plain.num_bytes,
    )


def _jpegs(case: Case) -> list[bytes]:
    return [sample["jpg"] for sample in case.scene.img]


def _codec(jpegs: Sequence[bytes]) -> None:
    for content in jpegs:
        resize_jpeg(content)


def _codec_on_file(path: Path, sizes: Sequence[int]) -> None:
    """Do one bare process's part: JPEGs from a file that holds nothing else."""
    with path.open("rb") as stream:
        for size in sizes:
            resize_jpeg(stream.read(size))


def _bare_processes(case: Case) -> Contestant:
    """Make the floor: as many bare processes as there are workers."""
    num_workers = case.scene.num_workers
    all_jpegs = _jpegs(case)
    parts = []
    for number in range(num_workers):
        jpegs = all_jpegs[number::num_workers]
        path = case.folder / f"jpegs-{number}"
        path.write_bytes(b"".join(jpegs))
        parts.append((path, [len(content) for content in jpegs]))

    def run() -> None:
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=_codec_on_file, args=part) for part in parts]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise ShardbuildError("bare codec", "a process of it failed")

    return Contestant("bare codec", run)


def _converter(name: str, case: Case, convert: Callable[[Path], Any]) -> Contestant:
    """Make a contestant that writes smaller photographs into a new folder."""
    folder = case.folder / f"converted by {name}"

    def check() -> None:
        urls = sorted(map(str, folder.glob("*.tar")))
        check_samples(str(folder), read_by_tarfile(urls, "r|*"), case.samples())

    def reset() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    return Contestant(name, lambda: convert(folder), check, reset)


def _convert_by_us(case: Case, scheduler: str | None, folder: Path) -> None:
    from shardbuild.build.conversion import convert

    convert(
        case.urls,
        str(folder / "small-%06d.tar"),
        transform=resize_photo,
        workers=1 if scheduler == "sync" else case.scene.num_workers,
        scheduler=scheduler,
    )


def _bare_codec(case: Case) -> Sequence[Contestant]:
    return [Contestant("bare codec", functools.partial(_codec, _jpegs(case)))]


def _alone(case: Case) -> Sequence[Contestant]:
    return [
        _converter("shardbuild", case, functools.partial(_convert_by_us, case, "sync"))
    ]


def _with_workers(case: Case) -> Sequence[Contestant]:
    return [
        _converter(
            "processes", case, functools.partial(_convert_by_us, case, "processes")
        ),
        _converter("cluster", case, functools.partial(_convert_by_us, case, None)),
    ]


def _read_resized(url: str) -> Iterator[Sample]:
    return map(resize_photo, read_by_webdataset([url]))


def _convert_shard_by_webdataset(url: str, folder: Path) -> str:
    """Convert a shard in a loop, as webdataset's users write it."""
    webdataset = load_peer("webdataset")
    path = folder / Path(url).name
    with webdataset.TarWriter(str(path), mtime=0) as writer:
        for sample in _read_resized(url):
            writer.write(sample)
    return str(path)


def _loop(case: Case) -> Sequence[Contestant]:
    load_peer("webdataset")

    def convert(folder: Path) -> None:
        for url in case.urls:
            _convert_shard_by_webdataset(url, folder)

    return [_converter("webdataset", case, convert)]


def _bags(case: Case) -> Sequence[Contestant]:
    """Make the peers: a Dask bag of shards, each converted by webdataset."""
    load_peer("webdataset")
    bag = load_peer("dask.bag")
    num_workers = case.scene.num_workers

    def shards(folder: Path) -> Any:
        convert = functools.partial(_convert_shard_by_webdataset, folder=folder)
        return bag.from_sequence(case.urls, npartitions=len(case.urls)).map(convert)

    def by_processes(folder: Path) -> None:
        shards(folder).compute(scheduler="processes", num_workers=num_workers)

    def by_cluster(folder: Path) -> None:
        distributed = load_peer("distributed")
        with (
            distributed.LocalCluster(
                n_workers=num_workers, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            shards(folder).compute(scheduler=client)

    return [
        _converter("dask bag + webdataset, processes", case, by_processes),
        _converter("dask bag + webdataset, cluster", case, by_cluster),
    ]


WORKLOADS = [
    Workload(
        "convert",
        "JPEGs from 500x375 to 341x256, one process",
        _case,
        _bare_codec,
        _alone,
        "img",
        2_000,
        _loop,
        warm_up=False,
        is_alone=True,
    ),
    Workload(
        "convert-workers",
        "JPEGs from 500x375 to 341x256, several processes, their start included",
        _case,
        lambda case: [_bare_processes(case)],
        _with_workers,
        "img",
        20_000,
        _bags,
        warm_up=False,
        starts_python=True,
    ),
]

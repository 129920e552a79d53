"""What a workload is, and where it runs."""

from __future__ import annotations

import filecmp
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from shardbuild.bench.datasets import (
    DIALECTS,
    make_photo_samples,
    make_small_samples,
    open_large,
    renamed,
    write_compressed,
    write_tar,
)
from shardbuild.bench.timing import Contestant
from shardbuild.errors import SampleError, ShardbuildError

if TYPE_CHECKING:
    from pathlib import Path

    from shardbuild.bench.timing import Role
    from shardbuild.shards.samples import Sample

__all__ = [
    "Case",
    "Scene",
    "Workload",
    "check_any_order",
    "check_file",
    "check_samples",
]


@dataclass(frozen=True)
class Scene:
    """The place and the sizes that the workloads of one call share."""

    folder: Path
    """An empty folder; the caller removes it."""
    num_samples: int = 20_000
    """Small samples."""
    num_photos: int = 1_500
    num_workers: int = 2
    seed: int = 7
    resources: ExitStack = field(default_factory=ExitStack)
    """What a workload started, and what stops when it ends."""

    @functools.cached_property
    def small(self) -> list[Sample]:
        return self._made("small", make_small_samples)

    @functools.cached_property
    def img(self) -> list[Sample]:
        return self._made("img", make_photo_samples)

    def _made(
        self, size: str, make: Callable[[int, int], list[Sample]]
    ) -> list[Sample]:
        if not self._saved(size).exists():
            return make(self.num_of(size), self.seed)
        with self._saved(size).open("rb") as stream:
            return [
                {"__key__": key, **{name: stream.read(n) for name, n in sizes.items()}}
                for key, sizes in json.loads(stream.readline())
            ]

    def _saved(self, size: str) -> Path:
        return self.folder / f"{size}.samples"

    def save(self, size: str) -> None:
        """Let other processes, with an equal scene, find the samples of a size."""
        if not self._saved(size).exists():
            samples = [dict(sample) for sample in self.samples(size)]
            keys = [sample.pop("__key__") for sample in samples]
            sizes = [{name: len(sample[name]) for name in sample} for sample in samples]
            with self._saved(size).open("wb") as stream:
                stream.write(json.dumps(list(zip(keys, sizes, strict=True))).encode())
                stream.write(b"\n")
                for sample in samples:
                    stream.writelines(sample.values())

    def num_of(self, size: str) -> int:
        """Give the number of samples of a size."""
        return {"small": self.num_samples, "img": self.num_photos}[size]

    def samples(self, size: str) -> list[Sample]:
        """Give the ``small`` or the ``img`` samples."""
        return {"small": lambda: self.small, "img": lambda: self.img}[size]()

    def shard(self, size: str, dialect: str = "ustar", suffix: str = ".tar") -> Path:
        """Give the path of a shard of all samples of a size, made when first asked."""
        path = self.folder / f"{size}-{dialect}{suffix}"
        if not path.exists():
            if suffix == ".tar":
                with open_large(path) as file:
                    write_tar(path, self.samples(size), DIALECTS[dialect], file)
            else:
                write_compressed(self.shard(size, dialect), path)
        return path

    def shards(self, size: str, num_shards: int) -> list[Path]:
        """Give the paths of the samples of a size in several shards."""
        count = self.num_of(size)
        step = -(-count // num_shards)
        paths = []
        for number, start in enumerate(range(0, count, step)):
            path = self.folder / f"{size}-{number:03d}-of-{num_shards:03d}.tar"
            if not path.exists():
                samples = self.samples(size)[start : start + step]
                with open_large(path) as file:
                    write_tar(path, samples, DIALECTS["ustar"], file)
            paths.append(path)
        return paths


@dataclass(frozen=True, slots=True)
class Case:
    """What a workload prepared."""

    scene: Scene
    urls: list[str]
    samples: Callable[[], Iterable[Sample]]
    """What is in the shards, in their order: the truth that all are checked against."""
    num_samples: int
    num_bytes: int
    """Of the shards."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.scene.folder


def shards_case(scene: Scene, size: str, paths: Sequence[Path]) -> Case:
    """Make a case of all samples of a size in plain shards."""
    return Case(
        scene,
        urls=[str(path) for path in paths],
        samples=lambda: scene.samples(size),
        num_samples=scene.num_of(size),
        num_bytes=sum(path.stat().st_size for path in paths),
    )


def dialects_case(scene: Scene, size: str, *dialects: str) -> Case:
    """Make a case of one shard in each of some dialects, all with the same samples."""
    paths = [scene.shard(size, dialect) for dialect in dialects]

    def truth() -> Iterator[Sample]:
        for dialect in dialects:
            yield from renamed(scene.samples(size), DIALECTS[dialect])

    return Case(
        scene,
        urls=[str(path) for path in paths],
        samples=truth,
        num_samples=scene.num_of(size) * len(dialects),
        num_bytes=sum(path.stat().st_size for path in paths),
    )


Size = Literal["small", "img"]

Contestants = Callable[[Case], Sequence[Contestant]]


def nobody(case: Case) -> Sequence[Contestant]:
    """Nobody else does this."""
    del case
    return []


@dataclass(frozen=True, slots=True)
class Workload:
    """A row: what is done, how its data is made, and who does it."""

    name: str
    title: str
    prepare: Callable[[Scene], Case]
    baseline: Contestants
    """What the machine can do. The first one is what shares are given of."""
    ours: Contestants
    size: Size
    full_size: int
    """Of so many samples are the floors: with few, starting costs more than working."""
    peers: Contestants = nobody
    """Imports what it needs, or raises MissingExtraError."""
    unit: str = "samples"
    """What is counted a second."""
    warm_up: bool = True
    starts_python: bool = False
    """Its contestants start processes of Python, which want bytecode."""
    is_alone: bool = False
    """Each contestant runs in a process of its own (`bench.alone`)."""

    def contestants(self, role: Role, case: Case) -> Sequence[Contestant]:
        """Give all who have a role."""
        by_role = {"baseline": self.baseline, "ours": self.ours, "peer": self.peers}
        return by_role[role](case)


def check_samples(url: str, got: Iterable[Sample], true: Iterable[Sample]) -> None:
    """Compare samples with what they have to be, their meta fields but for the key.

    Raises:
        SampleError: a sample differs, or there are too few or too many.

    >>> check_samples("a.tar", [{"__key__": "1", "cls": b"5", "__url__": "a"}],
    ...               [{"__key__": "1", "cls": b"5"}])
    >>> check_samples("a.tar", [{"__key__": "1", "cls": b"6"}],
    ...               [{"__key__": "1", "cls": b"5"}])
    Traceback (most recent call last):
      ...
    shardbuild.errors.SampleError: a.tar: sample '1': differs from what was written
    """
    expected = iter(true)
    for sample in got:
        fields = {
            name: value
            for name, value in sample.items()
            if name == "__key__" or not name.startswith("__")
        }
        wanted = next(expected, None)
        if fields != wanted:
            raise SampleError(url, "differs from what was written", fields["__key__"])
    missing = next(expected, None)
    if missing is not None:
        raise SampleError(url, "is missing", missing["__key__"])


def check_any_order(url: str, got: Iterable[Sample], true: Iterable[Sample]) -> None:
    """Compare samples with what they have to be, in whatever order they come.

    Raises:
        SampleError: a sample differs, is missing, or comes twice.

    >>> true = [{"__key__": "1", "cls": b"5"}, {"__key__": "2", "cls": b"6"}]
    >>> check_any_order("a.tar", reversed(true), true)
    >>> check_any_order("a.tar", [true[0], true[0]], true)
    Traceback (most recent call last):
      ...
    shardbuild.errors.SampleError: a.tar: sample '1': differs from what was written
    """
    wanted = {sample["__key__"]: sample for sample in true}
    for sample in got:
        key = sample["__key__"]
        check_samples(url, [sample], filter(None, [wanted.pop(key, None)]))
    check_samples(url, [], wanted.values())


def check_file(got: Path, true: Path) -> None:
    """Compare two files byte by byte.

    Raises:
        ShardbuildError: they differ.
    """
    if not filecmp.cmp(got, true, shallow=False):
        raise ShardbuildError(str(got), f"is not the same bytes as {str(true)!r}")

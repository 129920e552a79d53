"""A process that takes an epoch from a feed, and tells what it held on the way.

``python tests/epochs.py SETTINGS``: the settings are the JSON of `Settings`, what is
printed is the JSON of `Epoch`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardbuild.shards.manifest import ShardFacts

ROOT = Path(__file__).parent.parent
BATCH = 250
NUM_LOOKS = 10
"""The epoch is looked at in so many parts."""


@dataclass(frozen=True)
class Settings:
    """What is fed, and how."""

    urls: str | list[str]
    num_samples: int
    samples_a_shard: int
    feed: dict[str, Any] = field(default_factory=dict)
    has_stage: bool = False


@dataclass(frozen=True)
class Epoch:
    """What was seen in each part of an epoch: the most, looked for at every step."""

    memory: list[int]
    """Unshared bytes."""
    descriptors: list[int]
    threads: list[int]
    at_rest: tuple[int, int]
    """Descriptors and threads before the feed was made."""
    at_end: tuple[int, int]
    num_seen: int
    """Different samples."""
    num_given: int


def unshared() -> int:
    """The bytes that this process holds and that are no file's pages."""
    with Path("/proc/self/status").open() as lines:
        (line,) = [line for line in lines if line.startswith("RssAnon:")]
    return int(line.split()[1]) << 10


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path a file is slow


def resting() -> tuple[int, int]:
    return descriptors(), threading.active_count()


def write_linked(folder: Path, num_shards: int, samples_a_shard: int) -> list[str]:
    """Make a data set of shards that are links to one, with a manifest.

    A sample is told by its url and its key, ``0`` to ``samples_a_shard - 1``.
    """
    from shardbuild.shards.index import index_url
    from shardbuild.shards.manifest import ShardFacts, make_manifest, save_manifest
    from shardbuild.shards.writer import write_shard

    first = write_shard(
        f"{folder}/s-000000.tar",
        ({"__key__": f"{i:06d}", "cls": b""} for i in range(samples_a_shard)),
        checksum=False,
    )
    shards: list[ShardFacts] = [first]
    for number in range(1, num_shards):
        url = f"{folder}/s-{number:06d}.tar"
        os.link(first.url, url)
        os.link(index_url(first.url), index_url(url))
        shards.append(ShardFacts(url, first.num_samples, first.num_bytes))
    save_manifest(make_manifest(shards, f"{folder}/s.json"), f"{folder}/s.json")
    return [shard.url for shard in shards]


def run_epoch(settings: Settings) -> Epoch:
    """Take an epoch from a feed, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(asdict(settings))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Epoch(**json.loads(done.stdout))


class Watch:
    """What was held at most in each part of an epoch."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self.parts = [[0, 0, 0] for _ in range(NUM_LOOKS)]

    def look(self, step: int) -> None:
        part = self.parts[min(step * NUM_LOOKS // self.num_steps, NUM_LOOKS - 1)]
        for i, value in enumerate((unshared(), *resting())):
            part[i] = max(part[i], value)


def take_epoch(settings: Settings) -> Epoch:
    """Take an epoch from a feed, and look at this process at every step."""
    from shardbuild.train.dataset import Dataset

    before = resting()
    dataset: Any = Dataset(settings.urls)
    if settings.has_stage:
        dataset = dataset.map(dict)
    seen = bytearray(settings.num_samples)
    num_given = 0
    watch = Watch(-(-settings.num_samples // BATCH))
    with closing(
        dataset.feed(global_batch=BATCH, rank=0, world=1, last="mask", **settings.feed)
    ) as feed:
        for step, batch in enumerate(feed):
            watch.look(step)
            for sample in batch:
                shard = int(sample["__url__"][-10:-4])
                seen[shard * settings.samples_a_shard + int(sample["__key__"])] = 1
            num_given += int(batch.mask.sum())
    memory, files, threads = (list(column) for column in zip(*watch.parts, strict=True))
    return Epoch(memory, files, threads, before, resting(), seen.count(1), num_given)


def main(argv: Sequence[str]) -> None:
    epoch = take_epoch(Settings(**json.loads(argv[0])))
    sys.stdout.write(json.dumps(asdict(epoch)))


if __name__ == "__main__":
    main(sys.argv[1:])

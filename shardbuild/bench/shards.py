"""How fast shards are read, and what is in them: the seed's bench."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, get_args

from shardbuild.codecs.decoders import decode_sample
from shardbuild.codecs.images import ImageSpec
from shardbuild.shards.reader import read_samples
from shardbuild.storage.urls import expand_urls

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shardbuild.shards.samples import Sample
    from shardbuild.storage.urlparts import StorageOptions

__all__ = ["ShardSpeed", "TotalSize", "main", "measure_shards"]


class TotalSize:
    """Adds up the bytes of the samples that it is called with, and gives each back.

    >>> total = TotalSize()
    >>> total({"__key__": "7", "txt": b"seven", "cls": b"7"})["__key__"], total.total
    ('7', 6)
    """

    def __init__(self) -> None:
        self.total = 0
        self.count = 0

    def __call__(self, sample: Sample) -> Sample:
        """Count a sample."""
        self.total += sum(
            len(value)
            for name, value in sample.items()
            if name != "__key__" and isinstance(value, bytes)
        )
        self.count += 1
        return sample


@dataclass(frozen=True, slots=True)
class ShardSpeed:
    """What reading the beginning of a shard took, and what was there."""

    url: str
    num_samples: int
    num_bytes: int
    """Of the fields, as they are stored."""
    seconds: float
    fields: tuple[tuple[tuple[str, ...], int], ...]
    """Sets of fields and how many samples have each, the most frequent first."""
    num_duplicates: int
    """Samples whose key had been seen before, in any of the shards."""

    @property
    def samples_per_second(self) -> float:
        return self.num_samples / self.seconds

    @property
    def bytes_per_second(self) -> float:
        return self.num_bytes / self.seconds

    def to_json(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {
            "url": self.url,
            "num_samples": self.num_samples,
            "num_bytes": self.num_bytes,
            "seconds": self.seconds,
            "samples_per_second": self.samples_per_second,
            "bytes_per_second": self.bytes_per_second,
            "fields": [[list(names), count] for names, count in self.fields],
            "num_duplicates": self.num_duplicates,
        }

    def __str__(self) -> str:
        lines = [
            f"=== {self.url}",
            "",
            f"#samples/sec: {self.samples_per_second:15.2f}",
            f"#bytes/sec:   {self.bytes_per_second:15.2f}",
            "",
            "sample keys:",
            *(f"    {names}: {count}" for names, count in self.fields),
        ]
        if self.num_duplicates:
            lines.append(f"samples whose key comes again: {self.num_duplicates}")
        return "\n".join(lines)


def measure_shards(
    urls: str | Sequence[str],
    *,
    max_samples: int = 100,
    images: ImageSpec | None = None,
    storage_options: StorageOptions | None = None,
) -> Iterator[ShardSpeed]:
    """Read the beginning of each shard, and say how fast that was.

    Args:
        urls: url specs of shards.
        max_samples: so many samples of each shard are read.
        images: decode the fields, images as this says (``"rgb8"``); None: only read.
        storage_options: passed on to fsspec.

    Raises:
        ShardbuildError: A shard cannot be read, or a field cannot be decoded.

    >>> import tempfile
    >>> from shardbuild.shards.writer import write_shard
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shard = write_shard(f"{folder}/a.tar", [{"__key__": "7", "cls": 7}])
    ...     (speed,) = measure_shards(shard.url)
    >>> speed.num_samples, speed.num_bytes, speed.fields
    (1, 1, ((('cls',), 1),))
    """
    seen: set[str] = set()
    for url in expand_urls(urls, storage_options=storage_options):
        samples = read_samples(url, storage_options=storage_options)
        try:
            yield _measure(url, islice(samples, max_samples), images, seen)
        finally:
            samples.close()


def _measure(
    url: str, samples: Iterable[Sample], images: ImageSpec | None, seen: set[str]
) -> ShardSpeed:
    total = TotalSize()
    fields: Counter[tuple[str, ...]] = Counter()
    num_duplicates = 0
    started = time.perf_counter()
    for sample in map(total, samples):
        fields[tuple(sorted(name for name in sample if name != "__key__"))] += 1
        num_duplicates += sample["__key__"] in seen
        seen.add(sample["__key__"])
        if images is not None:
            decode_sample(sample, images)
    seconds = max(time.perf_counter() - started, 1e-9)
    ranked = tuple(sorted(fields.items(), key=lambda item: (-item[1], item[0])))
    return ShardSpeed(url, total.count, total.total, seconds, ranked, num_duplicates)


def main(args: Sequence[str] | None = None) -> None:
    """Measure the shards that the arguments name, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m shardbuild.bench")
    add_arguments(parser)
    parser.add_argument("shards", nargs="+", metavar="URL")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    chosen = parser.parse_args(args)
    for speed in measure_shards(
        chosen.shards, max_samples=chosen.count, images=chosen.decode
    ):
        text = json.dumps(speed.to_json()) if chosen.json else f"{speed}\n"
        print(text, flush=True)  # noqa: T201 - what it is for


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the options that say how shards are measured."""
    parser.add_argument(
        "-c",
        "--count",
        type=int,
        default=100,
        metavar="N",
        help="samples of each shard (default: 100)",
    )
    parser.add_argument(
        "-d",
        "--decode",
        choices=get_args(ImageSpec),
        metavar="SPEC",
        help="decode the fields too, images as rgb8, pil, ... (default: only read)",
    )

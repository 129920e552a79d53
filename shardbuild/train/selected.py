"""The samples of a data set that has an index, as a stream."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shardbuild.errors import UsageError
from shardbuild.streams.guarding import goes_on
from shardbuild.streams.sources import ShardSource
from shardbuild.train.reading import SampleReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shardbuild.shards.samples import Sample
    from shardbuild.train.catalog import Catalog

__all__ = ["SelectedSource"]

_READ_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class SelectedSource(ShardSource):
    """Shards of which some samples, or some fields, are read by their places."""

    catalog: Catalog

    @property
    def reader(self) -> SampleReader:
        """What reads samples for all who ask for some, opened once."""
        if "reader" not in self._known:
            self._known["reader"] = self._new_reader()
        reader: SampleReader = self._known["reader"]
        return reader

    def _new_reader(self) -> SampleReader:
        options = self.storage_options
        return SampleReader(self.catalog, fields=self.fields, storage_options=options)

    def close(self) -> None:
        """Close what the reader opened."""
        if "reader" in self._known:
            self._known.pop("reader").close()

    def _find_urls(self) -> list[str]:
        """The urls of all shards, each of which knows which shard it is of."""
        return [_ShardUrl.of(url, n) for n, url in enumerate(self.catalog.urls)]

    def samples(self, epoch: int) -> Iterator[Sample]:
        """The samples of this process's shards."""
        with closing(self._new_reader()) as reader:
            for number in self._numbers_of(self.shard_urls(epoch)):
                try:
                    yield from self._samples_at(reader, number)
                except Exception as error:  # noqa: BLE001  # the handler decides
                    if not goes_on(error, self.handler):
                        return

    def _samples_at(self, reader: SampleReader, number: int) -> Iterator[Sample]:
        count = int(self.catalog.counts[number])
        for first in range(0, count, _READ_AT_ONCE):
            rows = np.arange(first, min(first + _READ_AT_ONCE, count), dtype=np.int64)
            yield from reader.read(np.full(len(rows), number, np.int64), rows)

    def _num_samples(self, epoch: int) -> int:
        counts = self.catalog.counts
        numbers = self._numbers_of(self.node_urls(epoch))
        return sum(int(counts[number]) for number in numbers)

    def _numbers_of(self, urls: Iterable[str]) -> Iterator[int]:
        """Which shards the urls are of, that a splitter has given."""
        by_url: dict[str, list[int]] = {}
        for url in urls:
            if isinstance(url, _ShardUrl):
                yield url.number
                continue
            if not by_url:
                for number, known in enumerate(self.catalog.urls):
                    by_url.setdefault(known, []).append(number)
            found = by_url.get(url, [])
            if len(found) != 1:
                problem = (
                    "names no shard or several: a splitter gives what it was given"
                )
                raise UsageError(url, problem)
            yield found[0]


class _ShardUrl(str):
    """A url of a shard: of a list that has it twice, too, it is known which it is."""

    __slots__ = ("number",)

    number: int

    @classmethod
    def of(cls, url: str, number: int) -> _ShardUrl:
        made = cls(url)
        made.number = number
        return made

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
    from collections.abc import Iterator

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

    def all_urls(self) -> list[str]:
        """The urls of all shards, each of which knows which shard it is of."""
        return [_ShardUrl.of(url, n) for n, url in enumerate(self.catalog.urls)]

    def samples(self, epoch: int) -> Iterator[Sample]:
        """The samples of this process's shards."""
        with closing(self._new_reader()) as reader:
            for url in self.shard_urls(epoch):
                number = self._number(url)
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
        return sum(int(counts[self._number(url)]) for url in self.node_urls(epoch))

    def _number(self, url: str) -> int:
        """Which shard a url is of, that a splitter has given."""
        if isinstance(url, _ShardUrl):
            return url.number
        if self.catalog.urls.count(url) != 1:
            problem = "names no shard or several: a splitter gives what it was given"
            raise UsageError(url, problem)
        return self.catalog.urls.index(url)


class _ShardUrl(str):
    """A url of a shard: of a list that has it twice, too, it is known which it is."""

    __slots__ = ("number",)

    number: int

    @classmethod
    def of(cls, url: str, number: int) -> _ShardUrl:
        made = cls(url)
        made.number = number
        return made

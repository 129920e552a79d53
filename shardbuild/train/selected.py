"""The samples of a data set that has an index, as a stream."""

from __future__ import annotations

from collections import defaultdict, deque
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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

    def samples(self, epoch: int) -> Iterator[Sample]:
        """The samples of this process's shards."""
        numbers = self._numbers()
        with closing(self._new_reader()) as reader:
            for url in self.shard_urls(epoch):
                number = numbers[url][0]
                numbers[url].rotate(-1)
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

    def _numbers(self) -> dict[str, deque[int]]:
        """The shards of each url: one url may be there several times."""
        numbers: dict[str, deque[int]] = defaultdict(deque)
        for number, url in enumerate(self.catalog.urls):
            numbers[url].append(number)
        return numbers

    def _counts(self) -> dict[str, Any] | None:
        counts: dict[str, int] = {}
        for url, count in zip(self.catalog.urls, self.catalog.counts, strict=True):
            counts[url] = int(count)
        return counts

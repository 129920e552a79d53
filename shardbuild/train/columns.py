"""What can be asked of the samples of a shard without reading them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardbuild.shards.index import Ints, ShardIndex

__all__ = ["Columns"]


class Columns:
    """The samples of one shard as columns, a value for each sample.

    >>> from shardbuild.shards.index import IndexBuilder
    >>> builder = IndexBuilder()
    >>> builder.add("a", 0, [("cls", 512, 1), ("jpg", 1536, 700)])
    >>> builder.add("b", 3072, [("jpg", 3584, 90)])
    >>> columns = Columns("x.tar", builder.finish(4096, 10240, canonical=True))
    >>> columns.size("cls").tolist(), columns.num_bytes.tolist()
    ([1, -1], [701, 90])
    """

    def __init__(
        self, url: str, index: ShardIndex, positions: Ints | None = None
    ) -> None:
        self.url = url
        self._index = index
        self._positions = positions

    def __len__(self) -> int:
        rows = self._positions
        return self._index.num_samples if rows is None else len(rows)

    def _chosen(self, column: NDArray[np.int64]) -> Ints:
        return column if self._positions is None else column[self._positions]

    @cached_property
    def key(self) -> NDArray[np.str_]:
        """The keys, as an array of text."""
        keys = self._index.keys()
        if self._positions is not None:
            keys = [keys[i] for i in self._positions.tolist()]
        return np.array(keys, dtype=np.str_)

    @cached_property
    def num_bytes(self) -> Ints:
        """Payload bytes of all fields together."""
        ends = np.zeros(self._index.num_members + 1, dtype=np.int64)
        np.cumsum(self._index.member_size, out=ends[1:])
        return self._chosen(np.diff(ends[self._index.sample_members]))

    def size(self, field: str) -> Ints:
        """Payload bytes of a field; -1 where a sample has no such field."""
        index = self._index
        sizes = np.full(index.num_samples, -1, dtype=np.int64)
        if field in index.extensions:
            kind = index.extensions.index(field)
            members = np.flatnonzero(index.member_extension == kind)
            owners = np.searchsorted(index.sample_members, members, side="right") - 1
            sizes[owners] = index.member_size[members]
        return self._chosen(sizes)

    def has(self, field: str) -> NDArray[np.bool_]:
        """Whether a sample has a field."""
        return self.size(field) >= 0

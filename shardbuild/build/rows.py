"""The rows that an order sorts: where each sample is, and its sort key.

A *table* is what one task knows of its samples, sorted; a *part* is a range of
the whole order, made from the slices of all tables. Both are flat arrays in
files, read by range, so that no process ever holds the rows of a data set.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shardbuild.build.ordering import SortKey, sample_ranks
from shardbuild.errors import StorageError
from shardbuild.storage import read_range, write_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shardbuild.storage import StorageOptions

ROW = np.dtype(
    [
        ("key", "<u8"),
        ("position", "<u8"),
        ("source", "<u4"),
        ("sub", "<u4"),
        ("offset", "<u8"),
        ("num_bytes", "<u8"),
        ("body", "<u8"),
        ("container", "<u4"),
    ]
)
"""One sample: its sort key (64 bits, 0 for text) and its ties ``(source, position,
sub)``; the extent of bytes that holds it, in the container of that number; and
``body``, the bytes that it takes in an output shard."""

EXTENT = np.dtype([("container", "<u4"), ("offset", "<u8"), ("num_bytes", "<u8")])
"""Where the bytes of one sample are, in the final order."""

_HEADER = struct.Struct("<8sQQQQ")
_MAGIC = b"sbtable1"
_SKETCH_STEP = 4096


@dataclass(frozen=True, slots=True)
class Table:
    """Rows and, when the order is by text, the text of each."""

    rows: NDArray[np.void]
    texts: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def sort_key(self, i: int) -> SortKey:
        """What row ``i`` sorts by, with its tie-breakers."""
        row = self.rows[i]
        ties = int(row["source"]), int(row["position"]), int(row["sub"])
        return (self.texts[i] if self.texts is not None else int(row["key"]), *ties)

    def take(self, ranks: NDArray[np.int64]) -> Table:
        if self.texts is None:
            return Table(self.rows[ranks])
        return Table(self.rows[ranks], [self.texts[i] for i in ranks.tolist()])

    def sorted(self) -> Table:
        """The same rows in their order."""
        return self.take(self.ranks())

    def ranks(self) -> NDArray[np.int64]:
        """Which rows come first, second, ...; no two are equal."""
        rows = self.rows
        names = ("sub", "position", "source", "key")
        ranks = np.lexsort([rows[name] for name in names])
        if self.texts is not None:
            # Sorting keeps the order of equal texts: what breaks ties came first.
            by_text = sorted(ranks.tolist(), key=self.texts.__getitem__)
            ranks = np.array(by_text, np.int64)
        return ranks

    def find(self, key: SortKey) -> int:
        """The first row of a sorted table that is not before ``key``."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.sort_key(middle) < key:
                low = middle + 1
            else:
                high = middle
        return low

    def sample(self, salt: int) -> list[tuple[SortKey, float]]:
        """A few rows that stand for all of a sorted table, with their weights."""
        ranks = sample_ranks(len(self), salt).tolist()
        weight = len(self) / max(1, len(ranks))
        return [(self.sort_key(rank), weight) for rank in ranks]


def join_tables(tables: Sequence[Table]) -> Table:
    """All rows of several tables, in the order of the tables."""
    if not tables:
        return Table(np.empty(0, ROW))
    rows = np.concatenate([table.rows for table in tables])
    if all(table.texts is None for table in tables):
        return Table(rows)
    return Table(rows, [text for table in tables for text in table.texts or ()])


def save_table(
    url: str, table: Table, *, storage_options: StorageOptions | None = None
) -> None:
    """Write a sorted table, with every 4096th key in front for `load_slice`."""
    sketch = table.take(np.arange(0, len(table), _SKETCH_STEP))
    sections = [_rows_and_texts(sketch), _rows_and_texts(table)]
    head = _HEADER.pack(
        _MAGIC, len(sketch), len(sections[0]), len(table), len(sections[1])
    )
    data = b"".join([head, *sections])
    write_bytes(url, data, storage_options=storage_options)


def _rows_and_texts(table: Table) -> bytes:
    if table.texts is None:
        return table.rows.tobytes()
    ends = np.cumsum([0, *map(len, table.texts)], dtype="<u8")
    return b"".join([table.rows.tobytes(), ends.tobytes(), *table.texts])


def load_slice(
    url: str,
    start: SortKey | None,
    stop: SortKey | None,
    *,
    storage_options: StorageOptions | None = None,
) -> Table:
    """The rows of a table from ``start`` on, up to and without ``stop``.

    Raises:
        StorageError: it cannot be read, or is no table.
    """

    def read(first: int, last: int) -> bytes:
        return read_range(url, first, last, storage_options=storage_options)

    head = read(0, _HEADER.size)
    magic, num_sketched, sketch_bytes, num_rows, row_bytes = _HEADER.unpack(head)
    if magic != _MAGIC:
        raise StorageError(url, "is no table of rows: remove it, or use --overwrite")
    base = _HEADER.size + sketch_bytes
    if start is None and stop is None:
        return _parse(read(base, base + row_bytes) if row_bytes else b"", num_rows)
    sketch = _parse(read(_HEADER.size, base) if sketch_bytes else b"", num_sketched)
    first, last = 0, num_rows
    if start is not None:
        first = max(0, sketch.find(start) - 1) * _SKETCH_STEP
    if stop is not None:
        last = min(num_rows, sketch.find(stop) * _SKETCH_STEP)
    if first >= last:
        return Table(np.empty(0, ROW), [] if sketch.texts is not None else None)
    rows_at, ends_at = base, base + num_rows * ROW.itemsize
    rows = read(rows_at + first * ROW.itemsize, rows_at + last * ROW.itemsize)
    if row_bytes == num_rows * ROW.itemsize:
        table = _parse(rows, last - first)
    else:
        ends = np.frombuffer(read(ends_at + 8 * first, ends_at + 8 * last + 8), "<u8")
        texts_at = ends_at + 8 * (num_rows + 1)
        texts = read(texts_at + int(ends[0]), texts_at + int(ends[-1]))
        table = _parse(
            b"".join([rows, (ends - ends[0]).tobytes(), texts]), last - first
        )
    low = table.find(start) if start is not None else 0
    high = table.find(stop) if stop is not None else len(table)
    return table.take(np.arange(low, high))


def _parse(data: bytes, num_rows: int) -> Table:
    rows = np.frombuffer(data, ROW, num_rows)
    if len(data) == rows.nbytes:
        return Table(rows)
    ends = np.frombuffer(data, "<u8", num_rows + 1, rows.nbytes).tolist()
    texts_at = rows.nbytes + 8 * (num_rows + 1)
    pairs = itertools.pairwise(ends)
    return Table(rows, [data[texts_at + a : texts_at + b] for a, b in pairs])

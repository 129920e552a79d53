"""Where the payloads of a shard's samples are: an index made ready for reading."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from shardbuild.shards.index import common_pattern, running_sum

if TYPE_CHECKING:
    from collections.abc import Collection

    from shardbuild.shards.index import Ints, ShardIndex

__all__ = ["DIRECT_BYTES", "GAP_BYTES", "HEAD", "Part", "Places", "Row", "fields_of"]

DIRECT_BYTES: Final = 32 << 10
"""A payload from which on is read by itself, straight into its bytes."""
GAP_BYTES: Final = 8 << 10
"""What is rather read than jumped over: it takes as long as a call of the kernel."""
HEAD: Final = 4
"""Numbers in a row before those of the fields."""

_MAX_COLUMNS: Final = 64
"""Fields of a sample that are handled one after the other, for all samples at once."""

Row = Sequence[int]


class Places:
    """An index made ready for access to one sample after the other, at any place.

    All that is needed of a sample is one row: where its payloads begin, how long they
    are together, begin and end of its key among all keys, and of each field its
    begin and end. Numbers come out of it in a tenth of the time that they take out
    of numpy's columns. ``fields`` are those that are wanted, all if it is None.

    >>> from shardbuild.shards.index import IndexBuilder
    >>> builder = IndexBuilder()
    >>> builder.add("a", 0, [("cls", 512, 1), ("jpg", 1536, 700)])
    >>> places = Places(builder.finish(2560, 10240, canonical=True), ["jpg"])
    >>> places.key(0), places.wanted(0)
    ('a', [('jpg', 1536, 2236)])
    """

    __slots__ = (
        *("_blob", "_forms", "_kinds", "_parts", "_rows", "_starts"),
        *("are_long", "are_small", "names", "num_bytes", "table", "text"),
    )

    def __init__(
        self, index: ShardIndex, fields: Collection[str] | None = None
    ) -> None:
        members, ends = _wanted_members(index, fields)
        rows, starts = _rows_of(index, members, ends)
        kinds, names = _kinds_of(index, members, ends)
        self._rows = rows.data.cast("B")
        self._starts = starts.data
        self._kinds = kinds.data
        self.table: Ints | None = None
        """All rows, where all are alike."""
        self.are_small = self.are_long = False
        """Whether all are alike, and each is read at one go, or none is."""
        if len(names) == 1:
            self.table = rows.reshape(len(kinds), -1)
            lengths = self.table[:, 1]
            self.are_small = int(lengths.max()) <= DIRECT_BYTES
            self.are_long = int(lengths.min()) > DIRECT_BYTES
        self.names = names
        forms = {len(some): Struct(f"{HEAD + 2 * len(some)}q") for some in names}
        self._forms = [forms[len(some)] for some in names]
        self._parts: dict[tuple[str, ...], list[Part]] = {}
        self._blob = index.key_bytes.tobytes()
        self.text = self._blob.decode() if self._blob.isascii() else None
        self.num_bytes = rows.nbytes + starts.nbytes + kinds.nbytes + len(self._blob)

    def row(self, i: int) -> tuple[tuple[str, ...], Row]:
        """The names of the wanted fields of sample ``i``, and its row."""
        kind = self._kinds[i]
        row = self._forms[kind].unpack_from(self._rows, self._starts[i])
        return self.names[kind], row

    def run(self, first: int, stop: int) -> list[tuple[tuple[str, ...], Row]]:
        """What `row` gives for each sample of a run."""
        if len(self.names) != 1:
            return [self.row(i) for i in range(first, stop)]
        (names,) = self.names
        part = self._rows[self._starts[first] : self._starts[stop]]
        return [(names, row) for row in self._forms[0].iter_unpack(part)]

    def parts(self, names: tuple[str, ...]) -> list[Part]:
        """What is best read at once of long samples with these fields.

        >>> from shardbuild.shards.index import IndexBuilder
        >>> builder = IndexBuilder()
        >>> members = [("cls", 512, 1), ("id", 1536, 3), ("jpg", 2560, 90_000)]
        >>> builder.add("a", 0, members)
        >>> places = Places(builder.finish(93_184, 102_400, canonical=True))
        >>> [part.fields for part in places.parts(("cls", "id", "jpg"))]
        [[('cls', 4, 5), ('id', 6, 7)], [('jpg', 8, 9)]]
        """
        parts = self._parts.get(names)
        if parts is None:
            parts = self._parts[names] = _parts_of(names, self._rows_of_kind(names))
        return parts

    def _rows_of_kind(self, names: tuple[str, ...]) -> Ints:
        if self.table is not None:
            return self.table
        mine = np.asarray(self._kinds) == self.names.index(names)
        rows = np.frombuffer(self._rows, np.int64)
        firsts = np.asarray(self._starts)[:-1][mine] // rows.itemsize
        table: Ints = rows[firsts[:, None] + np.arange(HEAD + 2 * len(names))]
        return table

    def cut_key(self, row: Row) -> str:
        """The key of a row."""
        if self.text is not None:
            return self.text[row[2] : row[3]]
        return self._blob[row[2] : row[3]].decode()

    def key(self, i: int) -> str:
        """The key of sample ``i``."""
        return self.cut_key(self.row(i)[1])

    def wanted(self, i: int) -> list[tuple[str, int, int]]:
        """Name, first byte and end of each wanted field of sample ``i``."""
        return fields_of(*self.row(i))


def _fields_at(names: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """Each field, and where in a row its begin and its end are."""
    places = range(HEAD, HEAD + 2 * len(names), 2)
    return [(name, at, at + 1) for name, at in zip(names, places, strict=True)]


def fields_of(names: tuple[str, ...], row: Row) -> list[tuple[str, int, int]]:
    """Name, first byte and end of each field of a row."""
    origin = row[0]
    ends = iter(row[HEAD:])
    return [
        (name, origin + start, origin + stop)
        for name, start, stop in zip(names, ends, ends, strict=True)
    ]


def _wanted_members(
    index: ShardIndex, fields: Collection[str] | None
) -> tuple[Ints | slice, Ints]:
    """The members that are wanted, and where those of each sample end among them."""
    if fields is None:
        return slice(None), index.sample_members
    wanted = np.array([name in fields for name in index.extensions], dtype=np.bool_)
    kept = wanted[index.member_extension] if len(wanted) else wanted
    return np.flatnonzero(kept), running_sum(kept.astype(np.int64))[
        index.sample_members
    ]


def _rows_of(index: ShardIndex, members: Ints | slice, ends: Ints) -> tuple[Ints, Ints]:
    """All rows, one after the other, and at which byte each one starts."""
    counts = np.diff(ends)
    starts = index.member_offset[members]
    stops = starts + index.member_size[members]
    places = running_sum(counts * 2 + HEAD)
    keys = index.key_offsets
    is_table = len(counts) > 0 and 0 < counts[0] <= _MAX_COLUMNS
    if is_table and bool((counts == counts[0]).all()):
        return _table_of(starts, stops, keys, int(counts[0])), places * starts.itemsize
    origin, size = np.zeros_like(counts), np.zeros_like(counts)
    some = np.flatnonzero(counts)
    if len(some):
        origin[some] = np.minimum.reduceat(starts, ends[some])
        size[some] = np.maximum.reduceat(stops, ends[some]) - origin[some]
    heads = places[:-1]
    rows = np.empty(int(places[-1]), dtype=np.int64)
    rows[heads], rows[heads + 1] = origin, size
    rows[heads + 2], rows[heads + 3] = keys[:-1], keys[1:]
    at = np.repeat(heads + HEAD - 2 * ends[:-1], counts) + 2 * np.arange(len(starts))
    origins = np.repeat(origin, counts)
    rows[at], rows[at + 1] = starts - origins, stops - origins
    return rows, places * rows.itemsize


def _table_of(starts: Ints, stops: Ints, keys: Ints, width: int) -> Ints:
    """The rows of samples that all have as many fields, column by column."""
    starts, stops = starts.reshape(-1, width), stops.reshape(-1, width)
    table = np.empty((len(starts), HEAD + 2 * width), dtype=np.int64)
    # Column by column: numpy takes five times as long along rows that are short.
    origin, end = starts[:, 0], stops[:, 0]
    for k in range(1, width):
        origin = np.minimum(origin, starts[:, k])
        end = np.maximum(end, stops[:, k])
    table[:, 0], table[:, 1] = origin, end - origin
    table[:, 2], table[:, 3] = keys[:-1], keys[1:]
    for k in range(width):
        table[:, HEAD + 2 * k] = starts[:, k] - origin
        table[:, HEAD + 2 * k + 1] = stops[:, k] - origin
    return table.reshape(-1)


def _kinds_of(
    index: ShardIndex, members: Ints | slice, ends: Ints
) -> tuple[Ints, list[tuple[str, ...]]]:
    """Of which kind each sample is; of each kind the names of the fields, in order."""
    num_samples = len(ends) - 1
    column = index.member_extension[members]
    kinds = np.zeros(num_samples, dtype=np.int64)
    found: dict[tuple[int, ...], int] = {}
    pattern = common_pattern(column, np.diff(ends))
    if pattern is not None:
        found[tuple(pattern)] = 0
    else:
        each, bounds = column.tolist(), ends.tolist()
        for i in range(num_samples):
            kind = tuple(each[bounds[i] : bounds[i + 1]])
            kinds[i] = found.setdefault(kind, len(found))
    names = index.extensions
    return kinds, [tuple(names[number] for number in kind) for kind in found]


class Part(NamedTuple):
    """Neighbours among the fields that are read at once: where to look in a row."""

    first: int
    """Of the number that is its first byte."""
    last: int
    """Of the number that is its end."""
    fields: list[tuple[str, int, int]]
    """Each with the places of its begin and of its end."""


def _parts_of(names: tuple[str, ...], rows: Ints) -> list[Part]:
    """Put fields together that are small, and lie near each other, in all rows."""
    starts, stops = rows[:, HEAD::2], rows[:, HEAD + 1 :: 2]
    is_small = (stops - starts).max(axis=0) <= DIRECT_BYTES
    gaps = starts[:, 1:] - stops[:, :-1]
    is_near = (gaps.min(axis=0) >= 0) & (gaps.max(axis=0) <= GAP_BYTES)
    goes_on = [False, *(is_near & is_small[1:] & is_small[:-1]).tolist()]
    parts: list[Part] = []
    for follows, field in zip(goes_on, _fields_at(names), strict=True):
        _, begin, end = field
        if follows:
            first, _, fields = parts.pop()
            parts.append(Part(first, end, [*fields, field]))
        else:
            parts.append(Part(begin, end, [field]))
    return parts

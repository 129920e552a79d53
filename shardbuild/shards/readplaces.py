"""Samples at known places of a shard: what to read, and what to cut out of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from shardbuild.errors import ManifestError, StorageError, TruncatedShardError
from shardbuild.shards.index import running_sum
from shardbuild.shards.tarparse import BLOCK
from shardbuild.storage.filesystems import store_error

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from shardbuild.shards.index import Ints, ShardIndex
    from shardbuild.shards.samples import Sample
    from shardbuild.storage.meter import Meter

__all__ = [
    "LocalShard",
    "Places",
    "Span",
    "check_size",
    "cut_spans",
    "fields_of",
    "plan_spans",
]

_DIRECT_BYTES: Final = 32 << 10
"""A payload from which on is read by itself, straight into its bytes."""
_LOCAL_BYTES: Final = 48 << 10
"""Read at once: it is in the processor's cache yet when it is cut up."""
_GAP_BYTES: Final = 8 << 10
"""What is rather read than jumped over: it takes as long as a call of the kernel."""
_HEAD: Final = 4
"""Numbers in a row before those of the fields."""

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
        "_blob",
        "_forms",
        "_parts",
        "kinds",
        "names",
        "num_bytes",
        "rows",
        "starts",
        "table",
        "text",
        "unpack",
    )

    def __init__(
        self, index: ShardIndex, fields: Collection[str] | None = None
    ) -> None:
        members, ends = _wanted_members(index, fields)
        rows, starts = _rows_of(index, members, ends)
        kinds, names = _kinds_of(index, members, ends)
        # Read where they are needed: a call more takes a tenth of a sample's time.
        self.rows = rows.data.cast("B")
        self.starts = starts.data
        self.kinds = kinds.data
        self.table: Ints | None = None
        """All rows, where all are alike."""
        if len(names) == 1:
            self.table = rows.reshape(len(kinds), -1)
        self.names = names
        forms = {len(some): Struct(f"{_HEAD + 2 * len(some)}q") for some in names}
        self._forms = [forms[len(some)] for some in names]
        self.unpack = [form.unpack_from for form in self._forms]
        self._parts: dict[tuple[str, ...], list[Part]] = {}
        self._blob = index.key_bytes.tobytes()
        self.text = self._blob.decode() if self._blob.isascii() else None
        self.num_bytes = rows.nbytes + starts.nbytes + kinds.nbytes + len(self._blob)

    def row(self, i: int) -> tuple[tuple[str, ...], Row]:
        """The names of the wanted fields of sample ``i``, and its row."""
        kind = self.kinds[i]
        return self.names[kind], self.unpack[kind](self.rows, self.starts[i])

    def run(self, first: int, stop: int) -> list[tuple[tuple[str, ...], Row]]:
        """What `row` gives for each sample of a run."""
        if len(self.names) != 1:
            return [self.row(i) for i in range(first, stop)]
        (names,) = self.names
        part = self.rows[self.starts[first] : self.starts[stop]]
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
        mine = np.asarray(self.kinds) == self.names.index(names)
        rows = np.frombuffer(self.rows, np.int64)
        firsts = np.asarray(self.starts)[:-1][mine] // rows.itemsize
        table: Ints = rows[firsts[:, None] + np.arange(_HEAD + 2 * len(names))]
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


def fields_of(names: tuple[str, ...], row: Row) -> list[tuple[str, int, int]]:
    """Name, first byte and end of each field of a row."""
    origin = row[0]
    ends = iter(row[_HEAD:])
    return [
        (name, origin + start, origin + stop)
        for name, start, stop in zip(names, ends, ends, strict=True)
    ]


def _wanted_members(
    index: ShardIndex, fields: Collection[str] | None
) -> tuple[Ints, Ints]:
    """The members that are wanted, and where those of each sample end among them."""
    if fields is None:
        return np.arange(index.num_members), index.sample_members
    wanted = np.array([name in fields for name in index.extensions], dtype=np.bool_)
    kept = wanted[index.member_extension] if len(wanted) else wanted
    return np.flatnonzero(kept), running_sum(kept.astype(np.int64))[
        index.sample_members
    ]


def _rows_of(index: ShardIndex, members: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """All rows, one after the other, and at which byte each one starts."""
    counts = np.diff(ends)
    starts = index.member_offset[members]
    stops = starts + index.member_size[members]
    places = running_sum(counts * 2 + _HEAD)
    keys = index.key_offsets
    if len(counts) and counts[0] and bool((counts == counts[0]).all()):
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
    at = np.repeat(heads + _HEAD - 2 * ends[:-1], counts) + 2 * np.arange(len(members))
    origins = np.repeat(origin, counts)
    rows[at], rows[at + 1] = starts - origins, stops - origins
    return rows, places * rows.itemsize


def _table_of(starts: Ints, stops: Ints, keys: Ints, width: int) -> Ints:
    """The rows of samples that all have as many fields, column by column."""
    starts, stops = starts.reshape(-1, width), stops.reshape(-1, width)
    table = np.empty((len(starts), _HEAD + 2 * width), dtype=np.int64)
    origin = starts.min(axis=1)
    table[:, 0] = origin
    table[:, 1] = stops.max(axis=1) - origin
    table[:, 2], table[:, 3] = keys[:-1], keys[1:]
    table[:, _HEAD::2] = starts - origin[:, None]
    table[:, _HEAD + 1 :: 2] = stops - origin[:, None]
    return table.reshape(-1)


def _kinds_of(
    index: ShardIndex, members: Ints, ends: Ints
) -> tuple[Ints, list[tuple[str, ...]]]:
    """Of which kind each sample is; of each kind the names of the fields, in order."""
    num_samples = len(ends) - 1
    column = index.member_extension[members]
    counts = np.diff(ends)
    kinds = np.zeros(num_samples, dtype=np.int64)
    found: dict[tuple[int, ...], int] = {}
    if num_samples and bool((counts == counts[0]).all()):
        table = column.reshape(num_samples, int(counts[0]))
        if bool((table == table[0]).all()):
            found[tuple(table[0].tolist())] = 0
    if not found:
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
    starts, stops = rows[:, _HEAD::2], rows[:, _HEAD + 1 :: 2]
    is_small = (stops - starts).max(axis=0) <= _DIRECT_BYTES
    gaps = starts[:, 1:] - stops[:, :-1]
    is_near = (gaps.min(axis=0) >= 0) & (gaps.max(axis=0) <= _GAP_BYTES)
    goes_on = [False, *(is_near & is_small[1:] & is_small[:-1]).tolist()]
    parts: list[Part] = []
    for k, name in enumerate(names):
        at = _HEAD + 2 * k
        field = (name, at, at + 1)
        if goes_on[k]:
            first, _, fields = parts.pop()
            parts.append(Part(first, at + 1, [*fields, field]))
        else:
            parts.append(Part(at, at + 1, [field]))
    return parts


class Span(NamedTuple):
    """Bytes to read at once, and the fields that lie in them."""

    start: int
    stop: int
    fields: list[tuple[str, int, int]]


def plan_spans(
    fields: Iterable[tuple[str, int, int]], max_gap: int = _GAP_BYTES
) -> list[Span]:
    """Put fields together that lie near each other.

    >>> fields = [("a", 0, 9), ("b", 12, 20), ("c", 90, 95)]
    >>> [span[:2] for span in plan_spans(fields, 5)]
    [(0, 20), (90, 95)]
    """
    spans: list[Span] = []
    for field in fields:
        _, start, stop = field
        if spans and 0 <= start - spans[-1].stop <= max_gap:
            first, _, inside = spans[-1]
            inside.append(field)
            spans[-1] = Span(first, stop, inside)
        else:
            spans.append(Span(start, stop, [field]))
    return spans


def cut_spans(
    sample: Sample, spans: Sequence[Span], views: Sequence[bytes | memoryview]
) -> Sample:
    """Put the fields that lie in spans into a sample."""
    for (first, _, fields), view in zip(spans, views, strict=True):
        for name, start, stop in fields:
            sample[name] = bytes(view[start - first : stop - first])
    return sample


def check_size(url: str, num_bytes: int, index: ShardIndex) -> None:
    """Refuse a shard that is not as long as its index says.

    Raises:
        ManifestError: It is longer, or compressed: then there are no places.
        TruncatedShardError: It is shorter.
    """
    if index.file_bytes != index.num_bytes:
        raise ManifestError(url, "is compressed: its index gives no places to read at")
    if num_bytes < index.file_bytes:
        problem = f"the shard ends here, its index is of {index.file_bytes} bytes"
        raise TruncatedShardError(url, problem, num_bytes)
    if num_bytes > index.file_bytes:
        problem = f"has {num_bytes} bytes, its index is of {index.file_bytes}"
        raise ManifestError(url, problem)


class LocalShard:
    """A shard on disk that is read by ``pread``; threads may share it.

    The file is closed when nobody holds this any more. With ``is_named`` each
    sample has its ``__url__``.
    """

    __slots__ = ("_fd", "_is_named", "_size", "places", "stamp", "url")

    def __init__(
        self,
        path: str,
        url: str,
        index: ShardIndex,
        fields: Collection[str] | None = None,
        *,
        is_named: bool = False,
    ) -> None:
        self._fd = -1
        self._is_named = is_named
        self.url = url
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            facts = os.fstat(self._fd)
        except OSError as error:
            raise store_error(url, error) from error
        self.stamp = (facts.st_size, facts.st_mtime_ns, facts.st_ino, facts.st_dev)
        check_size(url, facts.st_size, index)
        self.places = Places(index, fields)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Held here: at the end of a program `os` may be gone before this is.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close(fd)

    def __enter__(self) -> LocalShard:
        return self

    def __exit__(self, *error: object) -> None:
        self.__del__()

    def read_one(self, i: int, meter: Meter) -> Sample:
        """Read sample ``i``.

        Raises:
            StorageError: It cannot be read.
            TruncatedShardError: The shard ends before it.
        """
        places = self.places
        kind = places.kinds[i]
        row = places.unpack[kind](places.rows, places.starts[i])
        names = places.names[kind]
        if row[1] > _DIRECT_BYTES:
            return self._read_parts(names, row, meter)
        data = self._pread(row[0], row[1], meter)
        sample = self._begun(row)
        j = _HEAD
        for name in names:
            sample[name] = data[row[j] : row[j + 1]]
            j += 2
        return sample

    def _begun(self, row: Row) -> Sample:
        text = self.places.text
        key = self.places.cut_key(row) if text is None else text[row[2] : row[3]]
        if self._is_named:
            return {"__key__": key, "__url__": self.url}
        return {"__key__": key}

    def _read_parts(self, names: tuple[str, ...], row: Row, meter: Meter) -> Sample:
        """Read a sample that is long; large fields straight into their bytes."""
        sample = self._begun(row)
        fd, pread, origin = self._fd, os.pread, row[0]
        parts = self.places.parts(names)
        num_bytes = offset = 0
        try:
            for first, last, fields in parts:
                start, size = row[first], row[last] - row[first]
                offset = origin + start
                data = pread(fd, size, offset)
                if len(data) != size:
                    data = self._read_rest(data, offset, size)
                num_bytes += size
                if len(fields) == 1:
                    sample[fields[0][0]] = data
                    continue
                for name, at, end in fields:
                    sample[name] = data[row[at] - start : row[end] - start]
        except OSError as error:
            problem = f"at byte {offset}: {error.strerror}"
            raise StorageError(self.url, problem) from error
        meter.read_bytes += num_bytes
        meter.read_requests += len(parts)
        return sample

    def read_rows(self, rows: Ints, meter: Meter) -> list[Sample]:
        """Read samples at any places, one ``pread`` each if they are small.

        Raises:
            StorageError: As `read_one`.
        """
        places = self.places
        if places.table is None:
            return [self.read_one(i, meter) for i in rows.tolist()]
        (names,) = places.names
        begun, pread, fd = self._begun, os.pread, self._fd
        url, text = self.url, places.text or ""
        is_plain = self._is_named and places.text is not None
        samples: list[Sample] = []
        num_bytes = num_read = offset = 0
        try:
            for row in places.table[rows].tolist():
                offset, size = row[0], row[1]
                if size > _DIRECT_BYTES:
                    samples.append(self._read_parts(names, row, meter))
                    continue
                data = pread(fd, size, offset)
                if len(data) != size:
                    data = self._read_rest(data, offset, size)
                num_bytes += size
                num_read += 1
                sample: Sample
                if is_plain:
                    sample = {"__key__": text[row[2] : row[3]], "__url__": url}
                else:
                    sample = begun(row)
                j = _HEAD
                for name in names:
                    sample[name] = data[row[j] : row[j + 1]]
                    j += 2
                samples.append(sample)
        except OSError as error:
            problem = f"at byte {offset}: {error.strerror}"
            raise StorageError(self.url, problem) from error
        finally:
            meter.read_bytes += num_bytes
            meter.read_requests += num_read
        return samples

    def read_run(self, first: int, stop: int, meter: Meter) -> list[Sample]:
        """Read samples that lie one after the other, many by one read."""
        samples: list[Sample] = []
        waiting: list[tuple[tuple[str, ...], Row]] = []
        origin = end = 0
        for pair in self.places.run(first, stop):
            names, row = pair
            start, size = row[0], row[1]
            if size > _DIRECT_BYTES:
                samples += self._read_near(waiting, origin, end, meter)
                waiting = []
                samples.append(self._read_parts(names, row, meter))
                continue
            gap = start - end
            if waiting and (gap > _GAP_BYTES or gap < 0 or end - origin > _LOCAL_BYTES):
                samples += self._read_near(waiting, origin, end, meter)
                waiting = []
            if not waiting:
                origin = start
            end = start + size
            waiting.append(pair)
        samples += self._read_near(waiting, origin, end, meter)
        return samples

    def _read_near(
        self,
        pairs: list[tuple[tuple[str, ...], Row]],
        origin: int,
        end: int,
        meter: Meter,
    ) -> list[Sample]:
        """Read samples that lie in one piece of the shard."""
        if not pairs:
            return []
        data = self._pread(origin, end - origin, meter)
        begun = self._begun
        samples = []
        for names, row in pairs:
            sample = begun(row)
            shift = row[0] - origin
            j = _HEAD
            for name in names:
                sample[name] = data[shift + row[j] : shift + row[j + 1]]
                j += 2
            samples.append(sample)
        return samples

    def _pread(self, offset: int, size: int, meter: Meter) -> bytes:
        try:
            data = os.pread(self._fd, size, offset)
            if len(data) != size:
                data = self._read_rest(data, offset, size)
        except OSError as error:
            problem = f"at byte {offset}: {error.strerror}"
            raise StorageError(self.url, problem) from error
        meter.read_bytes += size
        meter.read_requests += 1
        return data

    def _read_rest(self, data: bytes, offset: int, size: int) -> bytes:
        """Go on after a read that gave less: one ends at 2 GiB."""
        parts = [data]
        at, stop = offset + len(data), offset + size
        while at < stop:
            data = os.pread(self._fd, stop - at, at)
            if not data:
                problem = f"the shard ends before byte {stop}"
                end = min(at, os.fstat(self._fd).st_size)
                raise TruncatedShardError(self.url, problem, end)
            parts.append(data)
            at += len(data)
        return b"".join(parts)

    def check_first_header(self, index: ShardIndex) -> None:
        """See whether the shard begins as its index says.

        Raises:
            ManifestError: The first member has another name.
        """
        if not index.canonical or not index.num_samples:
            return
        block = os.pread(self._fd, BLOCK, int(index.sample_offsets[0]))
        if block[156:157] != b"0":
            return  # a pax header, which holds the name elsewhere
        name, prefix = block[:100].rstrip(b"\0"), block[345:500].rstrip(b"\0")
        path = prefix + b"/" + name if prefix else name
        if not path.startswith(index.key(0).encode() + b"."):
            problem = (
                f"begins with {path!r}, its index with {index.key(0)!r}: the shard "
                "was replaced; make its index again with 'shardbuild index'"
            )
            raise ManifestError(self.url, problem)

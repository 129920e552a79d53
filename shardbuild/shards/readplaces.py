"""Samples at known places of a shard: what to read, and what to cut out of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from shardbuild.errors import ManifestError, StorageError, TruncatedShardError
from shardbuild.shards.places import DIRECT_BYTES, GAP_BYTES, HEAD, Places, Row
from shardbuild.shards.smallcut import cut_small
from shardbuild.shards.tarparse import BLOCK
from shardbuild.storage.filesystems import store_error

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from shardbuild.shards.index import Ints, ShardIndex
    from shardbuild.shards.samples import Sample
    from shardbuild.storage.meter import Meter

__all__ = ["LocalShard", "Span", "check_size", "cut_spans", "plan_spans"]

_LOCAL_BYTES: Final = 48 << 10
"""Read at once: it is in the processor's cache yet when it is cut up."""
_AT_ONCE: Final = 64
"""Small samples that are read before they are cut up."""


class Span(NamedTuple):
    """Bytes to read at once, and the fields that lie in them."""

    start: int
    stop: int
    fields: list[tuple[str, int, int]]


def plan_spans(
    fields: Iterable[tuple[str, int, int]], max_gap: int = GAP_BYTES
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
        return self._read_row(*self.places.row(i), meter)

    def _read_row(self, names: tuple[str, ...], row: Row, meter: Meter) -> Sample:
        if row[1] > DIRECT_BYTES:
            return self._read_parts(names, row, meter)
        data = self._pread(row[0], row[1], meter)
        sample = self._begun(row)
        j = HEAD
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
        """Read a sample that is long."""
        samples: list[Sample] = [{}]
        self._read_long([row], names, samples, [0], meter)
        return samples[0]

    def _read_long(
        self,
        rows: list[Row],
        names: tuple[str, ...],
        samples: list[Sample],
        places: list[int],
        meter: Meter,
    ) -> None:
        """Read long samples of one kind; large fields straight into their bytes."""
        fd, pread, begun = self._fd, os.pread, self._begun
        parts = self.places.parts(names)
        num_bytes = offset = 0
        try:
            for at, row in zip(places, rows):  # noqa: B905  # as many
                sample = begun(row)
                for first, last, fields in parts:
                    start = row[first]
                    size = row[last] - start
                    offset = row[0] + start
                    data = pread(fd, size, offset)
                    if len(data) != size:
                        data = self._read_rest(data, offset, size)
                    num_bytes += size
                    if len(fields) == 1:
                        sample[fields[0][0]] = data
                        continue
                    for name, begin, end in fields:
                        sample[name] = data[row[begin] - start : row[end] - start]
                samples[at] = sample
        except OSError as error:
            problem = f"at byte {offset}: {error.strerror}"
            raise StorageError(self.url, problem) from error
        meter.read_bytes += num_bytes
        meter.read_requests += len(rows) * len(parts)

    def read_rows(
        self, rows: Ints, samples: list[Sample], places: list[int], meter: Meter
    ) -> None:
        """Read samples at any places into a list, one ``pread`` each if they are small.

        Args:
            rows: Which samples, best in the order they lie in.
            samples: What they are put into.
            places: Where in it each belongs.
            meter: Where it is counted what was read.

        Raises:
            StorageError: As `read_one`.
        """
        table, text = self.places.table, self.places.text
        if table is None:
            for at, i in zip(places, rows.tolist(), strict=True):
                samples[at] = self.read_one(i, meter)
            return
        picked = table.take(rows, axis=0).tolist()
        (names,) = self.places.names
        if self._is_named and self.places.are_small and text is not None:
            for start in range(0, len(picked), _AT_ONCE):
                some = picked[start : start + _AT_ONCE]
                parts = self._read_each(some, meter)
                cuts = zip(places[start : start + _AT_ONCE], parts, some, strict=True)
                cut_small(cuts, samples, names, text, self.url)
            return
        if self.places.are_long:
            self._read_long(picked, names, samples, places, meter)
            return
        for at, row in zip(places, picked, strict=True):
            samples[at] = self._read_row(names, row, meter)

    def _read_each(self, rows: list[Row], meter: Meter) -> list[bytes]:
        """Read small samples, one by one: what a call costs would be felt here."""
        pread, fd = os.pread, self._fd
        num_bytes = sum([row[1] for row in rows])
        try:
            parts = [pread(fd, row[1], row[0]) for row in rows]
        except OSError:
            parts = []
        if len(parts) < len(rows) or sum(map(len, parts)) != num_bytes:
            # Something failed, or gave less: now it is said where, or gone on with.
            return [self._pread(row[0], row[1], meter) for row in rows]
        meter.read_bytes += num_bytes
        meter.read_requests += len(rows)
        return parts

    def read_run(self, first: int, stop: int, meter: Meter) -> list[Sample]:
        """Read samples that lie one after the other, many by one read."""
        samples: list[Sample] = []
        waiting: list[tuple[tuple[str, ...], Row]] = []
        origin = end = 0
        for pair in self.places.run(first, stop):
            names, row = pair
            start, size = row[0], row[1]
            if size > DIRECT_BYTES:
                samples += self._read_near(waiting, origin, end, meter)
                waiting = []
                samples.append(self._read_parts(names, row, meter))
                continue
            gap = start - end
            if waiting and (gap > GAP_BYTES or gap < 0 or end - origin > _LOCAL_BYTES):
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
            j = HEAD
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

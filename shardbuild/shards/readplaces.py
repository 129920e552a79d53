"""Samples at known places of a shard: what to read, and what to cut out of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from shardbuild.errors import ManifestError, StorageError, TruncatedShardError
from shardbuild.shards.tarparse import BLOCK
from shardbuild.storage.filesystems import store_error

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from shardbuild.shards.index import ShardIndex
    from shardbuild.shards.samples import Sample
    from shardbuild.storage.meter import Meter

__all__ = ["LocalShard", "Places", "Span", "check_size", "cut_spans", "plan_spans"]

_DIRECT_BYTES: Final = 32 << 10
"""A payload from which on is read by itself, straight into its bytes."""
_LOCAL_BYTES: Final = 512 << 10
_GAP_BYTES: Final = 4 << 10


class Places:
    """An index for access to one sample after the other, at any place.

    Numbers come out of these columns several times as fast as out of numpy's.
    ``fields`` are those that are wanted, all if it is None.

    >>> from shardbuild.shards.index import IndexBuilder
    >>> builder = IndexBuilder()
    >>> builder.add("a", 0, [("cls", 512, 1), ("jpg", 1536, 700)])
    >>> places = Places(builder.finish(2560, 10240, canonical=True), ["jpg"])
    >>> places.key(0), places.wanted(0)
    ('a', [('jpg', 1536, 2236)])
    """

    __slots__ = (
        "_blob",
        "_text",
        "index",
        "key_ends",
        "kinds",
        "members",
        "names",
        "offsets",
        "sizes",
        "takes_all",
    )

    def __init__(self, index: ShardIndex, fields: Collection[str] | None = None):
        self.index = index
        self.members = _column(index.sample_members)
        self.offsets = _column(index.member_offset)
        self.sizes = _column(index.member_size)
        self.kinds = np.ascontiguousarray(index.member_extension).data
        self.key_ends = _column(index.key_offsets)
        self.takes_all = fields is None
        self.names: list[str | None] = [
            name if fields is None or name in fields else None
            for name in index.extensions
        ]
        self._blob = index.key_bytes.tobytes()
        self._text = self._blob.decode() if self._blob.isascii() else None

    def key(self, i: int) -> str:
        """The key of sample ``i``."""
        ends = self.key_ends
        if self._text is not None:
            return self._text[ends[i] : ends[i + 1]]
        return self._blob[ends[i] : ends[i + 1]].decode()

    def wanted(self, i: int) -> list[tuple[str, int, int]]:
        """Name, first byte and end of each wanted field of sample ``i``."""
        offsets, sizes, names, kinds = self.offsets, self.sizes, self.names, self.kinds
        found = []
        for j in range(self.members[i], self.members[i + 1]):
            name = names[kinds[j]]
            if name is not None:
                start = offsets[j]
                found.append((name, start, start + sizes[j]))
        return found


def _column(values: NDArray[np.int64]) -> memoryview:
    return np.ascontiguousarray(values, dtype=np.int64).data


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

    __slots__ = ("_fd", "_meta", "places", "stamp", "url")

    def __init__(
        self, path: str, url: str, places: Places, *, is_named: bool = False
    ) -> None:
        self._fd = -1
        self.url = url
        self.places = places
        self._meta: Sample = {"__url__": url} if is_named else {}
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            facts = os.fstat(self._fd)
        except OSError as error:
            raise store_error(url, error) from error
        self.stamp = (facts.st_size, facts.st_mtime_ns, facts.st_ino, facts.st_dev)
        check_size(url, facts.st_size, places.index)

    def __del__(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> LocalShard:
        return self

    def __exit__(self, *error: object) -> None:
        self.__del__()

    def check_first_header(self) -> None:
        """See whether the shard begins as its index says.

        Raises:
            ManifestError: The first member has another name.
        """
        index = self.places.index
        if not index.canonical or not index.num_samples:
            return
        start = int(index.sample_offsets[0])
        block = os.pread(self._fd, BLOCK, start)
        if block[156:157] != b"0":
            return  # a pax header, which holds the name elsewhere
        name, prefix = block[:100].rstrip(b"\0"), block[345:500].rstrip(b"\0")
        path = prefix + b"/" + name if prefix else name
        if not path.startswith(self.places.key(0).encode() + b"."):
            problem = (
                f"begins with {path!r}, its index with {self.places.key(0)!r}: "
                "the shard was replaced; make its index again with 'shardbuild index'"
            )
            raise ManifestError(self.url, problem)

    def read_one(self, i: int, meter: Meter) -> Sample:
        """Read sample ``i``.

        Raises:
            StorageError: It cannot be read.
            TruncatedShardError: The shard ends before it.
        """
        places = self.places
        members = places.members
        low, high = members[i], members[i + 1]
        offsets, sizes = places.offsets, places.sizes
        if low == high or not places.takes_all:
            return self._read_parts(i, meter)
        origin = offsets[low]
        size = offsets[high - 1] + sizes[high - 1] - origin
        if size > _DIRECT_BYTES:
            return self._read_parts(i, meter)
        data = self._pread(origin, size)
        meter.read_bytes += size
        meter.read_requests += 1
        sample: Sample = {"__key__": places.key(i), **self._meta}
        names, kinds = places.names, places.kinds
        for j in range(low, high):
            start = offsets[j] - origin
            sample[names[kinds[j]]] = data[start : start + sizes[j]]  # type: ignore[index]  # all are wanted
        return sample

    def _read_parts(self, i: int, meter: Meter) -> Sample:
        """Read what is wanted of a sample; large fields straight into their bytes."""
        sample: Sample = {"__key__": self.places.key(i), **self._meta}
        small: list[tuple[str, int, int]] = []
        for field in self.places.wanted(i):
            name, start, stop = field
            if stop - start > _DIRECT_BYTES:
                sample[name] = self._counted(start, stop, meter)
            else:
                sample[name] = b""  # its place among the fields
                small.append(field)
        spans = plan_spans(small)
        datas = [self._counted(span.start, span.stop, meter) for span in spans]
        return cut_spans(sample, spans, datas)

    def read_run(self, first: int, stop: int, meter: Meter) -> list[Sample]:
        """Read samples that lie one after the other, many by one read."""
        places = self.places
        if not places.takes_all:
            return [self._read_parts(i, meter) for i in range(first, stop)]
        members, offsets, sizes = places.members, places.offsets, places.sizes
        samples: list[Sample] = []
        i = first
        while i < stop:
            low, last = members[i], members[i + 1] - 1
            if low > last or offsets[last] + sizes[last] - offsets[low] > _DIRECT_BYTES:
                samples.append(self._read_parts(i, meter))
                i += 1
                continue
            origin = offsets[low]
            end = offsets[last] + sizes[last]
            begin, i = i, i + 1
            while i < stop:
                last = members[i + 1] - 1
                next_end = offsets[last] + sizes[last]
                if (
                    next_end - end > 2 * _DIRECT_BYTES
                    or next_end - origin > _LOCAL_BYTES
                ):
                    break
                end, i = next_end, i + 1
            data = self._counted(origin, end, meter)
            samples += self._cut_run(begin, i, data, origin)
        return samples

    def _cut_run(self, first: int, stop: int, data: bytes, origin: int) -> list[Sample]:
        places, meta = self.places, self._meta
        offsets, sizes, names = places.offsets, places.sizes, places.names
        kinds, members, key = places.kinds, places.members, places.key
        samples = []
        high = members[first]
        for i in range(first, stop):
            low, high = high, members[i + 1]
            sample: Sample = {"__key__": key(i), **meta}
            for j in range(low, high):
                start = offsets[j] - origin
                sample[names[kinds[j]]] = data[start : start + sizes[j]]  # type: ignore[index]  # all are wanted
            samples.append(sample)
        return samples

    def _counted(self, start: int, stop: int, meter: Meter) -> bytes:
        data = self._pread(start, stop - start)
        meter.count_read(stop - start)
        return data

    def _pread(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, offset)
            return data if len(data) == size else self._read_rest(data, offset, size)
        except OSError as error:
            problem = f"at byte {offset}: {error.strerror}"
            raise StorageError(self.url, problem) from error

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

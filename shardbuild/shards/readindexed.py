"""Samples by their places in an index: one read each, or one for many neighbours."""

from __future__ import annotations

import os
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from shardbuild.errors import ManifestError, TruncatedShardError
from shardbuild.shards.index import owned_positions
from shardbuild.storage.fetch import RangeSource
from shardbuild.storage.filesystems import store_error
from shardbuild.storage.meter import current_meter
from shardbuild.storage.urlparts import local_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from shardbuild.shards.index import ShardIndex
    from shardbuild.shards.samples import Sample
    from shardbuild.storage.urlparts import StorageOptions

    Ints = NDArray[np.int64]

__all__ = ["read_at", "read_indexed"]

_BATCH: Final = 256
_REMOTE_BYTES: Final = 8 << 20
_DIRECT_BYTES: Final = 32 << 10
"""A payload from which on is read by itself, straight into its bytes."""
_LOCAL_BYTES: Final = 512 << 10


def read_indexed(
    url: str,
    index: ShardIndex,
    positions: Iterable[int],
    *,
    storage_options: StorageOptions | None = None,
) -> Iterator[Sample]:
    """Read samples of an uncompressed shard by their positions, in that order.

    Neighbours are read together; of a store, many ranges at a time. Headers are
    not read again: the index is trusted, once the shard is as long as it says.

    Raises:
        IndexError: There is no such position.
        ManifestError: The index is of another shard, or of a compressed one.
        StorageError: The shard cannot be read.
        TruncatedShardError: It is shorter than when it was indexed.
    """
    if index.file_bytes != index.num_bytes:
        raise ManifestError(url, "is compressed: its index gives no places to read at")
    path = local_path(url)
    if path is None:
        with RangeSource(url, storage_options) as source:
            for rows in _batches(positions, index, _REMOTE_BYTES):
                yield from _read_remote(source, _Layout.of(index, rows))
        return
    with _LocalShard(path, url, index) as shard:
        for rows in _batches(positions, index, None):
            yield from shard.read(_Layout.of(index, rows))


def read_at(source: RangeSource, index: ShardIndex, i: int) -> Sample:
    """Read sample ``i`` by one request, or by one for each part that lies apart.

    Raises:
        IndexError: There is no such sample.
        StorageError: It cannot be read.
    """
    (rows,) = _batches([i], index, None)
    (sample,) = _read_remote(source, _Layout.of(index, rows))
    return sample


def _batches(
    positions: Iterable[int], index: ShardIndex, max_bytes: int | None
) -> Iterator[Ints]:
    """Cut positions into pieces that are handled together."""
    rest = iter(positions)
    count = index.num_samples
    while batch := list(islice(rest, _BATCH)):
        rows = np.array(batch, dtype=np.int64)
        if (rows < 0).any() or (rows >= count).any():
            raise IndexError(f"position out of range: the shard has {count} samples")
        if max_bytes is None:
            yield rows
            continue
        sizes = index.sample_offsets[rows + 1] - index.sample_offsets[rows]
        pieces = (np.cumsum(sizes) - sizes) // max_bytes
        yield from np.split(rows, np.flatnonzero(np.diff(pieces)) + 1)


class _Layout(NamedTuple):
    """What a batch of samples consists of, as plain lists."""

    rows: list[int]
    keys: list[str]
    bounds: list[int]
    """The first member of each sample, and the end."""
    fields: list[str]
    starts: list[int]
    ends: list[int]

    @classmethod
    def of(cls, index: ShardIndex, rows: Ints) -> _Layout:
        members, bounds = owned_positions(rows, index.sample_members)
        chars, key_bounds = owned_positions(rows, index.key_offsets)
        text = index.key_bytes[chars].tobytes()
        cuts = key_bounds.tolist()
        starts = index.member_offset[members]
        extensions = index.extensions
        return cls(
            rows=rows.tolist(),
            keys=[text[a:b].decode() for a, b in pairwise(cuts)],
            bounds=bounds.tolist(),
            fields=[extensions[i] for i in index.member_extension[members].tolist()],
            starts=starts.tolist(),
            ends=(starts + index.member_size[members]).tolist(),
        )

    def sample(self, i: int, data: bytes | memoryview, origin: int) -> Sample:
        """Cut sample ``i`` out of bytes that begin at offset ``origin``."""
        sample: Sample = {"__key__": self.keys[i]}
        for j in range(self.bounds[i], self.bounds[i + 1]):
            piece = data[self.starts[j] - origin : self.ends[j] - origin]
            sample[self.fields[j]] = bytes(piece)
        return sample


class _LocalShard:
    """A shard on disk that is read by ``pread``."""

    def __init__(self, path: str, url: str, index: ShardIndex) -> None:
        self._url = url
        self._meter = current_meter()
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise store_error(url, error) from error
        size = os.fstat(self._fd).st_size
        if size != index.file_bytes:
            os.close(self._fd)
            problem = f"has {size} bytes, its index is of {index.file_bytes}"
            raise ManifestError(url, problem)

    def __enter__(self) -> _LocalShard:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)

    def read(self, layout: _Layout) -> Iterator[Sample]:
        """Read a batch."""
        rows, bounds = layout.rows, layout.bounds
        starts, ends = layout.starts, layout.ends
        i, count = 0, len(rows)
        while i < count:
            low, high = bounds[i], bounds[i + 1]
            if low == high or ends[high - 1] - starts[low] > _DIRECT_BYTES:
                yield self._read_large(layout, i)
                i += 1
                continue
            # Samples that lie one after the other come by one read.
            origin, stop = starts[low], ends[high - 1]
            first, i = i, i + 1
            while i < count and rows[i] == rows[i - 1] + 1:
                end = ends[bounds[i + 1] - 1]
                if end - stop > 2 * _DIRECT_BYTES or end - origin > _LOCAL_BYTES:
                    break
                stop, i = end, i + 1
            data = self._pread(origin, stop - origin)
            for k in range(first, i):
                yield layout.sample(k, data, origin)

    def _read_large(self, layout: _Layout, i: int) -> Sample:
        """Read a sample by its payloads, so that large ones are copied once."""
        sample: Sample = {"__key__": layout.keys[i]}
        for j in range(layout.bounds[i], layout.bounds[i + 1]):
            start = layout.starts[j]
            sample[layout.fields[j]] = self._pread(start, layout.ends[j] - start)
        return sample

    def _pread(self, offset: int, size: int) -> bytes:
        parts = []
        stop = offset + size
        while offset < stop:  # one pread ends at 2 GiB
            data = os.pread(self._fd, stop - offset, offset)
            if not data:
                problem = f"the shard ends before byte {stop}"
                raise TruncatedShardError(self._url, problem, offset)
            self._meter.count_read(len(data))
            offset += len(data)
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_remote(source: RangeSource, layout: _Layout) -> list[Sample]:
    """Read a batch by ranges: one for each sample, which the source joins."""
    bounds, starts, ends = layout.bounds, layout.starts, layout.ends
    owners = [i for i in range(len(layout.rows)) if bounds[i] < bounds[i + 1]]
    offsets = [starts[bounds[i]] for i in owners]
    sizes = [ends[bounds[i + 1] - 1] - starts[bounds[i]] for i in owners]
    views = [memoryview(bytearray(size)) for size in sizes]
    source.read_into(offsets, views)
    samples: list[Sample] = [{"__key__": key} for key in layout.keys]
    for i, view, offset in zip(owners, views, offsets, strict=True):
        samples[i] = layout.sample(i, view, offset)
    return samples

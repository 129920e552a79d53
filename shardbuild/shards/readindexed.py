"""Samples by their places in an index: one read each, or one for many neighbours."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from shardbuild.errors import ManifestError
from shardbuild.shards.places import Places
from shardbuild.shards.readplaces import LocalShard, cut_spans, plan_spans
from shardbuild.storage.fetch import RangeSource
from shardbuild.storage.meter import current_meter
from shardbuild.storage.urlparts import local_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from shardbuild.shards.index import ShardIndex
    from shardbuild.shards.samples import Sample
    from shardbuild.storage.urlparts import StorageOptions

    Ints = NDArray[np.int64]

__all__ = ["read_at", "read_indexed", "runs_of"]

_BATCH: Final = 256
_REMOTE_BYTES: Final = 8 << 20


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
        places = Places(index)
        with RangeSource(url, storage_options) as source:
            for rows in _batches(positions, index, _REMOTE_BYTES):
                wanted = [(places.key(i), places.wanted(i)) for i in rows.tolist()]
                yield from _read_remote(source, wanted)
        return
    meter = current_meter()
    with LocalShard(path, url, index) as shard:
        for rows in _batches(positions, index, None):
            for first, stop in runs_of(rows):
                yield from shard.read_run(first, stop, meter)


def read_at(source: RangeSource, index: ShardIndex, i: int) -> Sample:
    """Read sample ``i`` by one request, or by one for each part that lies apart.

    Raises:
        IndexError: There is no such sample.
        StorageError: It cannot be read.
    """
    (_,) = _batches([i], index, None)
    fields = [(name, start, start + size) for name, start, size in index.members(i)]
    (sample,) = _read_remote(source, [(index.key(i), fields)])
    return sample


def runs_of(positions: Ints) -> list[tuple[int, int]]:
    """First and end of each run of positions that follow one another.

    >>> runs_of(np.array([3, 4, 5, 9, 5]))
    [(3, 6), (9, 10), (5, 6)]
    """
    if not len(positions):
        return []
    last = np.append(np.diff(positions) != 1, True)
    first = np.append(True, last[:-1])
    return list(
        zip(positions[first].tolist(), (positions[last] + 1).tolist(), strict=True)
    )


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


def _read_remote(
    source: RangeSource, wanted: Iterable[tuple[str, list[tuple[str, int, int]]]]
) -> list[Sample]:
    """Read samples, given by key and fields, by ranges, which the source joins."""
    planned = [(key, plan_spans(fields)) for key, fields in wanted]
    flat = [span for _, spans in planned for span in spans]
    views = [memoryview(bytearray(span.stop - span.start)) for span in flat]
    source.read_into([span.start for span in flat], views)
    given = iter(views)
    return [
        cut_spans({"__key__": key}, spans, list(islice(given, len(spans))))
        for key, spans in planned
    ]

"""Samples at any places of a data set, fast: the only way that training reads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from functools import cached_property
from itertools import islice, pairwise, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shardbuild.errors import ManifestError, StorageError
from shardbuild.shards.places import Places, fields_of
from shardbuild.shards.readplaces import (
    LocalShard,
    Span,
    check_size,
    cut_spans,
    plan_spans,
)
from shardbuild.storage.fetch import RangeSource, read_many
from shardbuild.storage.meter import current_meter
from shardbuild.storage.parallel import map_parallel
from shardbuild.storage.partcache import Wanted
from shardbuild.storage.ranges import BUDGET_BYTES
from shardbuild.storage.urlparts import local_path
from shardbuild.train.shardset import INDEX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shardbuild.shards.index import Ints, ShardIndex
    from shardbuild.shards.samples import Sample
    from shardbuild.storage.partcache import PartCache
    from shardbuild.storage.urlparts import StorageOptions
    from shardbuild.train.catalog import Catalog

__all__ = ["MAX_OPEN", "SampleReader"]

MAX_OPEN = 512
"""Shards that are open at once: half of the files that a process usually may open."""

_AT_ONCE = 64
_NUM_LOOKS = 32
_ROW_BITS = 40
"""No shard has more samples, and no data set as many shards as the rest can count."""
_ROW_MASK = (1 << _ROW_BITS) - 1


class _RemoteShard:
    """A shard on a store."""

    __slots__ = ("num_bytes", "places", "source", "stamp", "url")

    def __init__(
        self,
        source: RangeSource,
        index: ShardIndex,
        fields: Sequence[str] | None,
        version: str | None,
    ) -> None:
        self.url = source.url
        self.source = source
        facts = source.look()
        if version not in (None, facts.fingerprint):
            problem = (
                f"is {facts.fingerprint}, the manifest was made of {version}: "
                "make it again with 'shardbuild index --overwrite'"
            )
            raise ManifestError(self.url, problem)
        if facts.num_bytes is not None:
            check_size(self.url, facts.num_bytes, index)
        self.stamp = facts.fingerprint
        self.num_bytes = index.file_bytes
        self.places = Places(index, fields)


_Shard = LocalShard | _RemoteShard


class SampleReader:
    """Reads samples of a catalog by their places, in the order asked for.

    Local shards by one ``pread`` for each sample, or for many neighbours; those of
    stores by parallel ranges, each shard in one version. With ``fields`` only these
    are read. The shards used last stay open, at most ``max_open``, beside those that
    other threads are just reading. Threads may share it; it is pickled without what is
    open, and opens its shards anew after a fork.

    >>> import tempfile
    >>> from shardbuild.shards.shardwriter import ShardWriter
    >>> from shardbuild.train.catalog import Catalog
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with ShardWriter(f"{folder}/x-%02d.tar", maxcount=2) as writer:
    ...         for number in range(5):
    ...             _ = writer.write({"__key__": f"k{number}", "cls": b"%d" % number})
    ...     with SampleReader(Catalog.find(f"{folder}/x.json")) as reader:
    ...         samples = reader.read([2, 0], [0, 1])
    >>> [(sample["__key__"], sample["cls"]) for sample in samples]
    [('k4', b'4'), ('k1', b'1')]
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        fields: Sequence[str] | None = None,
        cache: PartCache | None = None,
        storage_options: StorageOptions | None = None,
        max_open: int = MAX_OPEN,
    ) -> None:
        self.catalog = catalog
        self.fields = None if fields is None else tuple(fields)
        self._cache = cache
        self._options = storage_options or catalog.storage_options
        self._max_open = max(1, max_open)
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Shard] = OrderedDict()
        self._num_index_bytes = 0
        self._stamps = np.zeros(len(self.catalog.urls), dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_pid", "_lock", "_open", "_num_index_bytes", "_stamps"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def read(
        self, shards: Ints | Sequence[int], rows: Ints | Sequence[int]
    ) -> list[Sample]:
        """Samples of fields of bytes, with ``__key__`` and ``__url__``.

        Raises:
            IndexError: There is no such place.
            ManifestError: An index is missing, or is not that of its shard.
            StorageError: A shard cannot be read, or has changed since it was read.
            TruncatedShardError: A shard ends before a sample that it should have.
        """
        self._check_process()
        shards = np.asarray(shards, dtype=np.int64)
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) == 1:  # at a place chosen by hand, numpy's columns are slow
            number = int(shards[0])
            position = self.catalog.position(number, int(rows[0]))
            return self._read_runs([(number, position, 1)])
        positions = self.catalog.positions(shards, rows)
        if not len(positions):
            return []
        places = (shards << _ROW_BITS) | positions
        ends = places[1:] != places[:-1] + 1
        if self._is_local and 2 * np.count_nonzero(ends) >= len(ends):
            return self._read_scattered(places)
        starts = np.append(0, np.flatnonzero(ends) + 1)
        lengths = np.diff(np.append(starts, len(positions))).tolist()
        runs = zip(
            shards[starts].tolist(), positions[starts].tolist(), lengths, strict=True
        )
        # Of stores all at once: each round would be a wait for an answer.
        at_once = _AT_ONCE if self._is_local else len(starts)
        samples: list[Sample] = []
        while some := list(islice(runs, at_once)):
            samples += self._read_runs(some)
        return samples

    @cached_property
    def _is_local(self) -> bool:
        return local_path(self.catalog.urls[0]) is not None

    def _read_runs(self, runs: list[tuple[int, int, int]]) -> list[Sample]:
        opened = self._opened({shard for shard, _, _ in runs})
        meter = current_meter()
        samples: list[Sample] = []
        far: list[tuple[int, _RemoteShard, int]] = []
        for number, first, length in runs:
            shard = opened[number]
            if isinstance(shard, LocalShard):
                if length == 1:
                    samples.append(shard.read_one(first, meter))
                else:
                    samples += shard.read_run(first, first + length, meter)
            else:
                for i in range(first, first + length):
                    far.append((len(samples), shard, i))
                    samples.append({})
        if far:
            _read_far(far, samples, self._cache)
        return samples

    def _read_scattered(self, places: Ints) -> list[Sample]:
        """Read shard by shard, front to back: what lies near is in the caches yet."""
        order = places.argsort()
        ordered = places[order]
        numbers, rows = ordered >> _ROW_BITS, ordered & _ROW_MASK
        starts = (numbers[1:] != numbers[:-1]).nonzero()[0] + 1
        bounds = [0, *starts.tolist(), len(order)]
        groups = zip(numbers[bounds[:-1]].tolist(), pairwise(bounds), strict=True)
        meter = current_meter()
        asked = order.tolist()
        samples: list[Sample] = [{}] * len(asked)
        far: list[tuple[int, _RemoteShard, int]] = []
        while some := list(islice(groups, _AT_ONCE)):
            opened = self._opened({number for number, _ in some})
            for number, (start, stop) in some:
                shard, here = opened[number], asked[start:stop]
                if isinstance(shard, LocalShard):
                    shard.read_rows(rows[start:stop], samples, here, meter)
                else:
                    wanted = rows[start:stop].tolist()
                    far += zip(here, repeat(shard), wanted, strict=False)
        if far:
            _read_far(far, samples, self._cache)
        return samples

    # -- what is open ---------------------------------------------------------

    def _opened(self, numbers: set[int]) -> dict[int, _Shard]:
        """The shards of these numbers, all open."""
        found: dict[int, _Shard] = {}
        missing: list[int] = []
        with self._lock:
            for number in numbers:
                shard = self._open.get(number)
                if shard is None:
                    missing.append(number)
                else:
                    self._open.move_to_end(number)
                    found[number] = shard
        missing.sort()
        for number, shard in zip(missing, self._open_all(missing), strict=True):
            found[number] = self._keep(number, shard)
        return found

    def _open_all(self, numbers: list[int]) -> Iterator[_Shard]:
        """Open shards; of a store many at a time."""
        if not numbers or self._is_local:
            return map(self._open_shard, numbers)
        pairs = [(n, self._source(self.catalog.urls[n])) for n in numbers]
        return map_parallel(
            lambda pair: self._open_shard(*pair), pairs, num_parallel=_NUM_LOOKS
        )

    def _source(self, url: str) -> RangeSource | None:
        return None if local_path(url) is not None else RangeSource(url, self._options)

    def _open_shard(self, number: int, source: RangeSource | None = None) -> _Shard:
        index = self.catalog.index(number, keep=False)
        url = self.catalog.urls[number]
        path = local_path(url)
        if path is None:
            source = source or RangeSource(url, self._options)
            version = self.catalog.versions[number]
            return _RemoteShard(source, index, self.fields, version)
        shard = LocalShard(path, url, index, self.fields, is_named=True)
        shard.check_first_header(index)
        return shard

    def _keep(self, number: int, shard: _Shard) -> _Shard:
        with self._lock:
            stamp = _hash_of(shard.stamp)
            if self._stamps[number] not in (0, stamp):
                problem = "has changed since it was first read: its samples are others"
                raise StorageError(shard.url, problem)
            self._stamps[number] = stamp
            if number in self._open:
                return self._open[number]
            self._open[number] = shard
            self._num_index_bytes += shard.places.num_bytes
            while len(self._open) > self._max_open or (
                self._num_index_bytes > INDEX_BYTES and len(self._open) > 1
            ):
                _, oldest = self._open.popitem(last=False)
                self._num_index_bytes -= oldest.places.num_bytes
        return shard

    def _check_process(self) -> None:
        """Begin anew after a fork: another thread may have held the lock."""
        if self._pid != os.getpid():
            self._start()

    def close(self) -> None:
        """Let go of all shards; reading again opens them again."""
        self._check_process()
        with self._lock:
            self._open.clear()
            self._num_index_bytes = 0

    def __enter__(self) -> SampleReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _hash_of(stamp: object) -> int:
    """A number, never 0, for what a shard was when it was opened."""
    digest = hashlib.blake2b(repr(stamp).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") + 1


class _Planned(NamedTuple):
    """A sample of a store, and what of it is wanted."""

    at: int
    """Its place among those that are read."""
    shard: _RemoteShard
    key: str
    spans: list[Span]
    views: list[memoryview]


def _read_far(
    wanted: list[tuple[int, _RemoteShard, int]],
    samples: list[Sample],
    cache: PartCache | None,
) -> None:
    """Fill in samples of stores; so many bytes at a time as the budget has."""
    batch: list[_Planned] = []
    num_bytes = 0
    for at, shard, i in wanted:
        names, row = shard.places.row(i)
        spans = plan_spans(fields_of(names, row))
        sizes = [span.stop - span.start for span in spans]
        if batch and num_bytes + sum(sizes) > BUDGET_BYTES:
            _fetch(batch, samples, cache)
            batch, num_bytes = [], 0
        views = [memoryview(bytearray(size)) for size in sizes]
        batch.append(_Planned(at, shard, shard.places.cut_key(row), spans, views))
        num_bytes += sum(sizes)
    _fetch(batch, samples, cache)


def _fetch(
    batch: list[_Planned], samples: list[Sample], cache: PartCache | None
) -> None:
    jobs: dict[int, Wanted] = {}
    for planned in batch:
        shard = planned.shard
        job = jobs.get(id(shard))
        if job is None:
            job = Wanted(shard.source, shard.stamp, shard.num_bytes, [], [])
            jobs[id(shard)] = job
        job.offsets.extend(span.start for span in planned.spans)
        job.views.extend(planned.views)
    if cache is None:
        read_many((job.source, job.offsets, job.views) for job in jobs.values())
    else:
        cache.read(jobs.values())
    for at, shard, key, spans, views in batch:
        samples[at] = cut_spans({"__key__": key, "__url__": shard.url}, spans, views)

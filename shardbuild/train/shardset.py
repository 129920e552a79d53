"""The shards of a data set: how many samples each holds, and its index on demand."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shardbuild.errors import ManifestError, UsageError
from shardbuild.shards.compress import compression_of
from shardbuild.shards.index import index_url, load_index
from shardbuild.shards.manifest import ShardColumns, names_manifest
from shardbuild.storage.braces import expand_braces
from shardbuild.storage.parallel import map_parallel
from shardbuild.storage.publish import read_bytes
from shardbuild.storage.schemes import is_stream
from shardbuild.storage.urls import expand_urls, local_path, resolve_all_listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shardbuild.shards.index import Ints, ShardIndex
    from shardbuild.storage.urlparts import StorageOptions

__all__ = ["INDEX_BYTES", "ShardSet", "index_bytes"]

Indexes = Mapping[int, "ShardIndex"] | Sequence["ShardIndex"]

INDEX_BYTES = 256 << 20
"""Memory for indexes that are kept because they may be asked for again."""

_COLUMNS = (
    *("key_bytes", "key_offsets", "sample_members", "sample_offsets"),
    *("member_extension", "member_offset", "member_size"),
)


def index_bytes(index: ShardIndex) -> int:
    """Memory that an index takes."""
    return sum(int(getattr(index, name).nbytes) for name in _COLUMNS)


class _Part(NamedTuple):
    """Shards of one manifest, or of one list."""

    urls: list[str]
    counts: Sequence[int]
    sizes: Sequence[int]
    digests: Sequence[str | None]
    versions: Sequence[str | None]
    indexes: Mapping[int, ShardIndex]
    """Those that had to be loaded, by number."""


class ShardSet:
    """Shards with their counts of samples and sizes, in data set order.

    Indexes are loaded when they are asked for; those used last are kept, as many as
    fit ``INDEX_BYTES``. Pickled without them, but with what holds those that were
    learned.
    """

    def __init__(  # noqa: PLR0913  # what is known of shards
        self,
        urls: list[str],
        counts: Ints,
        sizes: Ints,
        *,
        fingerprint: str,
        versions: Sequence[str | None] | None = None,
        learned: Indexes | None = None,
        storage_options: StorageOptions | None = None,
    ) -> None:
        self.urls = urls
        self.counts = counts
        self.sizes = sizes
        self.fingerprint = fingerprint
        self.versions = [None] * len(urls) if versions is None else versions
        """What each shard's version on its store has to be, where that is known."""
        self.storage_options = storage_options
        self._learned = learned
        self._start_keeping()

    def _start_keeping(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, ShardIndex] = OrderedDict()
        self._num_kept_bytes = 0
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_lock", "_kept", "_num_kept_bytes", "_pid"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_keeping()

    @classmethod
    def find(
        cls, specs: str | Sequence[str], storage_options: StorageOptions | None = None
    ) -> ShardSet | None:
        """The shards that url specs name; None if one of them cannot be indexed.

        Raises:
            ManifestError: A manifest or an index is damaged, or they disagree.
            StorageError: A manifest or an index cannot be read.
        """
        parts = []
        for part in _parts(
            [specs] if isinstance(specs, str) else specs, storage_options
        ):
            if part is None:
                return None
            parts.append(part)
        counts = np.array([n for part in parts for n in part.counts], dtype=np.int64)
        sizes = np.array([n for part in parts for n in part.sizes], dtype=np.int64)
        digests = [digest for part in parts for digest in part.digests]
        shards = cls(
            [url for part in parts for url in part.urls],
            counts,
            sizes,
            fingerprint=_fingerprint(counts, sizes, digests),
            versions=[version for part in parts for version in part.versions],
            storage_options=storage_options,
        )
        first = 0
        for part in parts:
            for number, index in part.indexes.items():
                shards._keep(first + number, index)
            first += len(part.urls)
        return shards

    @classmethod
    def of_indexes(
        cls,
        urls: Sequence[str],
        indexes: Indexes,
        storage_options: StorageOptions | None = None,
    ) -> ShardSet | None:
        """Shards whose indexes are here already, by number; None if one is compressed.

        They are asked for again when they are needed.
        """
        if len(urls) != len(indexes):
            problem = f"{len(urls)} urls and {len(indexes)} indexes were given"
            raise UsageError("indexes", problem)
        counts = np.zeros(len(urls), dtype=np.int64)
        sizes = np.zeros(len(urls), dtype=np.int64)
        for number in range(len(urls)):
            index = indexes[number]
            if index.file_bytes != index.num_bytes:
                return None
            counts[number], sizes[number] = index.num_samples, index.file_bytes
        return cls(
            list(urls),
            counts,
            sizes,
            fingerprint=_fingerprint(counts, sizes, [None] * len(counts)),
            learned=indexes,
            storage_options=storage_options,
        )

    def __len__(self) -> int:
        return len(self.urls)

    def reversed(self) -> ShardSet:
        """The same shards, the last one first."""
        learned = self._learned
        if learned is not None:
            learned = [learned[number] for number in range(len(self.urls))][::-1]
        return ShardSet(
            self.urls[::-1],
            self.counts[::-1],
            self.sizes[::-1],
            fingerprint=self.fingerprint,
            versions=self.versions[::-1],
            learned=learned,
            storage_options=self.storage_options,
        )

    def index(self, shard: int, *, keep: bool = True) -> ShardIndex:
        """The index of a shard, loaded unless it is kept.

        Raises:
            ManifestError: It is damaged, is of another shard, or is missing.
            StorageError: It cannot be read.
        """
        if self._pid != os.getpid():  # the lock may have been held at the fork
            self._start_keeping()
        with self._lock:
            index = self._kept.get(shard)
            if index is not None:
                self._kept.move_to_end(shard)
                return index
        index = self._load(shard) if self._learned is None else self._learned[shard]
        if keep:
            self._keep(shard, index)
        return index

    def indexes(self, shards: Iterable[int]) -> Iterator[ShardIndex]:
        """Indexes that are needed once, in order; of stores many at a time."""
        shards = list(shards)
        if all(local_path(self.urls[shard]) is not None for shard in shards):
            return (self.index(shard, keep=False) for shard in shards)
        return map_parallel(lambda shard: self.index(shard, keep=False), shards)

    def _load(self, shard: int) -> ShardIndex:
        url = self.urls[shard]
        num_bytes = int(self.sizes[shard])
        index = load_index(url, self.storage_options, num_bytes=num_bytes)
        if index is None:
            problem = f"is missing: make it with 'shardbuild index {url}'"
            raise ManifestError(index_url(url), problem)
        _check_count(url, index, int(self.counts[shard]))
        return index

    def _keep(self, shard: int, index: ShardIndex) -> None:
        with self._lock:
            if shard in self._kept:
                return
            self._kept[shard] = index
            self._num_kept_bytes += index_bytes(index)
            while self._num_kept_bytes > INDEX_BYTES and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._num_kept_bytes -= index_bytes(oldest)


def _fingerprint(counts: Ints, sizes: Ints, digests: Sequence[str | None]) -> str:
    state = hashlib.sha256(b"shardbuild data set 1\0")
    state.update(counts.astype("<i8").tobytes())
    state.update(sizes.astype("<i8").tobytes())
    state.update("\n".join(digest or "" for digest in digests).encode())
    return state.hexdigest()


def _check_count(url: str, index: ShardIndex, num_samples: int) -> None:
    if index.num_samples != num_samples:
        problem = (
            f"it has {index.num_samples} samples, the manifest says {num_samples}: "
            "make it again with 'shardbuild index'"
        )
        raise ManifestError(index_url(url), problem)


# -- what url specs name ------------------------------------------------------


def _parts(
    specs: Sequence[str], options: StorageOptions | None
) -> Iterator[_Part | None]:
    for spec in specs:
        for url in expand_braces(spec):
            if names_manifest(url):
                yield _manifest_part(url, options)
            else:
                yield _listed_part(expand_urls(url, options), options)


def _manifest_part(url: str, options: StorageOptions | None) -> _Part | None:
    """Shards of a manifest: ours tells all that is needed, others' only their urls."""
    data = read_bytes(url, storage_options=options)
    columns = ShardColumns.from_bytes(data, url)
    names, counts, known, digests, versions, is_ours = columns
    urls = resolve_all_listed(url, names)
    sizes = [size for size in known if size is not None]
    is_trusted = is_ours and len(sizes) == len(urls)
    indexes = _probed(urls, known, options, only_first=is_trusted)
    if indexes is None:
        return None
    for number, index in indexes.items():
        _check_count(urls[number], index, counts[number])
    if not is_trusted:
        sizes = [indexes[number].file_bytes for number in range(len(urls))]
    return _Part(urls, counts, sizes, digests, versions, indexes)


def _listed_part(urls: list[str], options: StorageOptions | None) -> _Part | None:
    indexes = _probed(urls, [None] * len(urls), options)
    if indexes is None:
        return None
    found = [indexes[number] for number in range(len(urls))]
    counts = [index.num_samples for index in found]
    sizes = [index.file_bytes for index in found]
    unknown = [None] * len(urls)
    return _Part(urls, counts, sizes, unknown, unknown, indexes)


def _probed(
    urls: list[str],
    sizes: Sequence[int | None],
    options: StorageOptions | None,
    *,
    only_first: bool = False,
) -> dict[int, ShardIndex] | None:
    """The indexes of shards, or of the first; None if one gives no places."""
    if any(not url.endswith(".tar") and compression_of(url) for url in urls):
        return None
    if any(map(is_stream, urls[:1] if only_first else urls)):
        return None

    def load(number: int) -> ShardIndex | None:
        return load_index(urls[number], options, num_bytes=sizes[number])

    numbers = range(min(1, len(urls)) if only_first else len(urls))
    are_near = all(local_path(urls[number]) is not None for number in numbers)
    found: dict[int, ShardIndex] = {}
    loaded = map(load, numbers) if are_near else map_parallel(load, numbers)
    for number, index in zip(numbers, loaded, strict=True):
        if index is None or index.file_bytes != index.num_bytes:
            return None
        found[number] = index
    return found

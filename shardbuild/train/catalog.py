"""The catalog of a data set: which samples it has, and where each of them is."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from shardbuild.errors import SampleError, UsageError
from shardbuild.shards.index import running_sum
from shardbuild.train.columns import Columns
from shardbuild.train.keytable import KeyTable
from shardbuild.train.shardset import Indexes, ShardSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from shardbuild.shards.index import Ints, ShardIndex
    from shardbuild.storage.urlparts import StorageOptions

__all__ = ["Catalog", "Columns"]


class Catalog:
    """The samples of a data set, or a selection of them, by shard and row.

    A row is the position of a sample among the selected ones of its shard. Made by
    `find`; `where` and slices give further catalogs of the same shards. Threads may
    share it, and it is pickled without open files and without loaded indexes.

    >>> import tempfile
    >>> from shardbuild.shards.shardwriter import ShardWriter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with ShardWriter(f"{folder}/x-%02d.tar", maxcount=2) as writer:
    ...         for number in range(5):
    ...             _ = writer.write({"__key__": f"k{number}", "cls": b"1" * number})
    ...     catalog = Catalog.find(f"{folder}/x.json")
    ...     large = catalog.where(lambda columns: columns.size("cls") > 1)
    ...     catalog.counts.tolist(), large.counts.tolist()
    ...     catalog.find_key("k3"), large[1:].find_key("k3"), large.place(-1)
    ([2, 2, 1], [0, 2, 1])
    ((1, 1), (1, 0), (2, 0))
    """

    def __init__(
        self,
        shards: ShardSet,
        first: Ints | None = None,
        counts: Ints | None = None,
        *,
        step: int = 1,
        chosen: tuple[NDArray[Any], Ints] | None = None,
    ) -> None:
        self._shards = shards
        # Row r of shard s is first[s] + step * r: a position in the shard, or, where
        # rows were chosen one by one, among those of the shard that were.
        self._first = np.zeros(len(shards), np.int64) if first is None else first
        self._step = step
        self._chosen = chosen
        self.counts = shards.counts if counts is None else counts

    @classmethod
    def find(
        cls, urls: str | Sequence[str], storage_options: StorageOptions | None = None
    ) -> Catalog | None:
        """The catalog of the shards that url specs name.

        Manifests of ours are trusted; for others, and for lists, the index of each
        shard is loaded. None if a shard has no index, or is compressed: then nobody
        knows where its samples are.

        Raises:
            ManifestError: A manifest or an index is damaged, or they disagree.
            StorageError: One of them cannot be read, or a pattern matches nothing.
        """
        shards = ShardSet.find(urls, storage_options)
        return None if shards is None else cls(shards)

    @classmethod
    def of_indexes(
        cls,
        urls: Sequence[str],
        indexes: Indexes,
        storage_options: StorageOptions | None = None,
    ) -> Catalog | None:
        """The catalog of shards whose indexes are nowhere but here, by number.

        None if a shard is compressed.
        """
        shards = ShardSet.of_indexes(urls, indexes, storage_options)
        return None if shards is None else cls(shards)

    @property
    def urls(self) -> list[str]:
        """The urls of the shards, in data set order."""
        return self._shards.urls

    @property
    def versions(self) -> Sequence[str | None]:
        """The versions that the shards have to be on their stores, where known."""
        return self._shards.versions

    @property
    def storage_options(self) -> StorageOptions | None:
        """Options for the store that the shards are on."""
        return self._shards.storage_options

    @cached_property
    def num_samples(self) -> int:
        """How many samples are selected."""
        return int(self.counts.sum())

    def __len__(self) -> int:
        return self.num_samples

    @property
    def mean_bytes(self) -> float:
        """Bytes that a sample takes in a shard's file, on average."""
        num_samples = int(self._shards.counts.sum())
        return float(self._shards.sizes.sum()) / num_samples if num_samples else 0.0

    @cached_property
    def fingerprint(self) -> str:
        """What tells this data set and selection from others, wherever it lies."""
        if self._is_whole:
            return self._shards.fingerprint
        state = hashlib.sha256(self._shards.fingerprint.encode() + b"\0selection\0")
        if self._chosen is None:
            state.update(b"%d\0" % self._step)
            for column in (np.where(self.counts > 0, self._first, 0), self.counts):
                state.update(column.astype("<i8").tobytes())
        else:
            state.update(self.counts.astype("<i8").tobytes())
            for shard in np.flatnonzero(self.counts).tolist():
                state.update(self._positions_in(shard).astype("<i8").tobytes())
        return state.hexdigest()

    @property
    def _is_whole(self) -> bool:
        is_range = self._chosen is None and self._step == 1
        return is_range and bool((self.counts == self._shards.counts).all())

    def index(self, shard: int, *, keep: bool = True) -> ShardIndex:
        """The index of a shard; those used last are kept, if ``keep`` is not False.

        Raises:
            ManifestError: It is damaged, is of another shard, or is missing.
            StorageError: It cannot be read.
        """
        return self._shards.index(shard, keep=keep)

    def rows(self, shard: int, rows: Ints) -> Ints:
        """Positions in a shard of selected rows of it."""
        rows = np.asarray(rows, dtype=np.int64)
        return self.positions(np.full(len(rows), shard, dtype=np.int64), rows)

    def positions(self, shards: Ints, rows: Ints) -> Ints:
        """Positions, each in its own shard, of selected rows.

        Raises:
            IndexError: There is no such shard or row.
        """
        # As numbers without a sign those below zero are too large as well.
        is_out = shards.view(np.uint64) >= len(self._shards)
        counts = self.counts.take(shards, mode="clip")
        is_out |= rows.view(np.uint64) >= counts.view(np.uint64)
        if np.count_nonzero(is_out):
            raise IndexError("place out of range: no shard has such a row")
        if self._step == 1:
            found = self._first[shards] + rows
        else:
            found = self._first[shards] + rows * self._step
        if self._chosen is None:
            return found
        values, starts = self._chosen
        return values[starts[shards] + found].astype(np.int64)

    def position(self, shard: int, row: int) -> int:
        """The position in a shard of one selected row of it.

        Raises:
            IndexError: There is no such shard or row.
        """
        if not (0 <= shard < len(self.counts) and 0 <= row < self.counts[shard]):
            raise IndexError(f"place out of range: shard {shard} has no row {row}")
        found = int(self._first[shard]) + row * self._step
        if self._chosen is None:
            return found
        values, starts = self._chosen
        return int(values[int(starts[shard]) + found])

    def _positions_in(self, shard: int) -> Ints:
        return self.rows(shard, np.arange(int(self.counts[shard])))

    def where(self, condition: Callable[[Columns], NDArray[np.bool_]]) -> Catalog:
        """The samples of this selection for which a condition holds.

        It is asked now, once for each shard that has selected samples: `Columns` in,
        an array of a truth value for each sample out.

        Raises:
            UsageError: The condition gives anything else.
        """
        parts: list[NDArray[Any]] = [np.zeros(0, np.uint8)]
        counts = np.zeros(len(self._shards), dtype=np.int64)
        numbers = np.flatnonzero(self.counts).tolist()
        for shard, index in zip(numbers, self._shards.indexes(numbers), strict=True):
            positions = self._positions_in(shard)
            url = self.urls[shard]
            mask = np.asarray(condition(Columns(url, index, positions)))
            if mask.dtype != np.bool_ or mask.shape != positions.shape:
                problem = (
                    f"the condition gave {mask.dtype} of shape {mask.shape}, not a "
                    f"truth value for each of {len(positions)} samples"
                )
                raise UsageError(url, problem)
            positions = positions[mask]
            parts.append(_narrow(positions))
            counts[shard] = len(positions)
        if bool((counts == self._shards.counts).all()) and self._step > 0:
            return self
        chosen = np.concatenate(parts), running_sum(counts)[:-1]
        return Catalog(self._shards, None, counts, chosen=chosen)

    def __getitem__(self, part: slice) -> Catalog:
        """A slice of the selection, by whole ranges."""
        start, stop, step = part.indices(self.num_samples)
        if step < 0:
            count = len(range(start, stop, step))
            if not count:
                return self[:0]
            first = self.num_samples - 1 - start
            return self._reversed()[first : first + (count - 1) * -step + 1 : -step]
        stop = max(start, stop)
        # How many of the wanted samples lie before each shard's first and end.
        wanted = np.clip(self._ends, start, stop) - start
        before = -(-wanted // step)
        counts = np.diff(before)
        skipped = start + before[:-1] * step - self._ends[:-1]
        begin = self._first + np.where(counts > 0, skipped, 0) * self._step
        return Catalog(
            self._shards, begin, counts, step=self._step * step, chosen=self._chosen
        )

    def _reversed(self) -> Catalog:
        last = self._first + (np.maximum(self.counts, 1) - 1) * self._step
        chosen = self._chosen
        if chosen is not None:
            chosen = (chosen[0], chosen[1][::-1])
        return Catalog(
            self._shards.reversed(),
            last[::-1],
            self.counts[::-1],
            step=-self._step,
            chosen=chosen,
        )

    @cached_property
    def _ends(self) -> Ints:
        return running_sum(self.counts)

    def place(self, i: int) -> tuple[int, int]:
        """Shard and row of the ``i``-th sample; negative from the end.

        Raises:
            IndexError: There is none.
        """
        number = i + self.num_samples if i < 0 else i
        if not 0 <= number < self.num_samples:
            problem = f"sample {i} is out of range: there are {self.num_samples}"
            raise IndexError(problem)
        shard = int(np.searchsorted(self._ends, number, side="right")) - 1
        return shard, number - int(self._ends[shard])

    def find_key(self, key: str) -> tuple[int, int]:
        """Shard and row of the sample with a key.

        Raises:
            KeyError: No selected sample has it.
            SampleError: More than one has it.
        """
        found = []
        for number in self._keys.candidates(key):
            shard, row = self.place(number)
            if self.index(shard).key(self.position(shard, row)) == key:
                found.append((shard, row))
        if not found:
            raise KeyError(key)
        if len(found) > 1:
            here, there = (self.urls[shard] for shard, _ in found[:2])
            raise SampleError(here, f"is not the only one of its key: {there}", key)
        return found[0]

    @cached_property
    def _keys(self) -> KeyTable:
        numbers = np.flatnonzero(self.counts).tolist()
        indexes = zip(numbers, self._shards.indexes(numbers), strict=True)
        return KeyTable(
            (index.key_bytes, index.key_offsets, self._positions_in(shard))
            for shard, index in indexes
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_keys", "_ends", "num_samples"):
            state.pop(name, None)
        return state


def _narrow(positions: Ints) -> NDArray[Any]:
    """Positions in the narrowest unsigned type that holds them."""
    return positions.astype(np.min_scalar_type(int(positions.max(initial=0))))

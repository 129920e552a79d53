"""The order in which the samples of a data set are read: a pure function.

Where the sample at a position of an epoch lies follows from the counts of the
shards, the seed, the epoch and the position alone. Nothing is laid out: an order
of 10^9 samples costs what its shards cost, and any position is found at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from shardbuild.errors import UsageError
from shardbuild.train.permutation import MAX_SIZE, derived_keys, permuted, root_key

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Ints = NDArray[np.int64]
    Words = NDArray[np.uint64]

__all__ = ["EpochOrder", "Order", "Places"]

_MAX_KEPT: Final = 3
"""Epochs of an order that are kept."""


class Places(NamedTuple):
    """Where samples lie, one row for each position of an order."""

    shard: Ints
    """Numbers of the shards, as the data set lists them."""
    row: Ints
    """Positions of the samples within their shards."""
    lane: Ints
    """What reads them: samples of a lane come from one shard after the other."""


@dataclass(frozen=True, eq=False)
class Order:
    """An order of all samples of a data set, another one in each epoch.

    Without ``shuffle`` it is the order of the data set. With it:

    - Up to ``open_shards`` shards are shuffled as one: each order of all samples
      is as likely as any other, for each rank too: there are no lanes.
    - More shards are shuffled and laid end to end, and the line is cut into
      ``open_shards`` lanes of equal length. Each round takes one sample of each
      lane, in an order of its own. A lane starts anywhere on its stretch, so that
      not all come to their next shard at once, and goes round. Within a shard,
      blocks are shuffled, and the samples within each block.

    So a round touches at most ``open_shards`` shards, and at most three times as
    many, less one, are between their first and their last sample at any time: a
    lane is in one, may have begun within another, and shares those at its ends.

    >>> order = Order(np.array([3, 0, 2]))
    >>> order.num_samples
    5
    >>> places = order.in_epoch(0).places(2, 5)
    >>> places.shard.tolist(), places.row.tolist()
    ([0, 2, 2], [2, 0, 1])
    >>> order = Order(np.array([3, 0, 2]), seed=7, shuffle=True)
    >>> order.in_epoch(0).places(0, 5).shard.tolist()
    [0, 0, 2, 0, 2]

    Raises:
        UsageError: A count is negative or all are too many, or an option is not
            positive.
    """

    counts: Ints
    """How many samples each shard holds."""
    seed: int = 0
    shuffle: bool = False
    open_shards: int = 256
    """How many shards are read at once."""
    block: int = 1
    """How many samples of a shard stay together: they can be read at one go."""
    _epochs: dict[int, EpochOrder] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("open_shards", "block"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}", "is not positive")
        counts = np.array(self.counts, np.int64).reshape(-1)
        if len(counts) and counts.min() < 0:
            raise UsageError(f"count {counts.min()}", "is negative")
        counts.flags.writeable = False
        object.__setattr__(self, "counts", counts)
        if self.num_samples > MAX_SIZE:
            raise UsageError(f"{self.num_samples} samples", f"are over {MAX_SIZE}")

    @property
    def num_samples(self) -> int:
        """How many positions an epoch has."""
        return int(self.counts.sum())

    def in_epoch(self, epoch: int) -> EpochOrder:
        """The order of an epoch; the last few that were asked for are kept.

        Raises:
            UsageError: The epoch is negative.
        """
        if epoch < 0:
            raise UsageError(f"epoch {epoch}", "is negative")
        number = epoch if self.shuffle else 0
        # Without a lock, which a fork could copy while it is held: each step is one,
        # and the worst of two threads at once is that an epoch is made twice.
        found = self._epochs.pop(number, None) or _epoch_order(self, number)
        self._epochs[number] = found
        for old in list(self._epochs)[:-_MAX_KEPT]:
            self._epochs.pop(old, None)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _epochs={})


class EpochOrder:
    """The order of one epoch: that of the data set."""

    def __init__(self, counts: Ints) -> None:
        self.num_samples = int(counts.sum())
        self._ends: Ints = np.cumsum(counts)
        self._starts: Ints = self._ends - counts

    def places(self, start: int, stop: int) -> Places:
        """Where the samples at positions ``start .. stop - 1`` lie.

        Raises:
            UsageError: There are no such positions.
        """
        self._check(start, stop)
        return self._find(np.arange(start, stop, dtype=np.int64))

    def places_at(self, positions: ArrayLike) -> Places:
        """Where the samples at any positions lie, in the order given.

        Raises:
            UsageError: There are no such positions.
        """
        wanted = np.array(positions, np.int64).reshape(-1)
        if len(wanted):
            self._check(int(wanted.min()), int(wanted.max()) + 1)
        return self._find(wanted)

    def _check(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.num_samples:
            problem = f"are not all within the {self.num_samples} of an epoch"
            raise UsageError(f"positions {start} to {stop}", problem)

    def _find(self, positions: Ints) -> Places:
        shard, row = self._on_line(positions)
        return Places(shard, row, np.zeros_like(shard))

    def _on_line(self, positions: Ints) -> tuple[Ints, Ints]:
        """Which shard of the line, and where in it."""
        # Neighbours are looked up together: what they share is in the caches then.
        ascending = np.argsort(positions)
        number = np.empty_like(positions)
        number[ascending] = np.searchsorted(
            self._ends, positions[ascending], side="right"
        )
        return number, positions - self._starts[number]


class _Uniform(EpochOrder):
    """All samples shuffled as one."""

    def __init__(self, order: Order, key: Words) -> None:
        super().__init__(order.counts)
        self._key = key

    def _find(self, positions: Ints) -> Places:
        if not len(positions):
            return super()._find(positions)
        line = permuted(positions, self.num_samples, self._key).astype(np.int64)
        shard, row = self._on_line(line)
        return Places(shard, row, np.zeros_like(shard))


class _Lanes(EpochOrder):
    """Lanes over shuffled shards."""

    def __init__(self, order: Order, key: Words) -> None:
        filled = np.flatnonzero(order.counts)
        keys = derived_keys(key, filled)
        turns = np.argsort(keys)
        self._shards: Ints = filled[turns]
        super().__init__(order.counts[self._shards])
        self._keys = keys[turns]
        self._block = order.block
        self._num_lanes = order.open_shards
        self._length, self._num_longer = divmod(self.num_samples, self._num_lanes)
        lanes = np.arange(self._num_lanes)
        self._lengths: Ints = self._length + (lanes < self._num_longer)
        self._firsts: Ints = np.cumsum(self._lengths) - self._lengths
        rotations = derived_keys(derived_keys(key, MAX_SIZE), lanes)
        self._rotations: Ints = _below(rotations, self._lengths)
        self._round_key = derived_keys(key, MAX_SIZE + 1)

    def _find(self, positions: Ints) -> Places:
        if not len(positions):
            return super()._find(positions)
        turn, place = np.divmod(positions, self._num_lanes)
        num_live = np.where(turn < self._length, self._num_lanes, self._num_longer)
        keys = derived_keys(self._round_key, turn)
        lane = permuted(place, num_live, keys).astype(np.int64)
        line = self._rotations[lane] + turn
        length = self._lengths[lane]
        line -= length * (line >= length)
        line += self._firsts[lane]
        number, row = self._on_line(line)
        return Places(self._shards[number], self._rows(number, row), lane)

    def _rows(self, number: Ints, row: Ints) -> Ints:
        """Shuffle the blocks of each shard, and the samples of each block."""
        keys = self._keys[number]
        counts = self._ends[number] - self._starts[number]
        block, place = np.divmod(row, self._block)
        num_blocks = counts // self._block
        is_full = block < num_blocks
        new = permuted(block, np.where(is_full, num_blocks, block + 1), keys)
        block = np.where(is_full, new.astype(np.int64), block)
        if self._block > 1:
            sizes = np.where(is_full, self._block, counts - num_blocks * self._block)
            place = permuted(place, sizes, derived_keys(keys, block)).astype(np.int64)
        offset = _below(derived_keys(keys, MAX_SIZE), counts)
        rows = block * self._block + place + offset
        rows -= counts * (rows >= counts)
        return rows


def _below(keys: Words, sizes: Ints) -> Ints:
    """A number below each size that its key stands for."""
    return (keys % sizes.astype(np.uint64)).astype(np.int64)


def _epoch_order(order: Order, epoch: int) -> EpochOrder:
    if not order.shuffle:
        return EpochOrder(order.counts)
    key = root_key(f"order {order.seed} {epoch}")
    if np.count_nonzero(order.counts) <= order.open_shards:
        return _Uniform(order, key)
    return _Lanes(order, key)

"""How well an order shuffles: what a batch sees of the shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shardbuild.errors import UsageError

if TYPE_CHECKING:
    from shardbuild.train.order import Order

__all__ = ["Quality", "shuffle_quality"]


@dataclass(frozen=True, slots=True)
class Quality:
    """What the batches of an epoch are like."""

    collision_ratio: float
    """How much more often two samples of a batch come from one shard than they
    would in an order where each is as likely: 1 is ideal, and less is no harm."""
    shards_per_batch: float
    """Mean number of shards that the samples of a batch come from."""
    num_batches: int
    """How many batches were looked at, evenly spread over the epoch."""


def shuffle_quality(
    order: Order, global_batch: int, num_batches: int = 64, epoch: int = 0
) -> Quality:
    """Measure how well an order shuffles.

    >>> from shardbuild.train.order import Order
    >>> order = Order(np.full(100, 50), shuffle=True, open_shards=20)
    >>> shuffle_quality(order, 20).collision_ratio < 4
    True
    >>> round(shuffle_quality(Order(np.full(100, 50)), 20).collision_ratio)
    92

    Raises:
        UsageError: A number is not positive, or the epoch is negative.
    """
    if global_batch < 1 or num_batches < 1:
        what = f"{num_batches} batches of {global_batch}"
        raise UsageError(what, "both have to be positive")
    size = min(global_batch, order.num_samples)
    all_pairs = _pairs(order.counts) / max(1, _pairs(np.array([order.num_samples])))
    if not size:
        return Quality(1.0, 0.0, 0)
    steps = order.num_samples // size
    chosen = np.unique(np.linspace(0, steps - 1, num_batches).astype(np.int64))
    epoch_order = order.in_epoch(epoch)
    pairs = shards = 0
    for step in chosen.tolist():
        places = epoch_order.places(step * size, (step + 1) * size)
        _, counts = np.unique(places.shard, return_counts=True)
        pairs += _pairs(counts)
        shards += len(counts)
    seen = pairs / max(1, len(chosen) * _pairs(np.array([size])))
    ratio = seen / all_pairs if all_pairs and size > 1 else 1.0
    return Quality(ratio, shards / len(chosen), len(chosen))


def _pairs(counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> int:
    """How many ordered pairs of samples are of one shard."""
    return sum(count * (count - 1) for count in counts.tolist())

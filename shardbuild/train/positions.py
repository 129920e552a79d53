"""Which positions of an epoch a rank reads in each of its steps: pure arithmetic.

A step takes the next ``global_batch`` positions. Their samples are put in the order
of the lanes that they come from, and each rank gets an equal part of that: so the
parts of all ranks, one after the other, are one list, however many ranks there are,
and a rank stays with its lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardbuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Draw", "Last", "Share", "Step", "Steps"]

Ints = NDArray[np.int64]
Last = Literal["wrap", "mask", "drop"]

_CHUNK = 8192
_FIRST_CHUNK = 1024


class Draw(NamedTuple):
    """The samples at some positions: columns of one length."""

    dataset: Ints
    """Which data set each is of."""
    epoch: Ints
    """Of that data set."""
    position: Ints
    """In that epoch of that data set."""
    shard: Ints
    row: Ints
    lane: Ints

    def take(self, rows: Ints | slice) -> Draw:
        """Some of them."""
        return Draw(*(column[rows] for column in self))


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of each step is this process's, and which of its steps."""

    rank: int = 0
    world: int = 1
    worker: int = 0
    num_workers: int = 1


class Step(NamedTuple):
    """What a rank reads in one step."""

    draw: Draw
    is_real: NDArray[np.bool_] | None
    """What does not only fill up the batch; None where all is real."""
    end: int
    """Positions of the epoch that were given out after it."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How an epoch is cut into steps.

    >>> Steps(10, 4, "wrap").count(), Steps(10, 4, "drop").count(start=3)
    (3, 1)
    """

    num_positions: int
    global_batch: int
    last: Last

    def check(self, share: Share) -> None:
        """Refuse what cannot be cut evenly.

        Raises:
            UsageError: ``global_batch`` is no multiple of the number of ranks, a rank
                is none of them, or ``last`` is not known.
        """
        batch, world = self.global_batch, share.world
        if batch < 1 or batch % world:
            problem = f"is no multiple of the number of ranks, {world}"
            raise UsageError(f"global_batch {batch}", problem)
        if not 0 <= share.rank < world:
            raise UsageError(f"rank {share.rank}", f"is none of {world}")
        if self.last not in ("wrap", "mask", "drop"):
            raise UsageError(f"last {self.last!r}", "is not wrap, mask or drop")

    def count(self, start: int = 0) -> int:
        """How many steps there are from a position on; the same for every rank."""
        left = self.num_positions - start
        if self.last == "drop":
            return max(left, 0) // self.global_batch
        return -(-left // self.global_batch)

    def of_share(
        self, draw: Callable[[int, int], Draw], start: int, share: Share
    ) -> Iterator[Step]:
        """The steps of a process from a position on.

        ``draw(first, stop)`` gives the samples at positions; those from
        ``num_positions`` on are what fills up the last step.
        """
        batch, count = self.global_batch, self.count(start)
        size = batch // share.world
        mine = slice(share.rank * size, (share.rank + 1) * size)
        first, limit = 0, _FIRST_CHUNK
        while first < count:
            number = min(max(1, limit // batch), count - first)
            begin = start + first * batch
            stop = begin + number * batch
            drawn = draw(begin, stop)
            has_lanes = bool(drawn.lane.any())
            order = np.arange(number * batch)
            if has_lanes:
                order = np.lexsort((drawn.lane, order // batch))
            table = order.reshape(number, batch)[:, mine]
            skip = (share.worker - first) % share.num_workers
            for at in range(skip, number, share.num_workers):
                end = begin + (at + 1) * batch
                rows = table[at]
                is_real = None
                if self.last == "mask":
                    is_real = rows + begin < self.num_positions
                part = drawn.take(rows if has_lanes else slice(rows[0], rows[-1] + 1))
                yield Step(part, is_real, min(end, self.num_positions))
            first, limit = first + number, _CHUNK

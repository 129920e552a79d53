"""Which of several data sets each position of a mixture is drawn from."""

from __future__ import annotations

import heapq
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import numpy as np

from shardbuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Weight = int | float | str | Decimal | Fraction

__all__ = ["MAX_PERIOD", "Schedule"]

MAX_PERIOD: Final = 10**6
"""The most positions after which a mixture may begin anew."""


class Schedule:
    """Exact proportions: any prefix is within one sample of each data set's share.

    Weights mean what they say: 0.7 is seven tenths. As whole numbers without a
    common divisor they add up to the period, after which all begins anew.

    >>> schedule = Schedule([0.5, 0.25, "1/4"])
    >>> schedule.weights, schedule.period
    ((2, 1, 1), 4)
    >>> dataset, number = schedule.draws(0, 8)
    >>> dataset.tolist(), number.tolist()
    ([0, 1, 0, 2, 0, 1, 0, 2], [0, 0, 1, 0, 2, 1, 3, 1])
    >>> schedule.counts_at(6)
    [3, 2, 1]

    Raises:
        UsageError: A weight is no number or negative, none is positive, or the
            period is over `MAX_PERIOD`.
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        parts = [_fraction(weight) for weight in weights]
        total = sum(parts)
        if not total:
            raise UsageError(f"weights {list(weights)}", "one has to be positive")
        shares = [part / total for part in parts]
        period = math.lcm(*(share.denominator for share in shares))
        if period > MAX_PERIOD:
            problem = f"begin anew only after {period} samples: round them"
            raise UsageError(f"weights {list(weights)}", problem)
        self.period: int = period
        """After how many positions the mixture begins anew."""
        self.weights: tuple[int, ...] = tuple(int(share * period) for share in shares)
        """How many samples of a period each data set gives."""
        self._datasets = _one_period(self.weights, period)
        self._numbers = np.empty(period, np.int64)
        self._weights: Ints = np.array(self.weights, np.int64)
        for dataset, weight in enumerate(self.weights):
            self._numbers[self._datasets == dataset] = np.arange(weight)

    def counts_at(self, position: int) -> list[int]:
        """How many of the first ``position`` samples are of each data set."""
        full, rest = divmod(position, self.period)
        some = np.bincount(self._datasets[:rest], minlength=len(self.weights))
        return [
            full * weight + count
            for weight, count in zip(self.weights, some.tolist(), strict=True)
        ]

    def draws(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """What positions ``start .. stop - 1`` are drawn from.

        Returns:
            The number of the data set, and how many samples of it came before.
        """
        full, place = np.divmod(np.arange(start, stop, dtype=np.int64), self.period)
        datasets = self._datasets[place]
        return datasets, full * self._weights[datasets] + self._numbers[place]


def _fraction(weight: Weight) -> Fraction:
    try:
        value = Fraction(str(weight))
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"weight {weight!r}", "is not a number") from error
    if value < 0:
        raise UsageError(f"weight {weight!r}", "is negative")
    return value


def _one_period(weights: Sequence[int], period: int) -> Ints:
    """The data sets of one period.

    A data set's next sample may come once its share has begun, and has to come by
    the time its share is full; of those that may come, the one that has to come
    first does (Baruah, Cohen, Plaxton and Varvel, "Proportionate progress", 1996).
    """
    given = [0] * len(weights)
    waiting = [(0, dataset) for dataset, weight in enumerate(weights) if weight]
    ready: list[tuple[int, int]] = []
    drawn = np.empty(period, np.int64)
    for position in range(period):
        while waiting and waiting[0][0] <= position:
            _, dataset = heapq.heappop(waiting)
            due = -(-(given[dataset] + 1) * period // weights[dataset])
            heapq.heappush(ready, (due, dataset))
        _, dataset = heapq.heappop(ready)
        drawn[position] = dataset
        given[dataset] += 1
        begins = given[dataset] * period // weights[dataset]
        heapq.heappush(waiting, (begins, dataset))
    return drawn

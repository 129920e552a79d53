"""Samples of several data sets in one stream."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

from shardbuild.streams.fluid import Pipeline
from shardbuild.streams.seeds import epoch_seed, generator

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, Sequence, Sized

__all__ = ["RandomMix", "RoundRobin", "random_samples", "round_robin"]


def round_robin(
    sources: Iterable[Iterable[Any]], *, longest: bool = False
) -> Iterator[Any]:
    """One sample of each source in turn, until one is at its end.

    >>> list(round_robin(["abc", "xy"])), list(round_robin(["abc", "x"], longest=True))
    (['a', 'x', 'b', 'y', 'c'], ['a', 'x', 'b', 'c'])

    Args:
        sources: Samples of each data set.
        longest: Whether the others go on, until all are at their end.
    """
    open_ = [iter(source) for source in sources]
    while open_:
        still_open = []
        for source in open_:
            for sample in source:
                yield sample
                still_open.append(source)
                break
            else:
                if not longest:
                    return
        open_ = still_open


def random_samples(
    sources: Iterable[Iterable[Any]],
    probs: Sequence[float] | None = None,
    longest: bool = False,  # noqa: FBT001, FBT002  # as in webdataset
    rng: random.Random | None = None,
    *,
    seed: int = 0,
) -> Iterator[Any]:
    """A sample of a source drawn at random each time, until one is at its end.

    >>> "".join(random_samples(["abcd", "xyz"], probs=[3, 1], seed=1))
    'axybcd'

    Args:
        sources: Samples of each data set.
        probs: How often each is drawn, relative to the others; equally, if not said.
        longest: Whether the others go on, until all are at their end.
        rng: A generator to draw from, instead of a new one of ``seed``.
        seed: Another seed, another order.

    Raises:
        ValueError: There is not one weight a source, or one is negative, or all are 0.
    """
    open_ = [iter(source) for source in sources]
    weights = [1.0] * len(open_) if probs is None else list(probs)
    if len(weights) != len(open_):
        raise ValueError(f"{len(weights)} weights for {len(open_)} sources")
    if open_ and not (min(weights) >= 0 and sum(weights) > 0):
        raise ValueError(f"weights are not negative and not all 0: {weights}")
    return _drawn(open_, weights, generator(seed, rng), longest=longest)


def _drawn(
    sources: list[Iterator[Any]],
    weights: list[float],
    rng: random.Random,
    *,
    longest: bool,
) -> Iterator[Any]:
    while sources and sum(weights) > 0:
        at = _draw(weights, rng.random())
        for sample in sources[at]:
            yield sample
            break
        else:
            if not longest:
                return
            del sources[at], weights[at]


def _draw(weights: list[float], point: float) -> int:
    """The place where a point of [0, 1) falls, if weights divide it."""
    total = sum(weights)
    edges = accumulate(weights)
    inside = [at for at, edge in enumerate(edges) if point * total < edge]
    return inside[0] if inside else max(at for at, w in enumerate(weights) if w)


@dataclass(frozen=True)
class _Mixed:
    """The source of a mixture."""

    datasets: tuple[Iterable[Any], ...]
    longest: bool
    probs: tuple[float, ...] | None = None
    seed: int | None = None
    """None takes the data sets in turn."""

    def samples(self, epoch: int) -> Iterator[Any]:
        sources = [
            dataset.iterate(epoch) if isinstance(dataset, Pipeline) else iter(dataset)
            for dataset in self.datasets
        ]
        if self.seed is None:
            return round_robin(sources, longest=self.longest)
        seed = epoch_seed(self.seed, epoch)
        return random_samples(sources, self.probs, self.longest, seed=seed)

    def length(self, epoch: int) -> int | None:
        del epoch
        if not self.longest:
            return None
        try:
            return sum(len(cast("Sized", dataset)) for dataset in self.datasets)
        except TypeError:
            return None


class RoundRobin(Pipeline):
    """One sample of each data set in turn; stages may follow.

    >>> list(RoundRobin(["ab", "xyz"]).listed(2))
    [['a', 'x'], ['b', 'y']]

    Args:
        datasets: Data sets, or anything that can be iterated again and again.
        longest: Whether it goes on until all are at their end.
    """

    def __init__(
        self,
        datasets: Iterable[Iterable[Any]],
        longest: bool = False,  # noqa: FBT001, FBT002  # as in webdataset
    ) -> None:
        super().__init__(_Mixed(tuple(datasets), longest))


class RandomMix(Pipeline):
    """A sample of a data set drawn at random each time; stages may follow.

    Each epoch draws in its own way.

    >>> mixture = RandomMix(["abc", "xyz"], longest=True)
    >>> "".join(mixture), "".join(mixture)
    ('xyabzc', 'xyabcz')

    Args:
        datasets: Data sets, or anything that can be iterated again and again.
        probs: How often each is drawn, relative to the others; equally, if not said.
        longest: Whether it goes on until all are at their end.
        seed: Another seed, another order.

    Raises:
        ValueError: As `random_samples`.
    """

    def __init__(
        self,
        datasets: Iterable[Iterable[Any]],
        probs: Sequence[float] | None = None,
        longest: bool = False,  # noqa: FBT001, FBT002  # as in webdataset
        *,
        seed: int = 0,
    ) -> None:
        held = tuple(datasets)
        weights = None if probs is None else tuple(probs)
        random_samples(held, weights)  # refuses weights now
        super().__init__(_Mixed(held, longest, weights, seed))

"""Stages that say how long an epoch is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import Any

__all__ = ["WithLength", "repeat", "with_epoch", "with_length"]


def repeat(
    samples: Iterable[Any], /, nepochs: int = -1, nbatches: int = -1
) -> Iterator[Any]:
    """Read the samples again and again: ``nepochs`` times, or endlessly.

    At most ``nbatches`` come out, if that is positive. Samples that are none end it.

    >>> list(repeat([1, 2, 3], 2)), list(repeat([1, 2, 3], nbatches=5))
    ([1, 2, 3, 1, 2, 3], [1, 2, 3, 1, 2])

    Raises:
        TypeError: The samples are an iterator, which can be read once, and its
            end was reached.
    """
    endless = _repeated(samples, nepochs)
    return islice(endless, nbatches) if nbatches > 0 else endless


def _repeated(samples: Iterable[Any], nepochs: int) -> Iterator[Any]:
    for epoch in count(1):
        is_empty = True
        for sample in samples:
            is_empty = False
            yield sample
        if is_empty or epoch == nepochs:
            return
        if isinstance(samples, Iterator):
            raise TypeError(
                f"{samples!r} is an iterator, which cannot be read again: give a list"
                " or a Dataset"
            )


def with_epoch(
    samples: Iterable[Any], /, nsamples: int = -1, nbatches: int = -1
) -> Iterator[Any]:
    """Make an epoch of so many samples, or batches: shorter, or by repeating.

    >>> list(with_epoch("abc", 2)), list(with_epoch("abc", 5))
    (['a', 'b'], ['a', 'b', 'c', 'a', 'b'])

    Raises:
        ValueError: Neither number is positive.
    """
    return islice(_repeated(samples, -1), epoch_length(nsamples, nbatches))


def epoch_length(nsamples: int = -1, nbatches: int = -1) -> int:
    """How long `with_epoch` makes an epoch."""
    length = max(nsamples, nbatches)
    if length < 1:
        raise ValueError(f"an epoch of {length} samples")
    return length


class WithLength:
    """Samples, and what ``len`` says of them; see `with_length`."""

    __slots__ = ("_length", "_samples")

    def __init__(self, samples: Iterable[Any], length: int) -> None:
        self._samples = samples
        self._length = length

    def __iter__(self) -> Iterator[Any]:
        return iter(self._samples)

    def __len__(self) -> int:
        return self._length


def with_length(samples: Iterable[Any], /, n: int) -> WithLength:
    """Let ``len`` give ``n``, whatever it is worth: the samples stay as they are.

    >>> samples = with_length((number for number in range(6)), 7)
    >>> len(samples), len(list(samples))
    (7, 6)

    Raises:
        ValueError: ``n`` is negative.
    """
    if n < 0:
        raise ValueError(f"a length of {n}")
    return WithLength(samples, n)

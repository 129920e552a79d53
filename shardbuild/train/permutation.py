"""Permutations that are computed place by place, never laid out.

All is integer arithmetic modulo 2^64 on numpy arrays: the same numbers come out
of every version of numpy and on every machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from shardbuild.shards.hashing import mix, text_hash

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Words = NDArray[np.uint64]

__all__ = ["MAX_SIZE", "derived_keys", "permuted", "root_key"]

MAX_SIZE: Final = 1 << 53
"""The largest size of a permutation."""
_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
"""Of splitmix64: 2^64 divided by the golden ratio, odd."""
_HALF: Final = np.uint64(32)
_ONE: Final = np.uint64(1)
_FACTOR: Final = np.uint64(0xBF58476D1CE4E5B9)
_ROUND_WORDS: Final = mix(np.arange(1, 13, dtype=np.uint64) * _STEP)
"""One for each round, an even number of them."""


def root_key(name: str) -> Words:
    """The key that a text stands for, as an array of one.

    >>> root_key("seed 7, epoch 0").tolist() == root_key("seed 7, epoch 0").tolist()
    True
    >>> root_key("seed 7, epoch 0").tolist() == root_key("seed 7, epoch 1").tolist()
    False
    """
    return np.array([text_hash(name)], np.uint64)


def derived_keys(keys: ArrayLike, numbers: ArrayLike) -> Words:
    """A new key for each key and number; the two are broadcast.

    For one key, keys of different numbers differ.

    >>> len(set(derived_keys(root_key("a"), np.arange(1000)).tolist()))
    1000
    """
    steps = (_words(numbers) + _ONE) * _STEP
    return mix(mix(_words(keys) + steps))


def permuted(index: ArrayLike, size: ArrayLike, key: ArrayLike) -> Words:
    """Where a permutation of ``0 .. size - 1`` takes ``index``.

    Each key is another permutation: a rotation, then a Feistel network on the two
    digits of the number, in mixed radix, about the root of the size each. What that
    takes beyond the size goes through again until it is below, which keeps it one
    to one (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

    >>> permuted(range(10), 10, 7).tolist()
    [4, 5, 7, 8, 6, 9, 0, 3, 1, 2]

    Args:
        index: Numbers below their size.
        size: Sizes from 1 to `MAX_SIZE`, one for all or one for each index.
        key: Any numbers of 64 bits, one for all or one for each index.
    """
    values, sizes = _words(index), _words(size)
    keys = mix(_words(key) + _STEP)
    values = values + keys % sizes
    values = np.minimum(values, values - sizes)
    values = _mixed(values, sizes, keys)
    beyond = np.flatnonzero(values >= sizes)
    while len(beyond):
        few_sizes = sizes if len(sizes) == 1 else sizes[beyond]
        few_keys = keys if len(keys) == 1 else keys[beyond]
        again = _mixed(values[beyond], few_sizes, few_keys)
        values[beyond] = again
        beyond = beyond[again >= few_sizes]
    return values


def _mixed(values: Words, sizes: Words, keys: Words) -> Words:
    """Permute the numbers below the least product of digits that holds each size."""
    radix = np.sqrt(sizes.astype(np.float64)).astype(np.uint64)
    radix += radix * radix < sizes
    low_radix = (sizes + radix - _ONE) // radix
    digit, other = np.divmod(values, low_radix)
    other_radix = low_radix
    for word in _ROUND_WORDS:
        hashes = other * _STEP
        hashes += keys ^ word
        hashes ^= hashes >> _HALF
        hashes *= _FACTOR
        hashes >>= _HALF
        hashes *= radix
        hashes >>= _HALF
        hashes += digit
        hashes = np.minimum(hashes, hashes - radix)  # below zero is very large
        digit, other = other, hashes
        radix, other_radix = other_radix, radix
    digit *= low_radix
    digit += other
    return digit


def _words(numbers: ArrayLike) -> Words:
    return np.atleast_1d(np.asarray(numbers)).astype(np.uint64)

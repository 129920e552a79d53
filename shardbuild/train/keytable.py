"""From a key to the few samples that may have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from shardbuild.shards.index import Bytes, Ints

__all__ = ["KeyTable", "hash_keys"]

_WORD = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


class KeyTable:
    """The numbers of samples by a hash of 64 bits of their keys: 16 bytes a sample.

    >>> blob = np.frombuffer(b"abc", np.uint8)
    >>> table = KeyTable([(blob, np.array([0, 1, 3]), np.array([0, 1]))])
    >>> table.candidates("bc"), table.candidates("c")
    ([1], [])
    """

    def __init__(self, shards: Iterable[tuple[Bytes, Ints, Ints]]) -> None:
        """Take the bytes of keys, their offsets, and which of them count."""
        hashes = [
            hash_keys(blob, offsets[rows], offsets[rows + 1])
            for blob, offsets, rows in shards
        ]
        table = np.concatenate([np.zeros(0, np.uint64), *hashes])
        self._numbers = np.argsort(table, kind="stable")
        self._hashes = table[self._numbers]

    def candidates(self, key: str) -> list[int]:
        """Numbers of samples whose keys have the hash of this one, in order."""
        blob = np.frombuffer(key.encode("utf-8", "surrogatepass"), dtype=np.uint8)
        (wanted,) = hash_keys(blob, np.array([0]), np.array([len(blob)]))
        low = np.searchsorted(self._hashes, wanted, side="left")
        high = np.searchsorted(self._hashes, wanted, side="right")
        numbers: list[int] = self._numbers[low:high].tolist()
        return numbers


def hash_keys(blob: Bytes, starts: Ints, stops: Ints) -> NDArray[np.uint64]:
    """A hash of each piece of a blob, by eight bytes at a time.

    The steps are the finaliser of splitmix64 (Steele, Lea and Flood, 2014).
    """
    padded = np.zeros(len(blob) + _WORD, dtype=np.uint8)
    padded[: len(blob)] = blob
    words: NDArray[np.uint64] = np.ndarray(
        (len(blob) + 1,), dtype="<u8", buffer=padded.data, strides=(1,)
    )
    lengths = stops - starts
    hashes = _mixed(lengths.astype(np.uint64) + _GOLDEN)
    left = np.flatnonzero(lengths > 0)
    done = 0
    while len(left):
        word = words[starts[left] + done].astype(np.uint64)
        missing = np.maximum(done + _WORD - lengths[left], 0).astype(np.uint64)
        word &= np.uint64(0xFFFFFFFFFFFFFFFF) >> (missing * np.uint64(8))
        hashes[left] = _mixed(hashes[left] * _GOLDEN + word)
        done += _WORD
        left = left[lengths[left] > done]
    return hashes


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))

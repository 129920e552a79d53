"""Numbers that look random and are the same everywhere: hashes of 64 bits."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["mix", "text_hash"]


def text_hash(text: str) -> int:
    """A text's hash: 64 bits of its BLAKE2b.

    >>> text_hash("7")
    16667848380713045890
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix each word in place: a permutation of all numbers of 64 bits.

    That of splitmix64 (Steele, Lea and Flood, OOPSLA 2014).

    >>> mix(np.arange(3, dtype=np.uint64)).tolist()
    [0, 6238072747940578789, 15839785061582574730]
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words ^= words >> np.uint64(shift)
        words *= np.uint64(factor)
    words ^= words >> np.uint64(31)
    return words

"""Hashes that are the same everywhere."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.shards.hashing import mix, text_hash

MASK = 2**64 - 1


@given(st.lists(st.integers(0, MASK)))
def test_mix_is_that_of_splitmix64(words):
    def plainly(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    assert mix(np.array(words, np.uint64)).tolist() == [plainly(w) for w in words]


def test_texts_hash_as_ever():
    assert text_hash("") == 0xE4A6A0577479B2B4
    assert text_hash("order 7 0") != text_hash("order 7 1")

"""Keyed permutations: one to one, uniform over keys, the same for ever."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.train.permutation import (
    MAX_SIZE,
    derived_keys,
    permuted,
    root_key,
)

NUM_KEYS = 20_000
KEYS = st.integers(0, 2**64 - 1)


def permutations_of(size, num_keys=NUM_KEYS):
    """One permutation a row, each of another key."""
    keys = np.repeat(derived_keys(root_key("test"), np.arange(num_keys)), size)
    index = np.tile(np.arange(size), num_keys)
    return permuted(index, size, keys).reshape(num_keys, size).astype(np.int64)


def is_likely(counts, freedom=None):
    """Whether counts are as even as equal chances make them: within 5 sigma."""
    expected = counts.sum() / counts.size
    chi = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1 if freedom is None else freedom
    return chi < freedom + 5 * math.sqrt(2 * freedom) + 5


@given(st.integers(1, 3000), KEYS)
def test_is_one_to_one_for_any_size_and_key(size, key):
    assert sorted(permuted(np.arange(size), size, key).tolist()) == list(range(size))


@given(st.lists(st.tuples(st.integers(1, MAX_SIZE), KEYS, KEYS), max_size=40))
def test_sizes_and_keys_of_each_element_give_what_each_alone_gives(triples):
    index = np.array([n % size for size, n, _ in triples], np.uint64)
    sizes = np.array([size for size, _, _ in triples], np.uint64)
    keys = np.array([key for _, _, key in triples], np.uint64)
    together = permuted(index, sizes, keys)
    alone = [permuted(*each)[0] for each in zip(index, sizes, keys, strict=True)]
    assert together.tolist() == alone
    assert (together < sizes).all()


@pytest.mark.parametrize("size", [10**9, MAX_SIZE - 1, MAX_SIZE])
def test_large_sizes_stay_one_to_one_and_spread(size):
    index = np.arange(size - 10_000, size, dtype=np.uint64)
    values = permuted(index, size, 3)
    assert len(set(values.tolist())) == len(index)
    assert is_likely(np.bincount((values // np.uint64(size // 16 + 1)).astype(int)))


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_each_order_of_a_few_is_as_likely(size):
    codes = permutations_of(size) @ (size ** np.arange(size))
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == math.factorial(size)
    assert is_likely(counts)


@pytest.mark.parametrize("size", [*range(2, 11), 16, 17, 64, 100])
def test_each_index_goes_anywhere_as_likely(size):
    found = permutations_of(size)
    cells = np.bincount((found + np.arange(size) * size).ravel(), minlength=size**2)
    assert is_likely(cells, freedom=(size - 1) ** 2)


@pytest.mark.parametrize("size", [*range(3, 11), 16, 17, 64, 100, 256])
def test_neighbours_part_by_any_distance_as_likely(size):
    found = permutations_of(size, num_keys=400_000 // size)
    steps = (found[:, 1:] - found[:, :-1]).ravel() % size
    assert is_likely(np.bincount(steps, minlength=size)[1:])
    halves = (found[:, size // 2] - found[:, 0]) % size
    assert is_likely(np.bincount(halves, minlength=size)[1:])


def test_keys_of_the_same_low_bits_differ():
    index = np.arange(1000)
    orders = {tuple(permuted(index, 1000, k << 40).tolist()) for k in range(200)}
    orders |= {tuple(permuted(index, 1000, k).tolist()) for k in range(1, 200)}
    assert len(orders) == 399


def test_derived_keys_of_many_parents_and_numbers_differ():
    parents = derived_keys(root_key("a"), np.arange(300))
    keys = derived_keys(parents[:, None], np.arange(300))
    assert len(np.unique(keys)) == 300 * 300


def test_nothing_is_nothing():
    assert permuted([], 1, 0).tolist() == []


def test_values_never_change():
    # What was begun with one version has to go on with the next.
    assert permuted(range(12), 12, 1).tolist() == GOLDEN_12
    assert permuted([0, 1, 2, 999_999_999], 10**9, 2**64 - 1).tolist() == GOLDEN_LARGE
    assert root_key("order 7 0").tolist() == [GOLDEN_ROOT]
    assert derived_keys(root_key("order 7 0"), [0, 1]).tolist() == GOLDEN_DERIVED


GOLDEN_12 = [8, 9, 10, 6, 7, 1, 11, 3, 5, 4, 2, 0]
GOLDEN_LARGE = [90916965, 602788124, 955452137, 140937917]
GOLDEN_ROOT = 17372571709287149894
GOLDEN_DERIVED = [1608343395687987459, 232118440281285218]

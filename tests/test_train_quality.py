"""How well orders shuffle, in numbers."""

from __future__ import annotations

import numpy as np
import pytest

from shardbuild.errors import UsageError
from shardbuild.train.order import Order
from shardbuild.train.quality import Quality, shuffle_quality


def counts_of(num_shards=1281, count=1000):
    return np.full(num_shards, count)


def test_256_open_shards_of_1281_shuffle_well():
    order = Order(counts_of(), 1, shuffle=True)
    for epoch in (0, 1):
        quality = shuffle_quality(order, 256, epoch=epoch)
        assert quality.collision_ratio <= 4
        assert quality.shards_per_batch > 250
        assert quality.num_batches == 64


def test_larger_batches_are_mixed_as_well_as_lanes_can():
    order = Order(counts_of(), 1, shuffle=True)
    for global_batch in (32, 512, 1024):
        assert shuffle_quality(order, global_batch).collision_ratio <= 4


def test_few_shards_are_ideal():
    order = Order(counts_of(20), 1, shuffle=True)
    quality = shuffle_quality(order, 256)
    assert 0.9 < quality.collision_ratio < 1.1


def test_the_order_of_the_data_set_is_not_shuffled():
    quality = shuffle_quality(Order(counts_of(100)), 250)
    assert quality.collision_ratio > 95
    assert quality.shards_per_batch == 1


def test_fewer_lanes_shuffle_less():
    ratios = [
        shuffle_quality(
            Order(counts_of(), shuffle=True, open_shards=n), 256
        ).collision_ratio
        for n in (256, 64, 16)
    ]
    assert ratios == sorted(ratios)


def test_small_data_sets_have_a_quality_too():
    assert shuffle_quality(Order(np.array([0, 0])), 8) == Quality(1.0, 0.0, 0)
    assert shuffle_quality(Order(np.array([1, 1, 1])), 2) == Quality(1.0, 2.0, 1)
    assert shuffle_quality(Order(np.array([9])), 1) == Quality(1.0, 1.0, 9)
    assert shuffle_quality(Order(np.array([5, 5])), 64).collision_ratio == 1.0


@pytest.mark.parametrize("numbers", [(0, 5), (5, 0)])
def test_numbers_that_are_not_positive_are_refused(numbers):
    with pytest.raises(UsageError, match="both have to be positive"):
        shuffle_quality(Order(np.array([3])), *numbers)

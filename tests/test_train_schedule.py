"""Mixtures of exact proportions."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.errors import UsageError
from shardbuild.train.schedule import MAX_PERIOD, Schedule

WEIGHTS = st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any)


@given(WEIGHTS)
def test_any_prefix_is_within_one_sample_of_each_share(weights):
    schedule = Schedule(weights)
    datasets, _ = schedule.draws(0, 2 * schedule.period)
    total = sum(weights)
    for number, weight in enumerate(weights):
        counts = np.cumsum(datasets == number).tolist()
        for position, count in enumerate(counts, 1):
            assert abs(count * total - weight * position) < total


@given(WEIGHTS, st.integers(0, 300), st.integers(0, 300))
def test_draws_number_the_samples_of_each_data_set(weights, start, length):
    schedule = Schedule(weights)
    datasets, numbers = schedule.draws(start, start + length)
    given_out = schedule.counts_at(start)
    for dataset, number in zip(datasets.tolist(), numbers.tolist(), strict=True):
        assert number == given_out[dataset]
        given_out[dataset] += 1
    assert given_out == schedule.counts_at(start + length)


def test_draws_far_away_cost_no_more():
    schedule = Schedule([3, 1])
    datasets, numbers = schedule.draws(4 * 10**15, 4 * 10**15 + 4)
    assert datasets.tolist() == [0, 0, 0, 1]
    assert numbers.tolist() == [3 * 10**15, 3 * 10**15 + 1, 3 * 10**15 + 2, 10**15]
    assert schedule.counts_at(4 * 10**15) == [3 * 10**15, 10**15]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0.7, 0.3], (7, 3)),
        ([0.1, 0.2], (1, 2)),
        (["0.1", Decimal("0.25"), Fraction(1, 3)], (6, 15, 20)),
        ([10, 20, 30], (1, 2, 3)),
        (["2/6", 0, 1e-1], (10, 0, 3)),
        ([np.float64(0.5), np.int64(1)], (1, 2)),
        ([5], (1,)),
    ],
)
def test_weights_mean_what_they_say(weights, expected):
    schedule = Schedule(weights)
    assert schedule.weights == expected
    assert schedule.period == sum(expected)
    assert schedule.counts_at(schedule.period) == list(expected)


def test_the_longest_period_is_taken():
    schedule = Schedule([1, MAX_PERIOD - 1])
    assert schedule.counts_at(MAX_PERIOD) == [1, MAX_PERIOD - 1]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "one has to be positive"),
        ([0, 0.0], "one has to be positive"),
        ([1, -0.5], "weight -0.5: is negative"),
        (["much"], "weight 'much': is not a number"),
        (["1/0"], "weight '1/0': is not a number"),
        ([float("nan")], "weight nan: is not a number"),
        ([float("inf"), 1], "weight inf: is not a number"),
        ([1, MAX_PERIOD], "begin anew only after 1000001 samples: round them"),
    ],
)
def test_weights_that_are_none_are_refused(weights, message):
    with pytest.raises(UsageError, match=message):
        Schedule(weights)


def test_mixtures_never_change():
    # What was begun with one version has to go on with the next.
    golden = {(5, 3, 1): "010010102", (1, 1, 1, 1, 4): "40414234"}
    for weights, drawn in golden.items():
        datasets, _ = Schedule(weights).draws(0, sum(weights))
        assert "".join(map(str, datasets.tolist())) == drawn

"""Mixtures of data sets."""

from __future__ import annotations

import itertools
import pickle
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.streams.mixing import (
    RandomMix,
    RoundRobin,
    random_samples,
    round_robin,
)

sources = st.lists(st.lists(st.integers(), max_size=6), max_size=5)


class TestRoundRobin:
    @given(sources)
    def test_the_longest_takes_all(self, lists) -> None:
        mixed = list(round_robin(lists, longest=True))
        assert Counter(mixed) == Counter(itertools.chain(*lists))
        turns = itertools.zip_longest(*lists)
        assert mixed == [n for turn in turns for n in turn if n is not None]

    @given(sources)
    def test_the_shortest_ends_at_the_first_end(self, lists) -> None:
        mixed = list(round_robin(lists))
        shortest = min(map(len, lists), default=0)
        first = next((i for i, part in enumerate(lists) if len(part) == shortest), 0)
        assert len(mixed) == shortest * len(lists) + first

    def test_is_a_data_set_with_stages(self) -> None:
        mixture = RoundRobin(["abc", "xyz"])
        assert list(mixture.map(str.upper).listed(4)) == [list("AXBY"), list("CZ")]
        assert list(mixture) == list("axbycz")

    def test_knows_its_length_if_it_takes_all(self) -> None:
        assert len(RoundRobin(["abc", "x"], longest=True).listed(3)) == 2
        for mixture in (
            RoundRobin(["abc"]),
            RoundRobin([RoundRobin(["abc"])], longest=True),
        ):
            with pytest.raises(TypeError, match="length"):
                len(mixture)


class TestRandomMix:
    @given(sources, st.integers(0, 5))
    def test_the_longest_takes_all_each_in_its_order(self, lists, seed) -> None:
        marked = [[(i, n) for n in range(len(part))] for i, part in enumerate(lists)]
        mixed = list(random_samples(marked, longest=True, seed=seed))
        for number, part in enumerate(marked):
            assert [sample for sample in mixed if sample[0] == number] == part
        assert mixed == list(random_samples(marked, longest=True, seed=seed))

    def test_weights_say_how_often(self) -> None:
        endless = [itertools.repeat("a"), itertools.repeat("b"), itertools.repeat("c")]
        mixed = random_samples(endless, [3, 1, 0], seed=1)
        counts = Counter(itertools.islice(mixed, 4000))
        assert counts["c"] == 0
        assert 2800 < counts["a"] < 3200

    def test_a_generator_may_be_given(self) -> None:
        drawn = list(random_samples(["abc", "xyz"], rng=random.Random(4)))
        assert drawn == list(random_samples(["abc", "xyz"], seed=4))

    def test_it_ends_with_the_first_that_ends(self) -> None:
        assert list(random_samples(["abc", ""], [0, 1])) == []
        assert list(random_samples(["abc", ""], [0, 1], longest=True)) == []

    @pytest.mark.parametrize("probs", [[1], [1, -1], [0, 0], [1, float("nan")]])
    def test_weights_that_make_no_sense_are_refused(self, probs) -> None:
        with pytest.raises(ValueError, match="weights"):
            RandomMix(["a", "b"], probs)

    def test_each_epoch_draws_in_its_own_way_and_so_again(self) -> None:
        mixture = RandomMix([range(50), range(50, 100)], longest=True, seed=3)
        epochs = [list(mixture) for _ in range(3)]
        assert epochs[0] != epochs[1] != epochs[2]
        again = pickle.loads(pickle.dumps(mixture.at_epoch(0)))  # noqa: S301
        assert [list(again) for _ in range(3)] == epochs

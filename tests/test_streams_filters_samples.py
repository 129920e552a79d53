"""Stages on whole samples."""

from __future__ import annotations

import io
import itertools
import operator
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.errors import ignore_and_continue, ignore_and_stop
from shardbuild.streams import filters

SAMPLES = [{"__key__": f"n{i}", "cls": i} for i in range(6)]


def keys(samples) -> list[str]:
    return [sample["__key__"] for sample in samples]


class TestInfo:
    def test_writes_the_first_and_each_so_manieth(self) -> None:
        out = io.StringIO()
        passed = list(
            filters.info(SAMPLES, "{__key__}", n=1, every=3, stream=out, name="x")
        )
        assert passed == SAMPLES
        assert out.getvalue().split() == ["n0", "n2", "n5"]

    def test_writes_all_fields_cut_to_the_width(self) -> None:
        out = io.StringIO()
        sample = {"__key__": "a", "txt": "x" * 100}
        list(filters.info([sample], width=4, stream=out, name="train"))
        assert out.getvalue() == "--- train\n__key__ 'a'\ntxt 'xxx\n"

    def test_writes_to_standard_error(self, capsys) -> None:
        list(filters.info(SAMPLES, "{cls}", n=2))
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", "0\n1\n")


class TestLogKeys:
    def test_appends_to_the_file(self, tmp_path) -> None:
        log = tmp_path / "keys.log"
        sample = {"__key__": "ä", "__worker__": 3, "__rank__": 1}
        for _ in range(2):
            assert list(filters.log_keys([sample], str(log))) == [sample]
        assert log.read_text("utf-8") == "0\t3\t1\tä\n" * 2

    def test_without_a_file_does_nothing(self) -> None:
        assert list(filters.log_keys(SAMPLES)) == SAMPLES


class TestShuffle:
    @given(
        st.lists(st.integers(), max_size=60),
        st.integers(0, 20),
        st.integers(0, 20),
        st.integers(0, 3),
    )
    def test_loses_and_doubles_nothing(self, numbers, bufsize, initial, seed) -> None:
        shuffled = list(filters.shuffle(numbers, bufsize, initial, seed=seed))
        assert Counter(shuffled) == Counter(numbers)

    @given(st.lists(st.integers(), max_size=40), st.integers(0, 10))
    def test_the_seed_decides(self, numbers, seed) -> None:
        first = list(filters.shuffle(numbers, 8, seed=seed))
        again = list(filters.shuffle(iter(numbers), 8, seed=seed))
        drawn = list(filters.shuffle(numbers, 8, rng=random.Random(seed)))
        assert first == again == drawn

    def test_another_seed_is_another_order(self) -> None:
        orders = {tuple(filters.shuffle(range(50), 50, seed=seed)) for seed in range(9)}
        assert len(orders) == 9

    @pytest.mark.parametrize("bufsize", [0, 1])
    def test_a_buffer_of_one_keeps_the_order(self, bufsize: int) -> None:
        assert list(filters.shuffle(range(9), bufsize)) == list(range(9))

    def test_the_first_sample_comes_when_the_buffer_holds_the_initial_ones(
        self,
    ) -> None:
        numbers = itertools.count()
        next(filters.shuffle(numbers, bufsize=1000, initial=10))
        assert next(numbers) == 10

    def test_the_buffer_never_holds_more_than_its_size(self) -> None:
        numbers = iter(range(1000))
        shuffled = filters.shuffle(numbers, bufsize=16, initial=4)
        for count in range(1, 500):
            next(shuffled)
            assert operator.length_hint(numbers) >= 1000 - count - 16

    @pytest.mark.parametrize("count", range(8))
    def test_ishuffle_takes_lists_of_any_length(self, count: int) -> None:
        assert sorted(filters.ishuffle(list(range(count)), 4, 2)) == list(range(count))


class TestSelect:
    def test_lets_pass_what_is_wanted(self) -> None:
        assert keys(filters.select(SAMPLES, lambda s: s["cls"] > 3)) == ["n4", "n5"]

    def test_errors_go_to_the_handler(self) -> None:
        chosen = filters.select(["1", "x", "2"], int, ignore_and_continue)
        assert list(chosen) == ["1", "2"]


class TestMap:
    def test_none_drops_the_sample(self) -> None:
        mapped = filters.map(SAMPLES, lambda s: s if s["cls"] % 2 else None)
        assert keys(mapped) == ["n1", "n3", "n5"]

    def test_a_new_sample_gets_the_key(self) -> None:
        made = {"cls": 1}
        assert list(filters.map([{"__key__": "a"}], lambda _: made)) == [
            {"__key__": "a", "cls": 1}
        ]
        assert made == {"cls": 1}

    def test_a_key_of_its_own_stays(self) -> None:
        mapped = filters.map([{"__key__": "a"}], lambda _: {"__key__": "b"})
        assert keys(mapped) == ["b"]

    def test_what_is_no_dict_stays_as_it_is(self) -> None:
        assert list(filters.map([{"__key__": "a"}, 3], lambda _: 0)) == [0, 0]

    def test_handlers_continue_or_stop(self) -> None:
        words = ["1", "x", "3"]
        assert list(filters.map(words, int, ignore_and_continue)) == [1, 3]
        assert list(filters.map(words, int, ignore_and_stop)) == [1]
        with pytest.raises(ValueError, match="x"):
            list(filters.map(words, int))

    def test_samples_are_taken_one_at_a_time(self) -> None:
        numbers = itertools.count()
        assert next(filters.map(numbers, str)) == "0"
        assert next(numbers) == 1


class TestRandom:
    def test_rsample_keeps_about_its_part_and_the_seed_decides(self) -> None:
        kept = list(filters.rsample(range(2000), 0.25, seed=1))
        assert 400 < len(kept) < 600
        assert kept == list(filters.rsample(range(2000), 0.25, seed=1))
        assert kept != list(filters.rsample(range(2000), 0.25, seed=2))
        assert kept == sorted(kept)

    def test_rsample_of_all_and_nothing(self) -> None:
        assert list(filters.rsample(range(9), 1)) == list(range(9))
        assert list(filters.rsample(range(9), 0)) == []

    @pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
    def test_rsample_refuses_what_is_no_probability(self, p: float) -> None:
        with pytest.raises(ValueError, match="probability"):
            filters.rsample([], p)

    def test_resampled_draws_with_replacement(self) -> None:
        drawn = list(filters.resampled("abc", 300, seed=1))
        assert len(drawn) == 300
        assert set(drawn) == set("abc")
        assert drawn == list(itertools.islice(filters.resampled("abc", seed=1), 300))

    def test_resampled_refuses_nothing(self) -> None:
        assert list(filters.resampled([], 0)) == []
        with pytest.raises(ValueError, match="nothing"):
            filters.resampled([])


def test_slice_is_that_of_itertools() -> None:
    for arguments in [(3,), (1, 4), (1, None, 2), (None,), (0,)]:
        expected = list(itertools.islice(range(6), *arguments))
        assert list(filters.slice(range(6), *arguments)) == expected


def test_pipe_passes_arguments_on() -> None:
    def twice(samples, times, *, plus):
        return [sample * times + plus for sample in samples]

    assert list(filters.pipe([1, 2], twice, 2, plus=1)) == [3, 5]

"""Stages that say how long an epoch is."""

from __future__ import annotations

import itertools

import pytest

from shardbuild.streams import filters


class TestRepeat:
    def test_reads_as_often_as_it_is_told(self) -> None:
        assert list(filters.repeat("ab", 3)) == list("ababab")

    def test_is_endless_otherwise(self) -> None:
        endless = filters.repeat("ab")
        assert list(itertools.islice(endless, 5)) == list("ababa")

    def test_ends_after_so_many(self) -> None:
        assert list(filters.repeat("ab", 2, 3)) == list("aba")
        assert list(filters.repeat("ab", 1, 3)) == list("ab")

    def test_of_nothing_ends(self) -> None:
        assert list(filters.repeat([])) == []

    def test_an_iterator_cannot_be_read_again(self) -> None:
        assert list(filters.repeat(iter("ab"), 1)) == ["a", "b"]
        repeated = filters.repeat(iter("ab"), 2)
        assert list(itertools.islice(repeated, 2)) == ["a", "b"]
        with pytest.raises(TypeError, match="cannot be read again"):
            next(repeated)


class TestWithEpoch:
    @pytest.mark.parametrize("length", [1, 2, 3, 7])
    def test_has_the_length_it_is_told(self, length: int) -> None:
        epoch = list(filters.with_epoch("abc", length))
        assert epoch == list(itertools.islice(itertools.cycle("abc"), length))

    def test_takes_batches_as_well(self) -> None:
        assert list(filters.with_epoch("abc", nbatches=4)) == list("abca")

    def test_takes_endless_iterators(self) -> None:
        assert list(filters.with_epoch(itertools.count(), 2)) == [0, 1]

    def test_refuses_an_epoch_of_nothing(self) -> None:
        with pytest.raises(ValueError, match="epoch"):
            filters.with_epoch("abc")


class TestWithLength:
    def test_says_what_it_is_told_and_can_be_read_again(self) -> None:
        samples = filters.with_length([1, 2], 9)
        assert len(samples) == 9
        assert [list(samples), list(samples)] == [[1, 2], [1, 2]]

    def test_refuses_a_negative_length(self) -> None:
        with pytest.raises(ValueError, match="-1"):
            filters.with_length([], -1)

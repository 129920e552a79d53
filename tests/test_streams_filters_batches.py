"""Batches and lists of samples, and back."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.streams import filters

ROWS = [(i, str(i), np.full(2, i)) for i in range(5)]


class TestListed:
    @given(st.lists(st.integers(), max_size=20), st.integers(1, 7), st.booleans())
    def test_cuts_into_lists(self, numbers, size, partial) -> None:
        lists = list(filters.listed(numbers, size, partial))
        whole = len(numbers) - (0 if partial else len(numbers) % size)
        assert list(itertools.chain(*lists)) == numbers[:whole]
        assert all(len(part) == size for part in lists[:-1])
        assert all(lists)

    @given(st.lists(st.integers(), max_size=20), st.integers(1, 7))
    def test_unlisted_gives_them_back(self, numbers, size) -> None:
        assert list(filters.unlisted(filters.listed(numbers, size))) == numbers

    def test_a_list_comes_as_soon_as_it_is_full(self) -> None:
        numbers = itertools.count()
        assert next(filters.listed(numbers, 3)) == [0, 1, 2]
        assert next(numbers) == 3

    @pytest.mark.parametrize("size", [0, -1])
    def test_refuses_empty_batches_at_once(self, size: int) -> None:
        with pytest.raises(ValueError, match=f"batch of {size}"):
            filters.listed([], size)
        with pytest.raises(ValueError, match=f"batch of {size}"):
            filters.batched([], size)

    def test_unlisted_refuses_tuples(self) -> None:
        with pytest.raises(TypeError, match="tuple"):
            list(filters.unlisted([(1, 2)]))  # type: ignore[list-item]


class TestBatched:
    def test_makes_columns(self) -> None:
        numbers, texts, arrays = next(filters.batched(ROWS, 5))
        assert isinstance(numbers, np.ndarray)
        assert numbers.tolist() == [0, 1, 2, 3, 4]
        assert texts == ["0", "1", "2", "3", "4"]
        assert arrays.shape == (5, 2)

    def test_the_last_may_be_smaller_or_left_out(self) -> None:
        sizes = [len(batch[1]) for batch in filters.batched(ROWS, 2)]
        assert sizes == [2, 2, 1]
        whole = [len(batch[1]) for batch in filters.batched(ROWS, 2, partial=False)]
        assert whole == [2, 2]

    def test_collates_as_it_is_told(self) -> None:
        assert list(filters.batched([1, 2, 3], 2, sum)) == [3, 3]
        assert list(filters.batched([1, 2, 3], 2, None)) == [[1, 2], [3]]

    def test_dicts_make_a_dict_in_their_order(self) -> None:
        (batch,) = filters.batched([{"b": 1, "a": "x"}, {"a": "y", "b": 2}], 2)
        assert list(batch) == ["b", "a"]
        assert (batch["b"].tolist(), batch["a"]) == ([1, 2], ["x", "y"])

    def test_what_is_not_combined_stays_a_list(self) -> None:
        collate = filters.default_collation_fn
        assert collate([(1,), (2,)], combine_scalars=False) == ([1, 2],)
        (arrays,) = collate([(np.zeros(2),)], combine_tensors=False)
        assert isinstance(arrays, list)

    def test_refuses_samples_that_differ(self) -> None:
        with pytest.raises(ValueError, match="differ in their fields"):
            filters.default_collation_fn([{"a": 1}, {"b": 1}])
        with pytest.raises(ValueError, match=r"shape: \[\(2,\), \(3,\)\]"):
            filters.default_collation_fn([(np.zeros(2),), (np.zeros(3),)])

    def test_unbatched_gives_them_back(self) -> None:
        rows = list(filters.unbatched(filters.batched(ROWS, 2)))
        assert [(int(a), b, c.tolist()) for a, b, c in rows] == [
            (a, b, c.tolist()) for a, b, c in ROWS
        ]
        samples = [{"__key__": f"{i}", "cls": i} for i in range(5)]
        assert list(filters.unbatched(filters.batched(samples, 3))) == samples

    def test_unbatched_refuses_what_is_no_batch(self) -> None:
        with pytest.raises(TypeError, match="int"):
            list(filters.unbatched([3]))
        for batch in ([[1, 2], [1]], {"a": [1], "b": []}, ()):
            with pytest.raises(ValueError, match="length"):
                list(filters.unbatched([batch]))

    def test_numpy_is_imported_for_numbers_only(self) -> None:
        script = (
            "import sys; from shardbuild.streams.filters_batches import batched;"
            "list(batched([('a',)], 1)); print('numpy' in sys.modules)"
        )
        found = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert found.stdout == "False\n"

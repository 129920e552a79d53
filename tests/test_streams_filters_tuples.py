"""Tuples of fields, and the helpers they are made with."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from shardbuild.errors import ignore_and_continue, ignore_and_stop
from shardbuild.streams import filters
from shardbuild.streams.fields import alternatives

A: dict[str, Any] = {"__key__": "a", "png": b"p", "cls": 3, "none": None}


class TestToTuple:
    def test_takes_names_alternatives_and_lists(self) -> None:
        assert list(filters.to_tuple([A], "jpg;png", "cls")) == [(b"p", 3)]
        assert list(filters.to_tuple([A], "jpg;png cls")) == [(b"p", 3)]
        assert list(filters.to_tuple([A], ["jpg", "png"], "cls")) == [(b"p", 3)]
        assert list(filters.to_tuple([A], "cls")) == [(3,)]

    def test_a_missing_field_is_an_error_or_none(self) -> None:
        with pytest.raises(ValueError, match="jpg"):
            list(filters.to_tuple([A], "jpg", "cls"))
        loose = filters.to_tuple([A], "jpg", "cls", missing_is_error=False)
        assert list(loose) == [(None, 3)]

    def test_none_is_an_error_if_missing_is_or_as_it_is_said(self) -> None:
        with pytest.raises(ValueError, match="None"):
            list(filters.to_tuple([A], "none"))
        assert list(filters.to_tuple([A], "none", none_is_error=False)) == [(None,)]
        strict: Any = {"missing_is_error": False, "none_is_error": True}
        with pytest.raises(ValueError, match="None"):
            list(filters.to_tuple([A], "jpg", **strict))

    def test_arrays_are_not_compared(self) -> None:
        (made,) = filters.to_tuple([{"x": np.zeros(3)}], "x")
        assert made[0].shape == (3,)

    def test_handlers_continue_or_stop(self) -> None:
        samples = [A, {"__key__": "b"}, A]
        names = ("cls",)
        kept = filters.to_tuple(samples, *names, handler=ignore_and_continue)
        assert len(list(kept)) == 2
        kept = filters.to_tuple(samples, *names, handler=ignore_and_stop)
        assert len(list(kept)) == 1


class TestMapTuple:
    def test_the_shorter_decides(self) -> None:
        assert list(filters.map_tuple([("1", "2")], int)) == [(1, "2")]
        assert list(filters.map_tuple([("1",)], int, int)) == [(1,)]
        assert list(filters.map_tuple([["1", "2"]], None, int)) == [("1", 2)]

    def test_refuses_what_is_no_function_or_tuple(self) -> None:
        with pytest.raises(TypeError, match="7 cannot be called"):
            filters.map_tuple([], 7)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="dict"):
            list(filters.map_tuple([A], int))  # type: ignore[list-item]

    def test_errors_go_to_the_handler(self) -> None:
        made = filters.map_tuple([("1",), ("x",)], int, handler=ignore_and_continue)
        assert list(made) == [(1,)]


class TestHelpers:
    def test_getfirst(self) -> None:
        assert filters.getfirst(A, "jpg;png") == b"p"
        assert filters.getfirst(A, ["cls"]) == 3
        assert filters.getfirst(A, "x", 5, missing_is_error=False) == 5
        with pytest.raises(ValueError, match="'x or y' among"):
            filters.getfirst(A, "x;y")

    def test_alternatives_have_no_blanks(self) -> None:
        with pytest.raises(ValueError, match="blank"):
            alternatives("jpg png")

    def test_parse_field_spec(self) -> None:
        assert filters.parse_field_spec("a;b c") == [["a", "b"], ["c"]]
        assert filters.parse_field_spec(["a;b", "c"]) == [["a", "b"], ["c"]]

    def test_transform_with(self) -> None:
        assert filters.transform_with(["1", "2"], [None, int]) == ["1", 2]
        assert filters.transform_with(["1"], None) == ["1"]
        with pytest.raises(ValueError, match="2 transformers"):
            filters.transform_with(["1"], [int, int])

    def test_transformers_and_compositions_travel(self) -> None:
        function = filters.compose(filters.transformer([int]), sum)
        again = pickle.loads(pickle.dumps(function))  # noqa: S301
        assert again(["4"]) == 4

    def test_pipeline_applies_from_left_to_right(self) -> None:
        assert filters.pipeline("7", int, str, list) == ["7"]
        assert filters.pipeline("7") == "7"

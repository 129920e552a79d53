"""The stage that decodes fields."""

from __future__ import annotations

import gzip
import pickle
from typing import Any

import numpy as np
import pytest

from shardbuild.errors import (
    DecodeError,
    UsageError,
    ignore_and_continue,
    ignore_and_stop,
)
from shardbuild.streams import curried, filters

PPM = b"P6 1 1 255 \1\2\3"
A: dict[str, Any] = {
    "__key__": "a",
    "__url__": "x.tar",
    "cls": b"3",
    "TXT": b"x",
    "ppm": PPM,
    "bin": b"?",
}


def decoded(*handlers: Any, **options: Any) -> dict[str, Any]:
    (sample,) = filters.decode([A], *handlers, **options)
    return sample


def test_extensions_decide_and_pictures_stay_bytes() -> None:
    assert decoded() == {**A, "cls": 3, "TXT": "x"}


def test_a_text_says_what_pictures_become() -> None:
    assert decoded("rgb8")["ppm"].tolist() == [[[1, 2, 3]]]
    assert decoded("pil")["ppm"].size == (1, 1)
    assert decoded("rgb")["ppm"].dtype == np.float32


def test_an_unknown_text_is_an_error_at_once() -> None:
    with pytest.raises(UsageError, match="rgb9"):
        filters.decode([], "rgb9")


def test_what_is_packed_is_unpacked_first_or_as_it_is_said() -> None:
    samples = [{"__key__": "a", "json.gz": gzip.compress(b"[1]")}]
    assert list(filters.decode(samples)) == [{"__key__": "a", "json.gz": [1]}]
    assert list(filters.decode(samples, pre=[], post=[])) == samples
    sizes = filters.decode(samples, post=[lambda name, data: (name, len(data))])
    assert list(sizes) == [{"__key__": "a", "json.gz": (".json", 3)}]


def test_pickles_are_decoded_only_for_who_says_so() -> None:
    samples = [{"__key__": "a", "pyd": pickle.dumps((1,))}]
    with pytest.raises(DecodeError, match="allow_pickle"):
        list(filters.decode(samples))
    assert next(filters.decode(samples, allow_pickle=True))["pyd"] == (1,)


def test_functions_come_first_and_may_pass() -> None:
    def letters(name: str, data: bytes) -> str | None:
        return data.decode() if name in (".bin", ".cls") else None

    def never(name: str, data: bytes) -> Any:
        raise AssertionError((name, data))

    sample = decoded(letters, only="cls bin")
    assert (sample["cls"], sample["bin"]) == ("3", "?")
    assert decoded(letters, never, only=["bin"])["bin"] == "?"
    assert decoded(letters, "rgb8")["ppm"].shape == (1, 1, 3)


def test_only_these_are_decoded() -> None:
    assert decoded(only="cls x") == {**A, "cls": 3}
    assert decoded(only={"TXT"}) == {**A, "TXT": "x"}


def test_what_is_decoded_already_may_stay_if_so_said() -> None:
    again = [decoded()]
    with pytest.raises(DecodeError, match=r"x\.tar: sample 'a'.*'cls'"):
        list(filters.decode(again))
    assert list(filters.decode(again, partial=True)) == again


def test_errors_go_to_the_handler() -> None:
    samples = [{**A, "cls": b"x"}, A]
    with pytest.raises(DecodeError, match=r"x\.tar: sample 'a': field 'cls'"):
        list(filters.decode(samples))
    assert len(list(filters.decode(samples, handler=ignore_and_continue))) == 1
    assert list(filters.decode(samples, handler=ignore_and_stop)) == []


def test_the_sample_stays_as_it_was() -> None:
    sample = dict(A)
    list(filters.decode([sample]))
    assert sample == A


def test_a_stage_that_decodes_travels() -> None:
    stage = pickle.loads(pickle.dumps(curried.decode("rgb8", only="cls")))  # noqa: S301
    assert list(stage([A])) == [{**A, "cls": 3}]

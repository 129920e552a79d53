"""Fields, slices, conditions and key formats, as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.errors import SampleError
from shardbuild.streams.choosing import (
    choose_fields,
    field_bytes,
    parse_condition,
    parse_fields,
    parse_key_format,
    parse_slice,
)

SAMPLE = {"__key__": "n01/7", "jpg": b"J", "cls": b" 3\n", "txt": "naïve".encode()}


class TestFields:
    def test_the_first_name_that_is_there_counts(self):
        chosen = choose_fields(SAMPLE, parse_fields("image:png,jpg,cls"))
        assert chosen == {"__key__": "n01/7", "image": b"J"}

    def test_names_are_as_readers_give_them(self):
        assert choose_fields(SAMPLE, parse_fields("JPG")) == {
            "__key__": "n01/7",
            "jpg": b"J",
        }

    def test_one_field_may_become_two(self):
        chosen = choose_fields(SAMPLE, parse_fields("a:jpg b:jpg"))
        assert chosen == {"__key__": "n01/7", "a": b"J", "b": b"J"}

    def test_a_missing_field_is_an_error_that_says_what_there_is(self):
        with pytest.raises(SampleError, match="it has: jpg cls txt"):
            choose_fields(SAMPLE, parse_fields("image:png,bmp"))

    def test_or_the_sample_stays_behind_or_goes_without(self):
        choices = parse_fields("jpg xml")
        assert choose_fields(SAMPLE, choices, missing="skip") is None
        assert choose_fields(SAMPLE, choices, missing="ignore") == {
            "__key__": "n01/7",
            "jpg": b"J",
        }

    @pytest.mark.parametrize(
        "text", ["", " ", "jpg,png", ":jpg", "a:", "a:b,", "a a", "a:x a", "__key__"]
    )
    def test_what_is_no_list_of_fields_is_refused(self, text):
        with pytest.raises(ValueError, match="field"):
            parse_fields(text)


class TestSlice:
    @given(
        st.lists(st.one_of(st.just(""), st.integers(0, 30).map(str)), max_size=3).map(
            ":".join
        )
    )
    def test_it_is_pythons(self, text):
        if ":" not in text or text.endswith(":0"):
            return
        given_as = [int(part) if part else None for part in text.split(":")]
        items = list(range(50))
        assert items[parse_slice(text)] == items[slice(*given_as)]

    def test_a_number_is_one(self):
        assert list(range(10))[parse_slice("4")] == [4]

    @pytest.mark.parametrize("text", ["", "a", "-1:", "1:2:3:4", "::0", "1.5"])
    def test_what_is_no_slice_is_refused(self, text):
        with pytest.raises(ValueError, match=r"no slice|leads nowhere"):
            parse_slice(text)


class TestCondition:
    @pytest.mark.parametrize(
        ("text", "holds"),
        [
            ("cls=3", True),
            ("cls=33", False),
            ("CLS= 3", True),
            ("txt=naïve", True),
            ("txt=na.ve", False),
            ("txt~na.ve", True),
            ("txt~^a", False),
            ("__key__~^n01/", True),
            ("__key__=n01/7", True),
            ("xml=", False),
            ("txt~=|~|ï", True),
        ],
    )
    def test_it_holds_where_it_says(self, text, holds):
        assert parse_condition(text).holds(SAMPLE) is holds

    def test_bytes_that_are_no_text_can_be_looked_into(self):
        assert parse_condition("png~PNG").holds({"__key__": "a", "png": b"\x89PNG"})

    @pytest.mark.parametrize("text", ["", "cls", "=3", "~x", "cls~(", "1 < 2"])
    def test_what_is_no_condition_is_refused(self, text):
        with pytest.raises(ValueError, match=r"neither|no regex"):
            parse_condition(text)

    def test_an_expression_is_no_condition(self):
        with pytest.raises(ValueError, match="neither"):
            parse_condition("__import__('os').system('true')")


class TestKeyFormat:
    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("#", "000000042"),
            ("a/#", "a/000000042"),
            ("{}", "42"),
            ("{record}", "42"),
            ("{record:06d}", "000042"),
            ("{:3}", " 42"),
            ("{key}", "n01/7"),
            ("{}-{key}-{:04d}", "42-n01/7-0042"),
            ("{{}}{}", "{}42"),
        ],
    )
    def test_its_parts(self, text, key):
        assert parse_key_format(text).make(42, "n01/7") == key

    @given(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
    def test_numbers_sort_as_their_keys_do(self, a, b):
        make = parse_key_format("x#").make
        assert (a < b) == (make(a) < make(b))

    @pytest.mark.parametrize(
        "text",
        [
            *("", "a", "{", "{key.__class__}", "{record!r}", "{record:{record}d}"),
            *("{0}", "{key[0]}", "{other}", "{:999d}", "{key:>9}", "{{}}"),
            "{record:x}",
        ],
    )
    def test_nothing_else_is_one(self, text):
        with pytest.raises(ValueError, match="is no key format"):
            parse_key_format(text)


def test_a_field_as_bytes():
    assert field_bytes({"__key__": "a", "cls": 3}, "cls") == b"3"
    with pytest.raises(SampleError, match=r"has no field 'png' \(it has: jpg"):
        field_bytes(SAMPLE, "png")

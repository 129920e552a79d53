"""Every extension: what is encoded comes back, and damage is an error."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.codecs.decoders import decode_field, decode_sample, decoders
from shardbuild.codecs.encoders import encode_field, encode_sample, encoders
from shardbuild.codecs.images import IMAGE_EXTENSIONS
from shardbuild.errors import DecodeError, EncodeError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
COLOUR = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
BLACK_AND_WHITE = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)

# Extension: a value, what it is on storage (None: not looked at), how a picture is
# decoded. Each of them must come back equal.
TABLE: dict[str, tuple[Any, bytes | None, Any]] = {
    "class": (3, b"3", None),
    "cls": (-7, b"-7", None),
    "cls2": (2**70, b"1180591620717411303424", None),
    "count": (np.int64(5), b"5", None),
    "id": (np.uint8(255), b"255", None),
    "img": (COLOUR, b"P6\n4 3\n255\n" + COLOUR.tobytes(), "rgb8"),
    "image": (GREY, b"P5\n4 3\n255\n" + GREY.tobytes(), "l8"),
    "index": (0, b"0", None),
    "inx": (True, b"1", None),
    "jpeg": (np.full((16, 16), 200, np.uint8), None, "l8"),
    "jpg": (np.full((16, 16, 3), 128, np.uint8), None, "rgb8"),
    "jsn": ([1, 2.5, None, True, "é"], b'[1, 2.5, null, true, "\\u00e9"]', None),
    "json": ({"b": {"a": []}, "a": ""}, b'{"b": {"a": []}, "a": ""}', None),
    "npy": (np.array([[1, np.nan], [3, -0.0]]), None, None),
    "pbm": (BLACK_AND_WHITE, b"P4\n3 2\n\x80\x60", "l8"),
    "pgm": (GREY, b"P5\n4 3\n255\n" + GREY.tobytes(), "l8"),
    "png": (COLOUR, None, "rgb8"),
    "pnm": (GREY, b"P5\n4 3\n255\n" + GREY.tobytes(), "l8"),
    "ppm": (COLOUR, b"P6\n4 3\n255\n" + COLOUR.tobytes(), "rgb8"),
    "text": ("", b"", None),
    "transcript": ("a\r\nb\0", b"a\r\nb\0", None),
    "txt": ("Ünïcødé 🙂", "Ünïcødé 🙂".encode(), None),
}


def assert_same(value, expected):
    if isinstance(expected, np.ndarray):
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)
    else:
        assert value == expected


def test_the_table_has_every_extension_and_both_halves_know_the_same():
    assert set(TABLE) == set(encoders)
    assert set(encoders) == set(decoders) | IMAGE_EXTENSIONS


@pytest.mark.parametrize("extension", TABLE)
@pytest.mark.parametrize("prefix", ["", "left.", "A.b."])
@pytest.mark.parametrize("change_case", [str.lower, str.upper])
def test_what_is_encoded_comes_back(extension, prefix, change_case):
    value, stored, images = TABLE[extension]
    name = prefix + change_case(extension)
    data = encode_field(name, value)
    assert stored is None or data == stored
    assert type(data) is bytes
    assert encode_field(name, value) == data
    assert_same(decode_field(name, data, images=images), value)


@pytest.mark.parametrize(
    "extension",
    ["", "t", "x", "xt", "s", "on", "js", "son", "txt.gz", "cls.bin", "jpgx", "txt."],
)
def test_part_of_an_extension_is_no_match(extension):
    assert decode_field(extension, b"1") == b"1"
    with pytest.raises(EncodeError, match="no encoder takes a int"):
        encode_field(extension, 1)


@pytest.mark.parametrize("extension", [*TABLE, "bin"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_pass_through_whatever_the_extension(extension, kind):
    data = encode_field(extension, kind(b"\x00\xff"))
    assert data == b"\x00\xff"
    assert type(data) is bytes


def test_a_strided_memoryview_gives_its_own_bytes():
    assert encode_field("bin", memoryview(b"abcdef")[::2]) == b"ace"


@given(st.text())
def test_text_is_utf8_for_any_extension(text):
    assert decode_field("txt", encode_field("txt", text)) == text
    assert encode_field("anything", text) == text.encode("utf-8")


@given(st.integers())
def test_integers_round_trip(number):
    assert decode_field("cls", encode_field("cls", number)) == number


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON.filter(lambda value: not isinstance(value, str)))
def test_json_round_trips_as_ascii(value):
    data = encode_field("json", value)
    assert data.isascii()
    assert decode_field("json", data) == value


def test_text_for_json_is_json_already():
    assert decode_field("json", encode_field("json", '{"a": 1}')) == {"a": 1}


def test_json_takes_numpy_numbers_and_arrays():
    value = {"n": np.int32(3), "x": np.float32(0.5), "box": np.arange(4), "b": np.True_}
    expected = {"n": 3, "x": 0.5, "box": [0, 1, 2, 3], "b": True}
    assert json.loads(encode_field("json", value)) == expected


REFUSED = [
    ("cls", 1.0, "1.0 is no integer"),
    ("cls", None, "None is no integer"),
    ("cls", np.float32(2), "is no integer"),
    ("cls", np.array([1, 2]), "is no integer"),
    ("cls", 10**5000, "Exceeds the limit"),
    ("txt", 3, "a int is no text"),
    ("txt", "\ud800", "surrogates not allowed"),
    ("json", {"x": float("nan")}, "not JSON compliant"),
    ("json", {"x": float("inf")}, "not JSON compliant"),
    ("json", {1, 2}, "a set is no JSON"),
    ("json", b"{}".hex, "is no JSON"),
    ("npy", np.array([object()]), "without pickle"),
    ("npy", [[1, 2], [3]], "inhomogeneous"),
    ("npy", np.ma.masked_array([1, 2], [True, False]), "lose its mask"),
    ("bin", {"a": 1}, "no encoder takes a dict"),
    ("bin", np.zeros(3), "no encoder takes a ndarray"),
]


@pytest.mark.parametrize(
    ("extension", "value", "problem"), REFUSED, ids=range(len(REFUSED))
)
def test_what_cannot_come_back_is_refused(extension, value, problem):
    with pytest.raises(EncodeError, match=problem) as caught:
        encode_field(extension, value, key="n01/7", url="out.tar")
    assert str(caught.value).startswith(f"out.tar: sample 'n01/7': field {extension!r}")
    assert caught.value.key == "n01/7"
    assert caught.value.__cause__ is not None


def test_a_sample_round_trips_with_its_meta_untouched():
    sample = {
        "__key__": "a/b",
        "__url__": "x.tar",
        "_note": 3,
        "cls": 7,
        "seg.PNG": COLOUR,
        "bin": b"\x00",
    }
    stored = encode_sample(sample)
    assert list(stored) == list(sample)
    assert stored["__key__"] == "a/b"
    assert stored["_note"] == 3
    assert stored["cls"] == b"7"
    decoded = decode_sample(stored)
    np.testing.assert_array_equal(decoded.pop("seg.PNG"), COLOUR)
    assert decoded == {key: sample[key] for key in sample if key != "seg.PNG"}


def test_the_error_of_a_sample_names_its_key():
    with pytest.raises(EncodeError, match=r"^out\.tar: sample 'k': field 'cls'"):
        encode_sample({"__key__": "k", "cls": 1.5}, url="out.tar")
    with pytest.raises(DecodeError, match=r"^in\.tar: sample 'k': field 'cls'"):
        decode_sample({"__key__": "k", "cls": b"?"}, url="in.tar")


def test_a_codec_of_ones_own_is_used(monkeypatch):
    monkeypatch.setitem(encoders, "hex", lambda value: value.hex().encode())
    monkeypatch.setitem(decoders, "hex", lambda data: float.fromhex(data.decode()))
    assert decode_field("X.HEX", encode_field("X.HEX", 0.1)) == 0.1

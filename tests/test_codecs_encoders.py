"""Every extension: what is encoded comes back, and damage is an error."""

from __future__ import annotations

import gzip
import json
import pickle
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.codecs.decoders import (
    decode_field,
    decode_sample,
    decoders,
)
from shardbuild.codecs.encoders import (
    encode_field,
    encode_sample,
    encoders,
)
from shardbuild.codecs.images import IMAGE_EXTENSIONS
from shardbuild.codecs.trusted import trusting_decoders, trusting_encoders
from shardbuild.errors import DecodeError, EncodeError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
COLOUR = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
CLEAR = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
BLACK_AND_WHITE = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
NUMBERS = {"b": [1, -2.5, None, True], "a": {"é": "ü"}}
P5, P6 = b"P5\n4 3\n255\n", b"P6\n4 3\n255\n"


@dataclass(frozen=True)
class Codec:
    """What one extension encodes, and what it decodes to."""

    value: Any
    stored: bytes | None = None
    """What it is on storage; None: not looked at."""
    decoded: Any = None
    """What comes back; None: the value itself."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of decoding: for a picture, its spec."""

    @property
    def expected(self):
        return self.value if self.decoded is None else self.decoded

    @property
    def trust(self):
        return {"allow_pickle": self.options.get("allow_pickle", False)}


def picture(value, spec, stored=None):
    return Codec(value, stored, options={"images": spec})


TRUSTED = {"allow_pickle": True}

# Every extension: encodes what, stored how, decodes to what.
TABLE: dict[str, Codec] = {
    # integers, also numpy's, to int
    "class": Codec(3, b"3"),
    "cls": Codec(-7, b"-7"),
    "cls2": Codec(2**70, b"1180591620717411303424"),
    "count": Codec(np.int64(5), b"5", 5),
    "id": Codec(np.uint8(255), b"255", 255),
    "index": Codec(0, b"0"),
    "inx": Codec(True, b"1", 1),
    # text to text
    "htm": Codec("<p>", b"<p>"),
    "html": Codec("<b>é</b>", "<b>é</b>".encode()),
    "text": Codec("", b""),
    "transcript": Codec("a\r\nb\0", b"a\r\nb\0"),
    "txt": Codec("Ünïcødé 🙂", "Ünïcødé 🙂".encode()),
    # trees of plain values, with lists for tuples
    "jsn": Codec([1, 2.5, None, True, "é"], b'[1, 2.5, null, true, "\\u00e9"]'),
    "json": Codec({"b": {"a": []}, "a": ""}, b'{"b": {"a": []}, "a": ""}'),
    "cbor": Codec(
        {"b": (1, b"\0"), 3: np.float32(0.5)},
        b"\xa2\x61b\x82\x01\x41\0\x03\xfb\x3f\xe0" + bytes(6),
        {"b": [1, b"\0"], 3: 0.5},
    ),
    "mp": Codec({"b": (1, b"\0"), 3: "é"}, None, {"b": [1, b"\0"], 3: "é"}),
    "msg": Codec(NUMBERS, None),
    "msgpack": Codec(
        [1, np.int8(2), np.arange(2)], b"\x93\1\2\x92\0\1", [1, 2, [0, 1]]
    ),
    # arrays to arrays
    "npy": Codec(np.array([[1, np.nan], [3, -0.0]])),
    "npz": Codec({"x": GREY, "y/z": np.float32(2)}),
    "ten": Codec([GREY, np.array(2, ">u4")], None, [GREY, np.array(2, "<u4")]),
    "tenbin": Codec((GREY, COLOUR), None, [GREY, COLOUR]),
    "tb": Codec(np.arange(3.0), None, [np.arange(3.0)]),
    # anything to the same, for those who trust it
    "pickle": Codec({1, 2}, None, options=TRUSTED),
    "pkl": Codec(1j, None, options=TRUSTED),
    "pyd": Codec((1, [2]), None, options=TRUSTED),
    # pictures, arrays or Pillow's, to what the spec says
    "bmp": picture(COLOUR, "rgb8"),
    "gif": picture(GREY, "l8"),
    "image": picture(GREY, "l8", P5 + GREY.tobytes()),
    "img": picture(COLOUR, "rgb8", P6 + COLOUR.tobytes()),
    "jfif": picture(np.full((16, 16), 100, np.uint8), "l8"),
    "jpe": picture(np.full((16, 16), 50, np.uint8), "l8"),
    "jpeg": picture(np.full((16, 16), 200, np.uint8), "l8"),
    "jpg": picture(np.full((16, 16, 3), 128, np.uint8), "rgb8"),
    "pbm": picture(BLACK_AND_WHITE, "l8", b"P4\n3 2\n\x80\x60"),
    "pgm": picture(GREY, "l8", P5 + GREY.tobytes()),
    "png": picture(COLOUR, "rgb8"),
    "pnm": picture(GREY, "l8", P5 + GREY.tobytes()),
    "ppm": picture(COLOUR, "rgb8", P6 + COLOUR.tobytes()),
    "tif": picture(GREY, "l8"),
    "tiff": picture(CLEAR, "rgba8"),
    "webp": picture(CLEAR, "rgba8"),
}

WITHOUT_TORCH = {"pth"}  # in tests/test_codecs_torchdata.py


def assert_same(value, expected):
    assert type(value) is type(expected)
    if isinstance(expected, np.ndarray):
        assert value.dtype == expected.dtype
        assert value.flags.writeable
        np.testing.assert_array_equal(value, expected)
    elif isinstance(expected, list):
        assert len(value) == len(expected)
        for one, other in zip(value, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, dict):
        assert list(value) == list(expected)
        for name in expected:
            assert_same(
                value[name],
                np.asarray(expected[name])
                if isinstance(expected[name], np.generic)
                else expected[name],
            )
    else:
        assert value == expected


def test_the_table_has_every_extension_and_both_halves_know_the_same():
    assert set(TABLE) | WITHOUT_TORCH == set(encoders)
    assert set(encoders) == set(decoders) | IMAGE_EXTENSIONS
    assert set(trusting_encoders) | WITHOUT_TORCH == set(trusting_decoders)


@pytest.mark.parametrize("extension", TABLE)
@pytest.mark.parametrize("prefix", ["", "left.", "A.b."])
@pytest.mark.parametrize("suffix", ["", ".gz", ".gz.gz"])
@pytest.mark.parametrize("change_case", [str.lower, str.upper])
def test_what_is_encoded_comes_back(extension, prefix, suffix, change_case):
    codec = TABLE[extension]
    name = prefix + change_case(extension + suffix)
    data = encode_field(name, codec.value, **codec.trust)
    assert encode_field(name, codec.value, **codec.trust) == data
    assert type(data) is bytes
    assert_same(decode_field(name, data, **codec.options), codec.expected)
    for _ in range(suffix.count("gz")):
        data = gzip.decompress(data)
    assert codec.stored is None or data == codec.stored


@pytest.mark.parametrize("extension", ["pyd", "pickle", "x.PKL", "pkl.gz"])
def test_pickle_is_neither_written_nor_read_unless_it_is_trusted(extension):
    data = encode_field(extension, {1, 2}, allow_pickle=True)
    with pytest.raises(EncodeError, match="allow_pickle=True"):
        encode_field(extension, {1, 2})
    with pytest.raises(DecodeError, match="allow_pickle=True"):
        decode_field(extension, data)
    sample = {"__key__": "a", extension: {1, 2}}
    stored = encode_sample(sample, allow_pickle=True)
    assert stored[extension] == data
    with pytest.raises(DecodeError, match="allow_pickle=True"):
        decode_sample(stored)
    assert decode_sample(stored, allow_pickle=True) == sample


class Explodes:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


@pytest.mark.parametrize("extension", sorted(decoders))
def test_no_decoder_runs_code_by_default(extension):
    bomb = pickle.dumps(Explodes())
    array = np.empty(1, object)
    array[0] = Explodes()
    stream = BytesIO()
    np.save(stream, array, allow_pickle=True)
    for data in (bomb, stream.getvalue()):
        if extension in WITHOUT_TORCH:
            continue
        with pytest.raises(DecodeError):
            decode_field(extension, data)


@pytest.mark.parametrize(
    "extension",
    ["", "t", "x", "xt", "s", "on", "js", "son", "gz", "cls.bin", "jpgx", "txt."],
)
def test_part_of_an_extension_is_no_match(extension):
    assert decode_field(extension, b"1") == b"1"
    with pytest.raises(EncodeError, match="no encoder takes a int"):
        encode_field(extension, 1)


@pytest.mark.parametrize("extension", [*TABLE, "bin", "txt.gz"])
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
    ("json", {1, 2}, "a set is none of its types"),
    ("json", b"{}".hex, "is none of its types"),
    ("htm", 3, "a int is no text"),
    ("ten", [[True]], "type bool"),
    ("ten", "no".__len__, "type object"),
    ("mp", {1, 2}, "a set is none of its types"),
    ("mp", 2**64, "a int is none of its types"),
    ("cbor", object(), "a object is none of its types"),
    ("npz", [1], "a list is no dict of arrays by name"),
    ("npz", {1: [1]}, "no dict of arrays by name"),
    ("npz", {"": [1]}, "would not come back"),
    ("npz", {"a\0b": [1]}, "would not come back"),
    ("npz", {"a": [object()]}, "without pickle"),
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

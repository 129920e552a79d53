"""Damage is an error that names the field, and decoding is done once."""

from __future__ import annotations

import math

import pytest

from shardbuild.codecs.decoders import decode_field, decode_sample, decoders
from shardbuild.codecs.encoders import encode_field, encoders
from shardbuild.errors import DecodeError

DAMAGED = [
    ("cls", b"", "is no integer"),
    ("cls", b"cat", "is no integer"),
    ("cls", b"1.5", "is no integer"),
    ("cls", b"1_000", "is no integer"),
    ("cls", "٣".encode(), "is no integer"),
    ("cls", b"9" * 5000, "Exceeds the limit"),
    ("txt", b"\xff", "can't decode byte 0xff"),
    ("json", b"{", "Expecting property name"),
    ("json", b"", "Expecting value"),
    ("json", b"[" * 100_000, "recursion"),
    ("jpg", b"", "cannot identify image"),
    ("jpg", b"\xff\xd8\xff", "cannot identify image|Truncated"),
    ("png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify"),
]


@pytest.mark.parametrize(
    ("extension", "data", "problem"), DAMAGED, ids=range(len(DAMAGED))
)
def test_damage_is_an_error_that_names_the_field(extension, data, problem):
    with pytest.raises(DecodeError, match=problem) as caught:
        decode_field(extension, data, key="n01/7", url="in.tar")
    assert str(caught.value).startswith(f"in.tar: sample 'n01/7': field {extension!r}")
    assert caught.value.__cause__ is not None


def test_blanks_around_an_integer_are_no_matter():
    assert decode_field("cls", b" +12\r\n") == 12


def test_json_written_by_others_with_a_byte_order_mark_or_nan_is_read():
    assert decode_field("json", b"\xef\xbb\xbf[1]") == [1]
    assert math.isnan(decode_field("json", b"[NaN]")[0])


def test_decoding_twice_is_decoding_once():
    once = decode_sample({"__key__": "a", "json": b"[1]", "txt": b"7", "cls": b"7"})
    assert decode_sample(once) == once


def test_pictures_stay_bytes_on_request():
    data = encode_field("pgm", b"P5 1 1 255 x")
    assert decode_sample({"pgm": data, "cls": b"1"}, images=None) == {
        "pgm": data,
        "cls": 1,
    }


def test_running_out_of_memory_is_not_the_samples_fault(monkeypatch):
    def exhausted(value):
        raise MemoryError

    monkeypatch.setitem(encoders, "big", exhausted)
    monkeypatch.setitem(decoders, "big", exhausted)
    with pytest.raises(MemoryError):
        encode_field("big", 1)
    with pytest.raises(MemoryError):
        decode_field("big", b"1")

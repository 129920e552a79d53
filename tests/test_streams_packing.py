"""Samples as bytes and back: what goes in comes out, or is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.errors import EncodeError
from shardbuild.streams.packing import pack_sample, unpack_sample

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=5,
)
SAMPLES = st.dictionaries(st.text(), st.binary() | PLAIN, max_size=5)


def same(one: object, other: object) -> bool:
    """Equal, and of the same kinds: True is not 1, and the order counts."""
    return repr(one) == repr(other)


@given(SAMPLES)
def test_what_is_packed_comes_back(sample):
    assert same(unpack_sample(pack_sample(sample)), sample)


def test_text_that_is_no_unicode_comes_back():
    sample = {"__key__": "\udc80", "\ud800": "\udfff"}
    assert unpack_sample(pack_sample(sample)) == sample


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.array([[1.5, -0.0]], "f4"),
        np.zeros((0, 3), np.uint8),
        np.array(7),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.array(["größer", ""]),
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    ],
)
def test_arrays_come_back(array):
    found = unpack_sample(pack_sample({"npy": array, "txt": b"after"}))
    assert found["npy"].dtype == array.dtype
    np.testing.assert_array_equal(found["npy"], array)
    assert found["txt"] == b"after"


def test_other_bytes_come_back_as_bytes():
    sample = {"a": bytearray(b"xy"), "b": memoryview(b"\0\0\1\0").cast("H")}
    assert unpack_sample(pack_sample(sample)) == {"a": b"xy", "b": b"\0\0\1\0"}


@pytest.mark.parametrize(
    "value",
    [(1, 2), {1: 2}, {"a": {1}}, object(), [1, (2,)], np.float32(1), np.array([{}])],
)
def test_what_would_not_come_back_is_refused(value):
    with pytest.raises(EncodeError, match=r"cache.db: sample 'k': field 'x' cannot"):
        pack_sample({"__key__": "k", "x": value}, "cache.db")


def test_no_damage_goes_unseen():
    data = pack_sample({"__key__": "a", "txt": b"some text"})
    for at in range(len(data)):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(ValueError, match="not what was written"):
            unpack_sample(damaged)
        with pytest.raises(ValueError, match="not what was written"):
            unpack_sample(data[:at])

"""Columns as a file: numpy's, and safe to read."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shardbuild.shards.npz import pack_columns, unpack_columns

columns = st.dictionaries(
    st.text("abc_0", min_size=1, max_size=5),
    st.sampled_from(["|u1", "<u2", "<u4", "<u8", "<i8"]).flatmap(
        lambda kind: hnp.arrays(kind, st.integers(0, 9))
    ),
    max_size=4,
)


@given(columns)
def test_numpy_and_we_read_the_same(given_columns):
    data = pack_columns(given_columns)
    by_numpy = np.load(io.BytesIO(data))
    by_us = unpack_columns(data)
    assert list(by_us) == by_numpy.files == list(given_columns)
    for name, column in given_columns.items():
        for read in (by_numpy[name], by_us[name]):
            assert read.dtype == column.dtype
            assert read.tolist() == column.tolist()


def test_numpy_writes_the_same_columns():
    column = np.arange(5, dtype="<u4")
    stream = io.BytesIO()
    np.savez(stream, a=column)
    ours = zipfile.ZipFile(io.BytesIO(pack_columns({"a": column})))
    theirs = zipfile.ZipFile(stream)
    assert ours.read("a.npy") == theirs.read("a.npy")


def with_part(data, **options):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        archive.writestr("a.npy", data)
    return stream.getvalue()


def numpys(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def changed(offset, new):
    """A good file in which some bytes are others; central offsets are below zero."""
    data = bytearray(pack_columns({"a": np.arange(9, dtype="<u4")}))
    start = offset if offset >= 0 else data.index(b"PK\x01\x02") - offset
    assert data[start : start + len(new)] != new
    data[start : start + len(new)] = new
    return bytes(data)


BAD = {
    "nothing": b"",
    "no zip": b"x" * 100,
    "a pickle": with_part(numpys(np.array([None]))),
    "text": with_part(numpys(np.array(["a"]))),
    "two dimensions": with_part(numpys(np.zeros((2, 2), "<u8"))),
    "another order of bytes": with_part(numpys(np.zeros(2, ">u8"))),
    "no header": with_part(b"abc"),
    "code for a header": with_part(b"\x93NUMPY\x01\x00\x10\x00__import__('os')"),
    "a header without end": with_part(b"\x93NUMPY\x01\x00\xff\xff{}"),
    "less than promised": with_part(numpys(np.zeros(9, "<u8"))[:-8]),
    "part of a number": with_part(numpys(np.zeros(9, "<u8"))[:-3]),
    "10^17 numbers": with_part(
        numpys(np.zeros(9, "|u1")).replace(
            b"(9,), }" + b" " * 17, b"(1" + b"0" * 17 + b",), }"
        )
    ),
    "deflated": with_part(numpys(np.zeros(9)), compression=zipfile.ZIP_DEFLATED),
    "encrypted": changed(-8, b"\x01"),
    "a patch": changed(-8, b"\x20"),
    "encrypted strongly": changed(-8, b"\x40"),
    "another sum": changed(-16, b"abcd"),
    "another number": changed(36 + 128, b"\xff"),
    "another name": changed(30, b"b"),
    "no local header": changed(0, b"QK"),
    "a part that lies behind the end": changed(-42, b"\xff\xff"),
    "a bomb": with_part(bytes(10**6), compression=zipfile.ZIP_DEFLATED),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_column_of_numbers_is_refused(data):
    with pytest.raises(ValueError, match=r"\w"):
        unpack_columns(data)

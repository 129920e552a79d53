"""Arrays as .npy and .npz: numpy reads ours, we numpy's, and damage is an error."""

from __future__ import annotations

import ast
import gc
import sys
import tracemalloc
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shardbuild.codecs import arrays as arrays_module
from shardbuild.codecs.arrays import decode_npy, decode_npz, encode_npy, encode_npz
from shardbuild.codecs.decoders import decode_field
from shardbuild.errors import DecodeError

ARRAYS = hnp.arrays(
    hnp.scalar_dtypes() | hnp.array_dtypes() | hnp.nested_dtypes(),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


def as_numpy_saves(array):
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are not latin-1 need version 3
        np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


@given(ARRAYS)
def test_any_array_round_trips_and_is_what_numpy_saves(array):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = encode_npy(array)
    assert data == as_numpy_saves(array)
    back = decode_npy(data)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<i4", ">i4", "?", "<c8", "<M8[ns]", "S3", "<U2"])
def test_byte_order_and_memory_order_are_kept(dtype, order):
    array = np.arange(24).astype(dtype).reshape((2, 3, 4), order=order)
    back = decode_npy(encode_npy(array))
    assert back.dtype == array.dtype
    assert back.flags.c_contiguous == array.flags.c_contiguous
    np.testing.assert_array_equal(back, array)


def test_names_of_fields_beyond_latin_1_come_back():
    array = np.array([(1, 2.0)], dtype=[("größe", "<i4"), ("长", "<f8")])
    data = as_numpy_saves(array)
    assert data[6] == 3
    assert decode_npy(data).dtype == array.dtype


def test_lists_and_scalars_become_arrays():
    np.testing.assert_array_equal(decode_npy(encode_npy([[1, 2]])), [[1, 2]])
    assert decode_npy(encode_npy(1.5)).shape == ()


WHOLE = as_numpy_saves(np.arange(6, dtype=np.int16).reshape(2, 3))


@pytest.mark.parametrize("num_bytes", range(len(WHOLE)))
def test_a_cut_anywhere_is_an_error(num_bytes):
    with pytest.raises(DecodeError, match="field 'npy'"):
        decode_field("npy", WHOLE[:num_bytes])


def test_bytes_after_the_array_are_an_error():
    with pytest.raises(ValueError, match="12 bytes of array, 13 follow"):
        decode_npy(WHOLE + b"\0")


def header(text, version=1):
    data = text.encode()
    length = len(data).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + data


HOSTILE = {
    "more than memory": (
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1 << 60,)}"),
        "malformed node",
    ),
    "more than there is": (
        header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**60},)}}"),
        "9223372036854775808 bytes of array, 0 follow",
    ),
    "negative": (
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"),
        "shape is",
    ),
    "bool": (
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}"),
        "shape is",
    ),
    "no tuple": (
        header("{'descr': '<f8', 'fortran_order': False, 'shape': 3}"),
        "shape is 3",
    ),
    "objects": (
        header("{'descr': '|O', 'fortran_order': False, 'shape': ()}") + b"cos\n",
        "pickle is never read",
    ),
    "code": (header("__import__('os').getpid()"), "malformed node"),
    "no dict": (header("[1]"), "has not the fields"),
    "other fields": (header("{'descr': '<f8'}"), "has not the fields"),
    "version 4": (header("{}", version=4), "version 1, 2 or 3"),
    "deep": (
        header("(" * 5000, version=2),
        "nested|parenthes|unterminated|never closed",
    ),
    "long": (header(" " * (1 << 20), version=2), "the header ends at byte"),
    "no such type": (
        header("{'descr': 'spam', 'fortran_order': False, 'shape': ()}"),
        "spam",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_an_error(case):
    data, problem = HOSTILE[case]
    with pytest.raises(DecodeError, match=problem):
        decode_field("npy", data)


@given(st.binary(max_size=200), st.integers(0, len(WHOLE)))
def test_any_bytes_give_an_array_or_a_decode_error(junk, keep):
    try:
        value = decode_field("npy", WHOLE[:keep] + junk)
    except DecodeError:
        return
    assert isinstance(value, np.ndarray)


# -- npz --------------------------------------------------------------------


@given(st.dictionaries(st.text("abc/.é", min_size=1), ARRAYS, max_size=3))
def test_any_dict_of_arrays_round_trips_and_numpy_reads_it(arrays):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = encode_npz(arrays)
        back = decode_npz(data)
    theirs = np.load(BytesIO(data), allow_pickle=False)
    assert theirs.files == list(back) == list(arrays)
    for name, array in arrays.items():
        for other in (back[name], theirs[name]):
            assert other.dtype == array.dtype
            assert other.shape == array.shape
            assert other.tobytes() == array.tobytes()
        assert back[name].flags.writeable


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saves_is_read(save):
    stream = BytesIO()
    save(stream, np.arange(3), x=np.zeros((2, 2)))
    back = decode_npz(stream.getvalue())
    assert back["arr_0"].tolist() == [0, 1, 2]
    assert back["x"].shape == (2, 2)


def zipped(**members):
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_", "."), data)
    return stream.getvalue()


def with_size(data, size):
    """Tell another unpacked size in the directory of an archive of one member."""
    at = data.index(b"PK\1\2") + 24
    return data[:at] + size.to_bytes(4, "little") + data[at + 4 :]


BOMB = zipped(x_npy=bytes(1 << 26))
HOSTILE_NPZ = {
    "no archive": (b"PK", "is no .npz"),
    "empty": (b"", "is no .npz"),
    "no array": (zipped(a_txt=b"x"), "'a.txt', which is no array"),
    "a pickle": (zipped(x_npy=b"\x80\x04cos\nsystem\n"), "do not begin as .npy"),
    "objects": (zipped(x_npy=HOSTILE["objects"][0]), "pickle is never read"),
    "a lying header": (zipped(x_npy=HOSTILE["more than there is"][0]), "0 follow"),
    "a lying size": (with_size(zipped(x_npy=WHOLE), 1 << 31), "too many"),
    "a cut": (zipped(x_npy=WHOLE)[:-30], "is no .npz"),
    "a wrong checksum": (zipped(x_npy=WHOLE).replace(b"x.npy", b"y.npy", 1), "differ"),
}


@pytest.mark.parametrize("case", HOSTILE_NPZ)
def test_a_hostile_npz_is_an_error(case):
    data, problem = HOSTILE_NPZ[case]
    with pytest.raises(DecodeError, match=problem):
        decode_field("npz", data)


def test_an_npz_that_unpacks_to_too_much_is_refused_before_it_is(monkeypatch):
    monkeypatch.setattr(arrays_module, "MAX_UNPACKED_BYTES", 1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="unpacks to 67108864 bytes: too many"):
            decode_field("npz", BOMB)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["<i4", [("a", "<i4"), ("b", "<f8", (2,))]])
def test_threads_decode_at_once(kind):
    # While garbage is collected other threads may run, if only somebody listens; and
    # parsers of Python 3.11 that are not equally deep then confuse each other.
    array = np.zeros(3, kind)
    data = encode_npy(array)

    def decode_deep(depth):
        if depth:
            return decode_deep(depth - 1)
        return [decode_npy(data).tobytes() for _ in range(3000)]

    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    listener = id
    gc.callbacks.append(lambda *_: listener(data))
    try:
        gc.set_threshold(3)
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(4) as pool:
            for decoded in pool.map(decode_deep, range(4)):
                assert set(decoded) == {array.tobytes()}
    finally:
        gc.callbacks.pop()
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    "shape", ["(3)", "(03,)", "(-1,)", "(1.0,)", "[3]", "(,)", "3", "{[]}"]
)
def test_what_is_no_shape_is_refused(shape):
    data = encode_npy(np.zeros(3, np.uint8))
    odd = data.replace(b"(3,), }" + b" " * len(shape), f"{shape}, }}    ".encode(), 1)
    assert len(odd) == len(data)
    assert odd != data
    with pytest.raises(
        ValueError, match=r"the header's shape|the header is no literal"
    ):
        decode_npy(odd)


def test_a_parser_that_always_fails_is_an_error(monkeypatch):
    def fail(text):
        raise SystemError("AST constructor recursion depth mismatch")

    monkeypatch.setattr(ast, "literal_eval", fail)
    data = encode_npy(np.zeros(3, [("a", "<i4")]))
    with pytest.raises(ValueError, match="cannot be parsed here"):
        decode_npy(data)

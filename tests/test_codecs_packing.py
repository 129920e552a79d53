"""Gzip, msgpack and CBOR: ours and others' bytes, and damage is an error."""

from __future__ import annotations

import gzip
import importlib
import resource
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.codecs import packing
from shardbuild.codecs.decoders import decode_field
from shardbuild.codecs.encoders import encode_field, packed_name
from shardbuild.errors import DecodeError, MissingExtraError

msgpack: Any = importlib.import_module("msgpack")  # has no types
cbor2: Any = importlib.import_module("cbor2")


# -- gzip -------------------------------------------------------------------


@given(st.binary(max_size=1000))
def test_gzip_is_read_by_others_and_theirs_by_us(data):
    packed = packing.gzip(data)
    assert gzip.decompress(packed) == data
    assert packing.gunzip(packed) == data
    assert packing.gunzip(gzip.compress(data)) == data
    assert packing.gunzip(gzip.compress(data) + packed) == data + data


def test_gzip_has_no_time_and_no_machine_in_it():
    assert packing.gzip(b"")[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    assert encode_field("json.gz", [1]) == packing.gzip(b"[1]")


@pytest.mark.parametrize(
    ("extension", "found"),
    [
        ("txt", ("txt", 0)),
        ("TXT.Gz.gZ", ("txt", 2)),
        ("gz", ("gz", 0)),
        (".gz", ("", 1)),
        ("gz.txt", ("txt", 0)),
        ("txt.gzip", ("gzip", 0)),
        ("tgz", ("tgz", 0)),
    ],
)
def test_only_a_whole_last_component_is_gz(extension, found):
    assert packed_name(extension) == found


WHOLE = packing.gzip(bytes(range(200)))


@pytest.mark.parametrize("cut", range(len(WHOLE)))
def test_gzip_cut_off_anywhere_is_an_error(cut):
    with pytest.raises(DecodeError, match="gzip"):
        decode_field("txt.gz", WHOLE[:cut])


@pytest.mark.parametrize("tail", [b"x", b"\0" * 10, WHOLE[:5]])
def test_bytes_after_gzip_are_an_error(tail):
    with pytest.raises(ValueError, match="gzip"):
        packing.gunzip(WHOLE + tail)


def test_a_wrong_checksum_is_an_error():
    damaged = bytearray(WHOLE)
    damaged[-6] ^= 1
    with pytest.raises(ValueError, match="incorrect data check"):
        packing.gunzip(bytes(damaged))


def test_a_gzip_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(packing, "MAX_UNPACKED_BYTES", 1 << 20)
    packed = packing.gzip(bytes(1 << 26))
    assert len(packed) < 1 << 17
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="more than 1048576 bytes"):
            decode_field("txt.gz", packed)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()
    half = packing.gzip(bytes(1 << 19))
    assert len(packing.gunzip(half + half)) == 1 << 20
    with pytest.raises(ValueError, match="more than"):
        packing.gunzip(half + half + packing.gzip(b"x"))


def test_what_has_no_decoder_stays_packed_so_that_it_can_be_written_again():
    packed = packing.gzip(b"abc")
    for extension in ("bin.gz", "gz", "jpg.gz"):
        value = decode_field(extension, packed, images=None)
        assert encode_field(extension, value) == packed


# -- msgpack and CBOR -------------------------------------------------------

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 99), inner)
    ),
    max_leaves=10,
)


@given(PLAIN)
def test_plain_values_round_trip_and_others_read_them(value):
    if isinstance(value, bytes | str):
        value = [value]
    data = encode_field("msgpack", value)
    assert data == msgpack.packb(value)
    assert decode_field("msgpack", data) == value
    data = encode_field("cbor", value)
    assert cbor2.loads(data) == value
    assert decode_field("cbor", data) == value
    assert decode_field("cbor", cbor2.dumps(value)) == value


def test_numpy_values_are_packed_as_plain_ones():
    value = {"n": np.int32(3), "x": np.float32(0.5), "box": np.arange(4), "b": np.True_}
    expected = {"n": 3, "x": 0.5, "box": [0, 1, 2, 3], "b": True}
    for extension in ("mp", "cbor"):
        assert decode_field(extension, encode_field(extension, value)) == expected


DAMAGED = [
    ("mp", b""),
    ("mp", b"\xc1"),
    ("mp", b"\1\2"),
    ("mp", b"\xdd\xff\xff\xff\xff"),
    ("mp", b"\xdf\xff\xff\xff\xff"),
    ("mp", b"\xc6\xff\xff\xff\xff"),
    ("mp", b"\x91" * 100_000),
    ("mp", b"\xa1\xff"),
    ("cbor", b""),
    ("cbor", b"\1\2"),
    ("cbor", b"\xff"),
    ("cbor", b"\x9b\x7f" + b"\xff" * 7),
    ("cbor", b"\x5b\0\0\x7f" + b"\xff" * 5),
    ("cbor", b"\xbb\0" + b"\xff" * 7),
    ("cbor", b"\x81" * 100_000 + b"\1"),
    ("cbor", b"\x61\xff"),
]


@pytest.mark.parametrize(("extension", "data"), DAMAGED, ids=range(len(DAMAGED)))
def test_damage_is_an_error_and_allocates_little(extension, data):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DecodeError):
        decode_field(extension, data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16


@given(st.sampled_from(["mp", "cbor", "npz", "ten"]), st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_decode_error(extension, data):
    try:
        decode_field(extension, data)
    except DecodeError as error:
        assert error.problem.startswith(f"field {extension!r}")  # noqa: PT017


# -- packages that are not there --------------------------------------------


@pytest.mark.parametrize(
    ("extension", "module", "package", "extra"),
    [
        ("msg", "msgpack", "msgpack", "msgpack"),
        ("CBOR.gz", "cbor2", "cbor2", "cbor"),
        ("pth", "torch", "torch", "torch"),
    ],
)
def test_without_the_package_the_error_names_the_extra(
    monkeypatch, extension, module, package, extra
):
    monkeypatch.setitem(sys.modules, module, None)
    problem = rf"needs the package '{package}': pip install 'shardbuild\[{extra}\]'"
    with pytest.raises(MissingExtraError, match=problem):
        encode_field(extension, [1])
    data = packing.gzip(b"\1") if extension.endswith("gz") else b"\1"
    with pytest.raises(MissingExtraError, match=problem):
        decode_field(extension, data)


def test_the_codecs_load_no_package_before_it_is_needed():
    code = (
        "import sys\n"
        "import shardbuild.codecs.handlers, shardbuild.codecs.audiovideo\n"
        "heavy = {'numpy', 'PIL', 'torch', 'msgpack', 'cbor2', 'zmq'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

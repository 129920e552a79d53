"""The .ten format: byte for byte what others write, and damage is an error."""

from __future__ import annotations

import errno
import socket
import struct
import tracemalloc
from io import BytesIO

import numpy as np
import pytest
import webdataset.tenbin
import zmq
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shardbuild.codecs import tenbin
from shardbuild.errors import ShardbuildError, StorageError, TenbinError

TYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
ARRAYS = hnp.arrays(
    st.sampled_from([order + kind for kind in TYPES for order in "<>"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
INFOS = st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=8)


def struct_chunk(payload):
    """A piece, by the description of the format alone."""
    padding = (64 - len(payload) % 64) % 64
    return b"~TenBin~" + struct.pack("<q", len(payload)) + payload + b"\0" * padding


def struct_array(kind, shape, numbers, info=b""):
    head = kind.ljust(8, b"\0") + info.ljust(8, b"\0")
    head += struct.pack(f"<{1 + len(shape)}q", len(shape), *shape)
    return struct_chunk(head) + struct_chunk(numbers)


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype.newbyteorder("<")
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)


# -- the bytes --------------------------------------------------------------


def test_the_verified_dump_of_320_bytes():
    first = np.arange(6, dtype="<f4").reshape(2, 3)
    data = tenbin.encode_buffer([first, np.array([7, 8, 9], np.uint8)])
    assert len(data) == 320
    for at, length in ((0x00, 0x28), (0x50, 0x18), (0xA0, 0x20), (0xF0, 3)):
        assert data[at : at + 16] == b"~TenBin~" + struct.pack("<q", length)
    assert data[0x10:0x20] == b"f4" + bytes(14)
    assert struct.unpack("<3q", data[0x20:0x38]) == (2, 2, 3)
    assert data[0x60:0x78] == first.tobytes()
    assert data[0x100:] == b"\x07\x08\x09" + bytes(61)


def test_an_empty_array_costs_96_bytes():
    data = tenbin.encode_buffer([np.zeros((0,), "<f4")])
    assert len(data) == 96
    same(tenbin.decode_buffer(data), [np.zeros((0,), "<f4")])


@given(st.lists(st.tuples(ARRAYS, INFOS), max_size=3))
def test_a_writer_made_of_structs_gives_the_same_bytes(pairs):
    arrays, infos = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    expected = b"".join(
        struct_array(
            array.dtype.str[1:].encode(),
            array.shape,
            array.astype(array.dtype.newbyteorder("<")).tobytes(),
            info.encode(),
        )
        for array, info in pairs
    )
    data = tenbin.encode_buffer(arrays, infos)
    assert data == expected
    found, names = tenbin.decode_buffer(data, infos=True)
    assert names == infos
    same(found, arrays)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "u4"])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 2, 3), (0, 4)])
def test_webdataset_writes_the_same_bytes_and_reads_ours(kind, shape):
    array = (np.arange(np.prod(shape)) % 100).astype(kind).reshape(shape)
    theirs = bytes(webdataset.tenbin.encode_buffer([array, array], ["a", "bcdefghi"]))
    ours = tenbin.encode_buffer([array, array], ["a", "bcdefghi"])
    assert ours == theirs
    found, infos = webdataset.tenbin.decode_buffer(ours, infos=True)
    assert infos == ["a", "bcdefghi"]
    same(found, [array, array])
    same(tenbin.decode_buffer(theirs), [array, array])


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, 2**32 - 1], np.uint32),
        np.array(3.5),
        np.array([1, 256], ">i4"),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12)[::-3],
        np.broadcast_to(np.int8(3), (2, 2)),
        np.zeros((1,) * 9),
    ],
    ids=["u4", "0-d", "big-endian", "fortran", "strided", "broadcast", "9 dimensions"],
)
def test_what_the_old_library_lost_comes_back(array):
    stream = BytesIO()
    tenbin.write(stream, [array])
    assert stream.getvalue() == tenbin.encode_buffer([array])
    same(tenbin.decode_buffer(stream.getvalue()), [array])


def test_arrays_are_views_of_the_buffer():
    data = bytearray(tenbin.encode_buffer([[1, 2, 3]]))
    (array,) = tenbin.decode_buffer(data)
    data[0x60] = 9
    assert array.tolist() == [9, 2, 3]
    (array,) = tenbin.decode_buffer(bytes(data))
    assert not array.flags.writeable


# -- streams and files ------------------------------------------------------


class Trickle(BytesIO):
    """A stream that gives a few bytes at a time, as pipes and sockets do."""

    def read(self, size=-1):
        return super().read(min(size, 5) if size and size > 0 else size)


@given(st.lists(ARRAYS, max_size=4), st.integers(0, 5))
def test_a_stream_gives_as_many_arrays_as_asked_for(arrays, count):
    stream = Trickle(tenbin.encode_buffer(arrays))
    same(tenbin.read(stream, count), arrays[:count])
    same(tenbin.read(stream), arrays[count:])


def test_files_are_saved_whole_and_loaded(tmp_path):
    name = str(tmp_path / "x.ten")
    tenbin.save(name, np.array([[1, 2]], np.float32), [3], infos=["a", "b"])
    with open(name, "rb") as stream:  # noqa: PTH123
        assert stream.read() == tenbin.encode_buffer(
            [np.array([[1, 2]], np.float32), [3]], ["a", "b"]
        )
    same(tenbin.load(name), [np.array([[1, 2]], np.float32), np.array([3])])
    assert tenbin.load(name, infos=True)[1] == ["a", "b"]
    assert webdataset.tenbin.load(name)[1].tolist() == [3]
    webdataset.tenbin.save(name, np.array([5], np.int16))
    assert tenbin.load(name)[0].tolist() == [5]


def test_a_name_without_ten_needs_nocheck(tmp_path):
    name = str(tmp_path / "x.bin")
    with pytest.raises(TenbinError, match=r"x\.bin: does not end in \.ten"):
        tenbin.save(name, [1])
    with pytest.raises(TenbinError, match=r"nocheck=True"):
        tenbin.load(name)
    tenbin.save(name, [1], nocheck=True)
    assert tenbin.load(name, nocheck=True)[0].tolist() == [1]


def test_a_save_that_fails_leaves_the_old_file(tmp_path):
    name = str(tmp_path / "x.ten")
    tenbin.save(name, [1])
    with pytest.raises(TenbinError, match="cannot hold an array of type bool"):
        tenbin.save(name, [True])
    assert tenbin.load(name)[0].tolist() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.ten"]


def test_a_file_that_cannot_be_opened_is_a_storage_error(tmp_path):
    name = str(tmp_path / "none" / "x.ten")
    with pytest.raises(StorageError, match=r"x\.ten: cannot be read"):
        tenbin.load(name)
    with pytest.raises(StorageError, match=r"x\.ten: cannot be written"):
        tenbin.save(name, [1])


# -- infos ------------------------------------------------------------------


def test_required_infos_are_compared():
    data = tenbin.encode_buffer([[1], [2]], ["a", "b"])
    assert len(tenbin.decode_buffer(data, infos=["a", "b"])) == 2
    assert len(tenbin.decode_buffer(data, infos=("a", "b"))) == 2
    for infos in (["a", "c"], ["a"], ["a", "b", "c"], []):
        with pytest.raises(TenbinError, match=r"has the infos \['a', 'b'\], required"):
            tenbin.decode_buffer(data, infos=infos)
    with pytest.raises(TenbinError, match="required"):
        tenbin.read(BytesIO(data), infos=["b", "a"])


@pytest.mark.parametrize("info", ["ninechars", "é", "a\0b", 3])
def test_an_info_that_would_not_come_back_is_refused(info):
    with pytest.raises(TenbinError, match="8 ASCII letters"):
        tenbin.encode_buffer([[1]], [info])


@pytest.mark.parametrize("infos", [[], ["a"], ["a", "b", "c"], "ab"])
def test_there_is_an_info_for_each_array(infos):
    with pytest.raises(TenbinError, match="one each is needed"):
        tenbin.encode_buffer([[1], [2]], infos)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ([[True]], "type bool"),
        ([1j], "type complex128"),
        (["text"], "type <U4"),
        ([[None]], "type object"),
        ([[[1], [2, 3]]], "inhomogeneous"),
        ([np.zeros((1,) * 10)], "10 dimensions"),
        ([np.ma.masked_array([1, 2], [True, False])], "lose its mask"),
        (np.zeros((2, 2)), "a ndarray is no list"),
        (b"ab", "a bytes is no list"),
    ],
    ids=range(9),
)
def test_what_cannot_be_held_is_refused(arrays, problem):
    with pytest.raises(TenbinError, match=problem):
        tenbin.encode_buffer(arrays)


# -- hostile bytes ----------------------------------------------------------

HEAD = struct.pack("<8s8sqq", b"f4", b"", 1, 2)


def head(*numbers, kind=b"f4", info=b""):
    return struct.pack(f"<8s8s{len(numbers)}q", kind, info, *numbers)


def pair(first, second=bytes(8)):
    return struct_chunk(first) + struct_chunk(second)


def starting(length, rest=b""):
    return b"~TenBin~" + struct.pack("<q", length) + rest


HOSTILE = {
    "a huge head": (starting(2**62, bytes(64)), "bytes"),
    "a negative length": (starting(-1, bytes(64)), "length -1"),
    "the most negative length": (starting(-(2**63), bytes(64)), "length -"),
    "other magic": (b"~TenBim~" + bytes(72), "TenBim"),
    "a huge array": (struct_chunk(head(1, 2**60)) + starting(2**62), "bytes"),
    "a huge product": (pair(head(2, 2**62, 2**62)), "has 8 bytes"),
    "a product that wraps around to 8": (pair(head(2, 2**62 + 1, 8)), "has 8 bytes"),
    "a negative side": (pair(head(1, -2)), "shape"),
    "two negative sides": (pair(head(2, -1, -2)), "shape"),
    "more dimensions than sides": (pair(head(2, 2)), "2 dimensions"),
    "fewer dimensions than sides": (pair(head(1, 2, 1)), "1 dimensions"),
    "negative dimensions": (pair(head(-1)), "-1 dimensions"),
    "ten dimensions": (pair(head(10, *[1] * 10), bytes(4)), "head has 104 bytes"),
    "a short head": (pair(bytes(16)), "head has 16 bytes"),
    "an odd head": (pair(HEAD + b"x"), "head has 33 bytes"),
    "an unknown type": (pair(head(1, 2, kind=b"f3")), "type 'f3'"),
    "an object's type": (pair(head(1, 1, kind=b"O8")), "type 'O8'"),
    "a type with more": (pair(head(1, 2, kind=b"f4\0f4")), "type"),
    "no type": (pair(head(1, 2, kind=b"")), "type ''"),
    "an info beyond ASCII": (pair(head(1, 2, info=b"\xff")), "info"),
    "too many numbers": (pair(HEAD, bytes(12)), "has 12 bytes"),
    "too few numbers": (pair(HEAD, bytes(4)), "has 4 bytes"),
    "no numbers": (struct_chunk(HEAD), "ends"),
    "an empty array that is too large": (
        pair(head(3, 0, 2**62, 2**62), b""),
        "too big|shape",
    ),
}


@pytest.mark.parametrize(
    "way",
    [tenbin.decode_buffer, lambda data: tenbin.read(BytesIO(data))],
    ids=["buffer", "stream"],
)
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_are_an_error_and_allocate_little(case, way):
    data, problem = HOSTILE[case]
    tracemalloc.start()
    try:
        with pytest.raises(TenbinError, match=problem) as caught:
            way(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(caught.value, ShardbuildError)
    assert peak < 1 << 20


def test_a_length_that_lies_in_a_long_stream_reads_no_further_than_its_end():
    shape = 2**40
    stream = BytesIO(struct_chunk(head(1, shape)) + starting(4 * shape, bytes(1000)))
    with pytest.raises(TenbinError, match="ends after 1000"):
        tenbin.read(stream)


WHOLE = tenbin.encode_buffer([np.arange(6, dtype="<u4"), np.float64(2)], ["a", "b"])


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
def test_a_cut_anywhere_is_an_error_or_a_whole_array_less(cut):
    arrays = None
    try:
        arrays = tenbin.decode_buffer(WHOLE[:cut])
    except TenbinError:
        with pytest.raises(TenbinError):
            tenbin.read(BytesIO(WHOLE[:cut]))
    if arrays is not None:
        assert (len(arrays), cut) == (1, 160)
        assert len(tenbin.read(BytesIO(WHOLE[:cut]))) == 1


@given(st.binary(max_size=200), st.integers(0, len(WHOLE)), st.binary(max_size=100))
def test_any_bytes_give_arrays_or_an_error(junk, at, tail):
    data = WHOLE[:at] + junk + WHOLE[at + len(junk) :] + tail
    try:
        arrays = tenbin.decode_buffer(data)
    except TenbinError:
        with pytest.raises(TenbinError):
            tenbin.read(BytesIO(data))
        return
    assert len(tenbin.read(BytesIO(data))) == len(arrays)


# -- sockets ----------------------------------------------------------------


@pytest.fixture
def sockets():
    context = zmq.Context()
    one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    one.bind("inproc://arrays")
    other.connect("inproc://arrays")
    yield one, other
    one.close()
    other.close()
    context.term()


def test_a_single_frame_is_the_buffer(sockets):
    one, other = sockets
    tenbin.zsend_single(one, [np.array([5], np.uint32)], ["a"])
    assert other.recv() == tenbin.encode_buffer([np.array([5], np.uint32)], ["a"])
    tenbin.zsend_single(one, [np.array([5], np.uint32)], ["a"])
    arrays, infos = tenbin.zrecv_single(other, infos=True)
    assert (arrays[0].tolist(), infos) == ([5], ["a"])
    tenbin.zsend_single(one, [])
    assert tenbin.zrecv_single(other) == []


def test_many_frames_are_heads_and_numbers_bare(sockets):
    one, other = sockets
    tenbin.zsend_multipart(one, [np.array([5, 6], ">u2"), np.float32(1)], ["a", "b"])
    assert other.recv_multipart() == [
        head(1, 2, kind=b"u2", info=b"a"),
        b"\x05\0\x06\0",
        head(0, info=b"b"),
        struct.pack("<f", 1),
    ]
    tenbin.zsend_multipart(one, [np.array([5, 6], ">u2")], ["a"])
    assert tenbin.zrecv_multipart(other, infos=["a"])[0].tolist() == [5, 6]


def test_frames_that_are_no_arrays_are_an_error(sockets):
    one, other = sockets
    with pytest.raises(TenbinError, match="needs an array"):
        tenbin.zsend_multipart(one, [])
    for frames in ([HEAD], [HEAD, bytes(4)], [b""], [HEAD, bytes(8), b"x"]):
        one.send_multipart(frames)
        with pytest.raises(TenbinError):
            tenbin.zrecv_multipart(other)
    one.send(b"~TenBin~")
    with pytest.raises(TenbinError, match="inside a start"):
        tenbin.zrecv_single(other)


def test_a_datagram_comes_back_from_a_socket_that_keeps_messages_whole():
    """The kernel here may have no SCTP: its local kin has the same calls."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        tenbin.sctp_send(one, None, [[1, 2]], ["a"])
        tenbin.sctp_send(one, None, [[3]])
        assert tenbin.sctp_recv(other, infos=["a"])[0].tolist() == [1, 2]
        assert tenbin.sctp_recv(other)[0].tolist() == [3]
        tenbin.sctp_send(one, None, [np.zeros(100)])
        with pytest.raises(TenbinError, match="more than 100 bytes"):
            tenbin.sctp_recv(other, maxsize=100)
        one.close()
        assert tenbin.sctp_recv(other) is None


def test_sctp_between_two_sockets_or_the_platforms_own_error():
    try:
        other = socket.socket(
            socket.AF_INET, socket.SOCK_SEQPACKET, socket.IPPROTO_SCTP
        )
    except OSError as error:
        unsupported = (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EACCES)
        assert error.errno in unsupported  # noqa: PT017
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            pytest.raises(StorageError, match=r"sctp: .* keeps no messages whole"),
        ):
            tenbin.sctp_send(one, ("127.0.0.1", 9), [[1]])
        return
    with other, socket.socket(*[other.family, other.type, other.proto]) as one:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        array = np.arange(50_000)
        tenbin.sctp_send(one, other.getsockname(), [array])
        same(tenbin.sctp_recv(other), [array])


def test_a_socket_of_pysctp_is_used_by_its_own_methods():
    class Pysctp:
        def sctp_send(self, data, to):
            self.sent = (data, to)

        def sctp_recv(self, maxsize):
            return self.sent[1], 0, self.sent[0][:maxsize], None

    one = Pysctp()
    tenbin.sctp_send(one, ("h", 1), [[7]])
    assert one.sent == (tenbin.encode_buffer([[7]]), ("h", 1))
    assert tenbin.sctp_recv(one)[0].tolist() == [7]


def test_a_stream_socket_cannot_receive_datagrams():
    one, other = socket.socketpair()
    with one, other, pytest.raises(StorageError, match="keeps no messages whole"):
        tenbin.sctp_recv(other)

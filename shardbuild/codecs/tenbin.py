"""Lists of arrays as ``.ten``: aligned bytes that can be used where they lie.

A buffer is a row of pieces: ``~TenBin~``, a length, as many bytes, and zeros up to
a multiple of 64 of those. Each array is two of them: a head (type, eight letters of
info, number of dimensions, shape) and the numbers in C order. Integers are int64,
and everything is little-endian, whatever the machine.

What is read is trusted in nothing: a length is compared with the bytes that are
there, and the shape with the length, before anything is made of them.
"""

from __future__ import annotations

import contextlib
import secrets
import struct
import sys
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from shardbuild.errors import StorageError, TenbinError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Arrays = list[Array]
    Infos = bool | Sequence[str] | None
    """None or False: no matter; True: given back; strings: required."""

__all__ = [
    "decode_buffer",
    "encode_buffer",
    "load",
    "read",
    "save",
    "sctp_recv",
    "sctp_send",
    "write",
    "zrecv_multipart",
    "zrecv_single",
    "zsend_multipart",
    "zsend_single",
]

_MAGIC = b"~TenBin~"
_ALIGNMENT = 64
_START = struct.Struct("<8sq")
_TYPES = frozenset(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"))
_MAX_DIMENSIONS = 9
_MAX_INFO = 8
_MAX_HEAD = 8 * (3 + _MAX_DIMENSIONS)
_READ_BYTES = 1 << 24  # at once, so that a length that lies allocates no more
_MEMORY = "<memory>"
_DATAGRAM_BYTES = 1 << 20


# -- buffers ----------------------------------------------------------------


def encode_buffer(
    arrays: Sequence[npt.ArrayLike], infos: Sequence[str] | None = None
) -> bytes:
    """Encode a list of arrays, each with up to eight ASCII letters of info.

    Arrays of any memory order and byte order are taken, and those of no
    dimension; types are integers and floats of 1 to 8 bytes.

    Raises:
        TenbinError: an array cannot be held, or the infos do not fit.

    >>> import numpy as np
    >>> data = encode_buffer([np.float32([[1, 2]]), np.uint8(7)], ["image", "label"])
    >>> len(data), data[:8]
    (320, b'~TenBin~')
    >>> decode_buffer(data, infos=True)
    ([array([[1., 2.]], dtype=float32), array(7, dtype=uint8)], ['image', 'label'])
    """
    return b"".join(_pieces(arrays, infos))


def decode_buffer(buf: Any, infos: Infos = None) -> Any:
    """Decode a buffer to arrays that are views of it.

    ``infos=True`` gives ``(arrays, infos)``; a list of infos is compared with
    those that are there.

    Raises:
        TenbinError: the buffer is damaged, or its infos are not those required.

    >>> decode_buffer(encode_buffer([[1, 2]], ["a"]), infos=["b"])
    Traceback (most recent call last):
    shardbuild.errors.TenbinError: <memory>: has the infos ['a'], required are ['b']
    """
    return _chosen(_arrays_of(_split(memoryview(buf).cast("B"))), infos, _MEMORY)


# -- streams and files ------------------------------------------------------


def write(
    stream: BinaryIO,
    arrays: Sequence[npt.ArrayLike],
    infos: Sequence[str] | None = None,
) -> None:
    """Write a list of arrays to a stream: the bytes of `encode_buffer`.

    Raises:
        TenbinError: an array cannot be held, or the infos do not fit; nothing
            has been written then.
    """
    for piece in list(_pieces(arrays, infos)):
        stream.write(piece)


def read(stream: BinaryIO, n: int = sys.maxsize, infos: Infos = None) -> Any:
    """Read up to ``n`` arrays from where a stream stands; ``infos`` as above.

    Raises:
        TenbinError: the bytes are damaged, or end inside an array.

    >>> from io import BytesIO
    >>> stream = BytesIO(encode_buffer([[1, 2], [3.5]]))
    >>> read(stream, 1), read(stream)
    ([array([1, 2])], [array([3.5])])
    """
    url = str(getattr(stream, "name", _MEMORY))
    return _chosen(_arrays_of(_pieces_of(stream, n, url), url), infos, url)


def save(
    fname: str,
    *args: npt.ArrayLike,
    infos: Sequence[str] | None = None,
    nocheck: bool = False,
) -> None:
    """Save arrays to a local file, which appears when it is whole.

    Raises:
        TenbinError: ``fname`` does not end in ``.ten`` (``nocheck`` allows it),
            or an array cannot be held.
        StorageError: the file cannot be written.
    """
    _check_name(fname, nocheck=nocheck)
    path = Path(fname)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            with temporary.open("xb") as stream:
                write(stream, args, infos)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise StorageError(fname, f"cannot be written: {error}") from error


def load(fname: str, infos: Infos = None, *, nocheck: bool = False) -> Any:
    """Load the arrays of a local file; ``infos`` as in `decode_buffer`.

    Raises:
        TenbinError: ``fname`` does not end in ``.ten`` (``nocheck`` allows it),
            or the file is damaged.
        StorageError: the file cannot be read.
    """
    _check_name(fname, nocheck=nocheck)
    try:
        with Path(fname).open("rb") as stream:
            return read(stream, infos=infos)
    except OSError as error:
        raise StorageError(fname, f"cannot be read: {error}") from error


# -- sockets ----------------------------------------------------------------


def zsend_single(
    socket: Any, arrays: Sequence[npt.ArrayLike], infos: Sequence[str] | None = None
) -> None:
    """Send arrays on a ZMQ socket, as one frame: that of `encode_buffer`."""
    socket.send(encode_buffer(arrays, infos))


def zrecv_single(socket: Any, infos: Infos = None) -> Any:
    """Receive what `zsend_single` sent; ``infos`` as in `decode_buffer`.

    Raises:
        TenbinError: the frame is no such buffer.
    """
    return decode_buffer(socket.recv(), infos)


def zsend_multipart(
    socket: Any, arrays: Sequence[npt.ArrayLike], infos: Sequence[str] | None = None
) -> None:
    """Send arrays on a ZMQ socket as one message, two bare frames an array.

    Raises:
        TenbinError: there is no array, as a message has at least one frame; or
            one cannot be held.
    """
    frames = [frame for pair in _encoded(arrays, infos) for frame in pair]
    if not frames:
        raise TenbinError(_MEMORY, "a message of several parts needs an array")
    socket.send_multipart(frames)


def zrecv_multipart(socket: Any, infos: Infos = None) -> Any:
    """Receive what `zsend_multipart` sent; ``infos`` as in `decode_buffer`.

    Raises:
        TenbinError: the frames are no such message.
    """
    frames = [memoryview(frame) for frame in socket.recv_multipart()]
    return _chosen(_arrays_of(iter(frames)), infos, _MEMORY)


def sctp_send(
    socket: Any,
    dest: Any,
    arrays: Sequence[npt.ArrayLike],
    infos: Sequence[str] | None = None,
) -> None:
    """Send arrays as one SCTP datagram; ``dest`` None: to the connected peer.

    ``socket`` is a ``socket.socket`` that keeps messages whole (SCTP, one to many),
    or one of the package pysctp.

    Raises:
        StorageError: the socket is no such socket, or could not send.
        TenbinError: an array cannot be held.
    """
    data = encode_buffer(arrays, infos)
    if hasattr(socket, "sctp_send"):
        socket.sctp_send(data, to=dest)
        return
    _check_datagrams(socket)
    try:
        sent = socket.send(data) if dest is None else socket.sendto(data, dest)
    except OSError as error:
        raise StorageError("sctp", f"cannot send {len(data)} bytes: {error}") from error
    if sent != len(data):
        raise StorageError("sctp", f"sent {sent} of {len(data)} bytes")


def sctp_recv(socket: Any, infos: Infos = None, maxsize: int = 100_000_000) -> Any:
    """Receive one SCTP datagram of arrays; None when the peer has closed.

    Raises:
        StorageError: the socket is none of those `sctp_send` takes.
        TenbinError: the datagram is damaged, or has more than ``maxsize`` bytes.
    """
    if hasattr(socket, "sctp_recv"):
        data = socket.sctp_recv(maxsize)
        data = data[2] if isinstance(data, tuple) else data
    else:
        _check_datagrams(socket)
        data = _receive(socket, maxsize)
    return decode_buffer(data, infos) if data else None


def _check_name(fname: str, *, nocheck: bool) -> None:
    if not nocheck and not fname.endswith(".ten"):
        raise TenbinError(fname, "does not end in .ten: nocheck=True allows that")


def _check_datagrams(socket: Any) -> None:
    import socket as sockets

    if not hasattr(sockets, "IPPROTO_SCTP"):
        raise StorageError("sctp", "this platform has no SCTP")
    if getattr(socket, "type", None) != sockets.SOCK_SEQPACKET:
        problem = (
            f"{socket!r} keeps no messages whole: make it by "
            "socket.socket(AF_INET, SOCK_SEQPACKET, IPPROTO_SCTP)"
        )
        raise StorageError("sctp", problem)


def _receive(socket: Any, maxsize: int) -> bytearray:
    """One datagram; SCTP may give a long one in several parts."""
    import socket as sockets

    data = bytearray()
    while True:
        is_sctp = socket.proto == sockets.IPPROTO_SCTP
        # A byte more than allowed is asked for, so that more is seen.
        size = min(maxsize + 1 - len(data), _DATAGRAM_BYTES if is_sctp else maxsize + 1)
        part, _, flags, _ = socket.recvmsg(size)
        data += part
        if len(data) > maxsize or flags & sockets.MSG_TRUNC:
            raise TenbinError("sctp", f"the datagram has more than {maxsize} bytes")
        if not part or not is_sctp or flags & sockets.MSG_EOR:
            return data


# -- the two pieces of an array ---------------------------------------------


def _encoded(
    arrays: object, infos: Sequence[str] | None
) -> Iterator[tuple[bytes, memoryview]]:
    import numpy as np

    if not isinstance(arrays, list | tuple):
        problem = f"a {type(arrays).__name__} is no list of arrays"
        raise TenbinError(_MEMORY, problem)
    if infos is None:
        infos = [""] * len(arrays)
    if isinstance(infos, str) or len(infos) != len(arrays):
        problem = f"{len(arrays)} arrays have the infos {infos!r}: one each is needed"
        raise TenbinError(_MEMORY, problem)
    for value, info in zip(arrays, infos, strict=True):
        array = _plain(value)
        yield _head(array, info), array.reshape(-1).view(np.uint8).data


def _plain(value: npt.ArrayLike) -> Array:
    """An array in C order and little-endian: itself, if it is so."""
    import numpy as np

    if isinstance(value, np.ma.MaskedArray):
        raise TenbinError(_MEMORY, "a masked array would lose its mask: fill it first")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TenbinError(_MEMORY, str(error)) from error
    if array.dtype.str[1:] not in _TYPES:
        problem = f"cannot hold an array of type {array.dtype}"
        raise TenbinError(_MEMORY, problem)
    if array.ndim > _MAX_DIMENSIONS:
        problem = f"cannot hold {array.ndim} dimensions, only {_MAX_DIMENSIONS}"
        raise TenbinError(_MEMORY, problem)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(
        array.shape
    )


def _head(array: Array, info: str) -> bytes:
    letters = _info_bytes(info)
    numbers = (array.ndim, *array.shape)
    kind = array.dtype.str[1:].encode()
    return struct.pack(f"<8s8s{len(numbers)}q", kind, letters, *numbers)


def _info_bytes(info: object) -> bytes:
    if isinstance(info, str) and info.isascii() and "\0" not in info:
        letters = info.encode("ascii")
        if len(letters) <= _MAX_INFO:
            return letters
    problem = f"the info {info!r} is not {_MAX_INFO} ASCII letters or fewer"
    raise TenbinError(_MEMORY, problem)


def _read_head(
    head: memoryview, url: str
) -> tuple[np.dtype[Any], str, tuple[int, ...]]:
    import numpy as np

    if not 24 <= len(head) <= _MAX_HEAD or len(head) % 8:
        raise TenbinError(url, f"an array's head has {len(head)} bytes")
    kind, letters, ndim, *shape = struct.unpack(f"<8s8s{len(head) // 8 - 2}q", head)
    name = kind.rstrip(b"\0").decode("latin-1")
    if name not in _TYPES:
        raise TenbinError(url, f"an array has the type {name!r}")
    if ndim != len(shape) or any(side < 0 for side in shape):
        raise TenbinError(url, f"an array of {ndim} dimensions has the shape {shape}")
    info = letters.rstrip(b"\0")
    if not info.isascii():
        raise TenbinError(url, f"an array has the info {info!r}")
    return np.dtype("<" + name), info.decode("ascii"), tuple(shape)


def _arrays_of(
    pieces: Iterator[memoryview], url: str = _MEMORY
) -> Iterator[tuple[Array, str]]:
    import numpy as np

    for head in pieces:
        dtype, info, shape = _read_head(head, url)
        data = next(pieces, None)
        if data is None:
            raise TenbinError(url, f"ends before the numbers of the shape {shape}")
        _check_size(dtype, shape, len(data), url)
        try:
            yield np.ndarray(shape, dtype, data), info
        except ValueError as error:  # empty, with sides beyond what numpy counts
            raise TenbinError(url, f"an array of shape {shape}: {error}") from error


def _check_size(
    dtype: np.dtype[Any], shape: tuple[int, ...], size: int, url: str
) -> None:
    if prod(shape) * dtype.itemsize != size:
        problem = f"an array of type {dtype.str[1:]} and shape {shape} has {size} bytes"
        raise TenbinError(url, problem)


def _chosen(found: Iterable[tuple[Array, str]], infos: Infos, url: str) -> Any:
    arrays: Arrays = []
    actual: list[str] = []
    for array, info in found:
        arrays.append(array)
        actual.append(info)
    if infos is True:
        return arrays, actual
    if infos is None or infos is False:
        return arrays
    if list(infos) != actual:
        problem = f"has the infos {actual}, required are {list(infos)}"
        raise TenbinError(url, problem)
    return arrays


# -- pieces with their starts and padding -----------------------------------


def _pieces(
    arrays: Sequence[npt.ArrayLike], infos: Sequence[str] | None
) -> Iterator[bytes | memoryview]:
    for pair in _encoded(arrays, infos):
        for piece in pair:
            yield _START.pack(_MAGIC, len(piece))
            yield piece
            yield bytes(-len(piece) % _ALIGNMENT)


def _length(start: bytearray | memoryview, url: str) -> int:
    if len(start) < _START.size:
        raise TenbinError(url, f"ends {_START.size - len(start)} bytes inside a start")
    magic, length = _START.unpack(start)
    if magic != _MAGIC:
        raise TenbinError(url, f"has {magic!r} where {_MAGIC!r} should be")
    if length < 0:
        raise TenbinError(url, f"a piece has the length {length}")
    return int(length)


def _split(buffer: memoryview) -> Iterator[memoryview]:
    at = 0
    while at < len(buffer):
        length = _length(buffer[at : at + _START.size], _MEMORY)
        at += _START.size
        padded = length + -length % _ALIGNMENT
        if padded > len(buffer) - at:
            problem = f"a piece of {padded} bytes has only {len(buffer) - at}"
            raise TenbinError(_MEMORY, problem)
        yield buffer[at : at + length]
        at += padded


def _pieces_of(stream: BinaryIO, n: int, url: str) -> Iterator[memoryview]:
    """The pieces of up to n arrays; what numbers follow, their head says."""
    for _ in range(n):
        start = _read_up_to(stream, _START.size)
        if not start:
            return
        length = _length(start, url)
        if length > _MAX_HEAD:
            raise TenbinError(url, f"an array's head has {length} bytes")
        head = memoryview(_read_piece(stream, length, url))
        dtype, _, shape = _read_head(head, url)
        yield head
        length = _length(_read_up_to(stream, _START.size), url)
        _check_size(dtype, shape, length, url)
        yield memoryview(_read_piece(stream, length, url))


def _read_piece(stream: BinaryIO, length: int, url: str) -> bytearray:
    data = _read_up_to(stream, length + -length % _ALIGNMENT)
    if len(data) < length + -length % _ALIGNMENT:
        raise TenbinError(url, f"a piece of {length} bytes ends after {len(data)}")
    del data[length:]
    return data


def _read_up_to(stream: BinaryIO, size: int) -> bytearray:
    """Read until ``size`` bytes are there, or the stream's end."""
    data = bytearray()
    while len(data) < size:
        part = stream.read(min(size - len(data), _READ_BYTES))
        if not part:
            break
        data += part
    return data

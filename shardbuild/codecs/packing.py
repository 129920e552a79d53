"""Gzip around a field's bytes, and msgpack and CBOR in them."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import Any

from shardbuild.codecs.extras import import_extra

__all__ = [
    "MAX_UNPACKED_BYTES",
    "decode_cbor",
    "decode_msgpack",
    "encode_cbor",
    "encode_msgpack",
    "gunzip",
    "gzip",
]

MAX_UNPACKED_BYTES = 1 << 30
"""What a packed field may hold at most: a few bytes can claim a million times more."""

_GZIP_START = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time, no machine
_GZIP_BITS = 31
_LEVEL = 6


def gzip(data: bytes) -> bytes:
    """Pack bytes as gzip, without the time: the same bytes every time.

    >>> gunzip(gzip(b"abc"))
    b'abc'
    """
    packer = zlib.compressobj(_LEVEL, wbits=-15)
    packed = packer.compress(data) + packer.flush()
    numbers = zlib.crc32(data), len(data) & 0xFFFFFFFF
    end = b"".join(number.to_bytes(4, "little") for number in numbers)
    return _GZIP_START + packed + end


def gunzip(data: bytes) -> bytes:
    """Unpack gzip, also of several members.

    Raises:
        ValueError: the bytes are damaged or cut off, or hold more than
            `MAX_UNPACKED_BYTES`.
    """
    parts: list[bytes] = []
    room = MAX_UNPACKED_BYTES
    while data or not parts:
        unpacker = zlib.decompressobj(_GZIP_BITS)
        try:
            part = unpacker.decompress(data, room + 1)
        except zlib.error as error:
            raise ValueError(f"is no gzip: {error}") from error
        if len(part) > room:
            raise ValueError(f"unpacks to more than {MAX_UNPACKED_BYTES} bytes")
        if not unpacker.eof:
            raise ValueError("its gzip is cut off")
        parts.append(part)
        room -= len(part)
        data = unpacker.unused_data
    return b"".join(parts)


def encode_msgpack(value: Any) -> bytes:
    r"""Encode as msgpack; numpy numbers and arrays, too, as numbers and lists.

    >>> encode_msgpack({"a": [1, b"x"]})
    b'\x81\xa1a\x92\x01\xc4\x01x'
    """
    data: bytes = _msgpack().packb(value, default=plain)
    return data


def decode_msgpack(data: bytes) -> Any:
    """Decode msgpack; tuples come back as lists."""
    return _msgpack().unpackb(data, strict_map_key=False)


def encode_cbor(value: Any) -> bytes:
    """Encode as CBOR; numpy numbers and arrays, too, as numbers and lists."""

    def write_plain(encoder: Any, value: Any) -> None:
        encoder.encode(plain(value))

    data: bytes = _cbor().dumps(value, default=write_plain)
    return data


def decode_cbor(data: bytes) -> Any:
    """Decode CBOR; tuples come back as lists."""
    stream = BytesIO(data)
    value = _cbor().CBORDecoder(stream).decode()
    if stream.tell() != len(data):
        raise ValueError(f"{len(data) - stream.tell()} bytes follow the value")
    return value


def plain(value: Any) -> Any:
    """Make of a numpy number or array what all formats have; refuse the rest."""
    if type(value).__module__ == "numpy":
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is none of its types")


def _msgpack() -> Any:
    return import_extra(
        "msgpack", package="msgpack", extra="msgpack", wanted_by="a msgpack field"
    )


def _cbor() -> Any:
    return import_extra(
        "cbor2", package="cbor2", extra="cbor", wanted_by="a cbor field"
    )

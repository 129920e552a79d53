"""A sample as bytes and back, without pickle: for caches of our own.

A checksum, the length of a header, the header, the fields' bytes one after the
other. The header is JSON: name, kind and length of each field, or its value. Fields
may be bytes, arrays of numpy (as ``.npy``), and what JSON gives back as it was: text,
numbers, True, False, None, and lists and dictionaries of those.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.arrays import decode_npy, encode_npy
from shardbuild.errors import EncodeError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["pack_sample", "unpack_sample"]

_HEAD = struct.Struct("<II")  # checksum of all that follows, length of the header
_PLAIN = frozenset((str, int, float, bool, type(None)))


def pack_sample(sample: Mapping[str, Any], url: str = "<memory>") -> bytes:
    """A sample's bytes.

    >>> unpack_sample(pack_sample({"__key__": "a", "txt": b"x", "cls": 3}))
    {'__key__': 'a', 'txt': b'x', 'cls': 3}

    Raises:
        EncodeError: A field is of a kind that would not come back as it was.
    """
    fields: list[tuple[str, str, Any]] = []
    payloads: list[Any] = []
    for name, value in sample.items():
        if isinstance(value, bytes | bytearray | memoryview):
            data: Any = memoryview(value).cast("B")
            fields.append((name, "bytes", len(data)))
            payloads.append(data)
        elif _is_array(value):
            data = _encode_array(value, name, sample, url)
            fields.append((name, "npy", len(data)))
            payloads.append(data)
        elif _is_plain(value):
            fields.append((name, "json", value))
        else:
            raise _refusal(name, sample, url, f"a {type(value).__name__}")
    header = json.dumps(fields, separators=(",", ":")).encode()
    body = b"".join([_HEAD.pack(0, len(header))[4:], header, *payloads])
    return _HEAD.pack(zlib.crc32(body), 0)[:4] + body


def unpack_sample(data: bytes) -> dict[str, Any]:
    """The sample that `pack_sample` made bytes of.

    Raises:
        ValueError: The bytes are damaged.
    """
    if (
        len(data) < _HEAD.size
        or zlib.crc32(memoryview(data)[4:]) != _HEAD.unpack_from(data)[0]
    ):
        raise ValueError("a sample's bytes are not what was written")
    at = _HEAD.size + _HEAD.unpack_from(data)[1]
    sample: dict[str, Any] = {}
    for name, kind, value in json.loads(data[_HEAD.size : at]):
        if kind == "json":
            sample[name] = value
            continue
        piece = data[at : at + value]
        at += value
        sample[name] = piece if kind == "bytes" else decode_npy(piece)
    return sample


def _is_plain(value: Any) -> bool:
    """Whether JSON gives a value back as it was."""
    if type(value) in _PLAIN:
        return True
    if type(value) is list:
        return all(map(_is_plain, value))
    return type(value) is dict and all(
        type(name) is str and _is_plain(inner) for name, inner in value.items()
    )


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")  # without it there is no array
    return numpy is not None and type(value) is numpy.ndarray


def _encode_array(value: Any, name: str, sample: Mapping[str, Any], url: str) -> bytes:
    try:
        return encode_npy(value)
    except ValueError as error:
        raise _refusal(name, sample, url, str(error)) from error


def _refusal(name: Any, sample: Mapping[str, Any], url: str, what: str) -> EncodeError:
    problem = f"field {name!r} cannot be cached without pickle: {what}"
    return EncodeError(url, problem, str(sample.get("__key__")))

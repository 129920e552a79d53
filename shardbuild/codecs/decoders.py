"""Bytes to objects, by extension: the other half of `shardbuild.codecs.encoders`.

The last component of the extension decides, in any case; what ends in ``.gz`` is
unpacked first. A field whose extension has no decoder stays bytes, as it is stored.
Nothing is unpickled without ``allow_pickle=True``.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.arrays import decode_npy, decode_npz
from shardbuild.codecs.encoders import packed_name, refuse_pickle
from shardbuild.codecs.images import IMAGE_EXTENSIONS, ImageSpec, decode_image
from shardbuild.codecs.packing import decode_cbor, decode_msgpack, gunzip
from shardbuild.codecs.tenbin import decode_buffer
from shardbuild.codecs.torchdata import decode_pth
from shardbuild.errors import DecodeError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

__all__ = [
    "decode_field",
    "decode_sample",
    "decoder_of",
    "decoders",
]

_NO_URL = "<memory>"
_INTEGER = re.compile(rb"\s*[-+]?[0-9]+\s*")


def decode_integer(data: bytes) -> int:
    r"""Decode decimal digits; blanks around them are no matter.

    >>> decode_integer(b"12\n")
    12
    """
    if not _INTEGER.fullmatch(data):
        raise ValueError(f"{data[:40]!r} is no integer")
    return int(data)


def decode_text(data: bytes) -> str:
    """Decode UTF-8, strictly."""
    return data.decode("utf-8")


def decode_json(data: bytes) -> Any:
    """Decode JSON."""
    return json.loads(data)


def decode_ten(data: bytes) -> list[npt.NDArray[Any]]:
    """Decode ``.ten`` to a list of new, writable arrays."""
    return [array.copy() for array in decode_buffer(data)]


decoders: dict[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(
        ("cls", "cls2", "class", "count", "index", "inx", "id"), decode_integer
    ),
    **dict.fromkeys(("txt", "text", "transcript", "html", "htm"), decode_text),
    **dict.fromkeys(("json", "jsn"), decode_json),
    **dict.fromkeys(("ten", "tb", "tenbin"), decode_ten),
    **dict.fromkeys(("mp", "msgpack", "msg"), decode_msgpack),
    **dict.fromkeys(("pyd", "pickle", "pkl"), refuse_pickle),
    "cbor": decode_cbor,
    "npy": decode_npy,
    "npz": decode_npz,
    "pth": decode_pth,
}
"""The decoder of each extension (lower case) except the pictures'."""


def decoder_of(
    name: str, *, allow_pickle: bool = False
) -> Callable[[bytes], Any] | None:
    """Look up the decoder of an extension's last component, in lower case."""
    if allow_pickle:
        from shardbuild.codecs.trusted import trusting_decoders

        if name in trusting_decoders:
            return trusting_decoders[name]
    return decoders.get(name)


def decode_field(
    extension: str,
    data: bytes,
    *,
    images: ImageSpec | None = "rgb8",
    allow_pickle: bool = False,
    key: str = "",
    url: str = "",
) -> Any:
    """Decode one field; ``key`` and ``url`` are for the error only.

    ``images`` says what a picture becomes (see
    `shardbuild.codecs.images.decode_image`); None leaves it bytes.

    Raises:
        DecodeError: the bytes are not what the extension says.
        MissingExtraError: the decoder needs a package that is not installed.

    >>> decode_field("CLS", b"7"), decode_field("txt", b"7"), decode_field("t", b"7")
    (7, '7', b'7')
    >>> decode_field("cls", b"cat", key="n3", url="a.tar")
    Traceback (most recent call last):
    shardbuild.errors.DecodeError: a.tar: sample 'n3': field 'cls': b'cat' is no integer
    """
    name, num_packed = packed_name(extension)
    decode = decoder_of(name, allow_pickle=allow_pickle)
    if images is not None and name in IMAGE_EXTENSIONS:
        decode = partial(decode_image, spec=images)
    if decode is None:
        return data
    try:
        for _ in range(num_packed):
            data = gunzip(data)
        return decode(data)
    except (MemoryError, MissingExtraError):
        raise
    except Exception as error:
        problem = f"field {extension!r}: {error}"
        raise DecodeError(url or _NO_URL, problem, key) from error


def decode_sample(
    sample: dict[str, Any],
    images: ImageSpec | None = "rgb8",
    *,
    allow_pickle: bool = False,
    url: str = "",
) -> dict[str, Any]:
    """Return a copy of a sample with its fields decoded by extension.

    Names that begin with ``_`` are meta and stay as they are, and so does a
    value that is not bytes: it is decoded already.

    Raises:
        DecodeError: names the field whose bytes are damaged.
        MissingExtraError: a field needs a package that is not installed.

    >>> decode_sample({"__key__": "a", "cls": b"3", "json": b"[1]", "bin": b"?"})
    {'__key__': 'a', 'cls': 3, 'json': [1], 'bin': b'?'}
    """
    decode = partial(
        decode_field,
        images=images,
        allow_pickle=allow_pickle,
        key=str(sample.get("__key__", "")),
        url=url,
    )
    return {
        name: decode(name, value)
        if isinstance(value, bytes) and not name.startswith("_")
        else value
        for name, value in sample.items()
    }

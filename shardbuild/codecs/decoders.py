"""Bytes to objects, by extension: the other half of `shardbuild.codecs.encoders`.

The last component of the extension decides, in any case. A field whose
extension has no decoder stays bytes. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.arrays import decode_npy
from shardbuild.codecs.encoders import handler_name
from shardbuild.codecs.images import IMAGE_EXTENSIONS, ImageSpec, decode_image
from shardbuild.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["decode_field", "decode_sample", "decoders"]

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


decoders: dict[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(
        ("cls", "cls2", "class", "count", "index", "inx", "id"), decode_integer
    ),
    **dict.fromkeys(("txt", "text", "transcript"), decode_text),
    **dict.fromkeys(("json", "jsn"), decode_json),
    "npy": decode_npy,
}
"""The decoder of each extension (lower case) except the pictures'."""


def decode_field(
    extension: str,
    data: bytes,
    *,
    images: ImageSpec | None = "rgb8",
    key: str = "",
    url: str = "",
) -> Any:
    """Decode one field; ``key`` and ``url`` are for the error only.

    ``images`` says what a picture becomes (see
    `shardbuild.codecs.images.decode_image`); None leaves it bytes.

    Raises:
        DecodeError: the bytes are not what the extension says.

    >>> decode_field("CLS", b"7"), decode_field("txt", b"7"), decode_field("t", b"7")
    (7, '7', b'7')
    >>> decode_field("cls", b"cat", key="n3", url="a.tar")
    Traceback (most recent call last):
    shardbuild.errors.DecodeError: a.tar: sample 'n3': field 'cls': b'cat' is no integer
    """
    name = handler_name(extension)
    try:
        if images is not None and name in IMAGE_EXTENSIONS:
            return decode_image(data, images)
        decode = decoders.get(name)
        return data if decode is None else decode(data)
    except MemoryError:
        raise
    except Exception as error:
        problem = f"field {extension!r}: {error}"
        raise DecodeError(url or _NO_URL, problem, key) from error


def decode_sample(
    sample: dict[str, Any], images: ImageSpec | None = "rgb8", *, url: str = ""
) -> dict[str, Any]:
    """Return a copy of a sample with its fields decoded by extension.

    Names that begin with ``_`` are meta and stay as they are, and so does a
    value that is not bytes: it is decoded already.

    Raises:
        DecodeError: names the field whose bytes are damaged.

    >>> decode_sample({"__key__": "a", "cls": b"3", "json": b"[1]", "bin": b"?"})
    {'__key__': 'a', 'cls': 3, 'json': [1], 'bin': b'?'}
    """
    key = str(sample.get("__key__", ""))
    return {
        name: decode_field(name, value, images=images, key=key, url=url)
        if isinstance(value, bytes) and not name.startswith("_")
        else value
        for name, value in sample.items()
    }

"""Objects to bytes, by extension.

The last component of the extension decides, in any case: ``seg.PNG`` is a
``png``; ``json.gz`` is a ``json``, packed. Bytes are taken as they are, and so is
text, as UTF-8, for every extension: a ``str`` for a ``json`` is a JSON document, not a
value to put in one. The same value gives the same bytes every time.

Pickle is code when it is read: it is neither written nor read without
``allow_pickle=True``.
"""

from __future__ import annotations

import json
import operator
from functools import partial
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.arrays import encode_npy, encode_npz
from shardbuild.codecs.images import IMAGE_EXTENSIONS, encode_image
from shardbuild.codecs.packing import encode_cbor, encode_msgpack, gzip, plain
from shardbuild.codecs.tenbin import encode_buffer
from shardbuild.codecs.torchdata import encode_pth
from shardbuild.errors import EncodeError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "encode_field",
    "encode_sample",
    "encoders",
    "handler_name",
    "packed_name",
    "refuse_pickle",
]

_NO_URL = "<memory>"


def handler_name(extension: str) -> str:
    """Return the part of an extension that says how it is encoded.

    >>> handler_name("seg.PNG"), handler_name("cls")
    ('png', 'cls')
    """
    return extension.rpartition(".")[2].lower()


def packed_name(extension: str) -> tuple[str, int]:
    """Say how an extension is encoded, and how often it is packed by gzip then.

    >>> packed_name("seg.PNG"), packed_name("a.json.GZ"), packed_name("gz")
    (('png', 0), ('json', 1), ('gz', 0))
    """
    parts = extension.lower().split(".")
    num_parts = len(parts)
    while len(parts) > 1 and parts[-1] == "gz":
        parts.pop()
    return parts[-1], num_parts - len(parts)


def encode_integer(value: Any) -> bytes:
    """Encode an integer of any kind (also numpy's) as decimal digits.

    >>> encode_integer(True), encode_integer(-7)
    (b'1', b'-7')
    """
    try:
        return b"%d" % operator.index(value)
    except TypeError as error:
        raise ValueError(f"{value!r} is no integer") from error


def encode_text(value: Any) -> bytes:
    """Encode text as UTF-8."""
    if not isinstance(value, str):
        raise ValueError(f"a {type(value).__name__} is no text")  # noqa: TRY004  # one kind for all encoders
    return value.encode("utf-8")


def encode_json(value: Any) -> bytes:
    r"""Encode as JSON in ASCII, as ``json.dumps`` does; numpy numbers and arrays too.

    Names stay in their order. As JSON has it, tuples come back as lists, and
    names that are numbers as text. NaN and infinities are refused: they are no
    JSON, and most readers stop at them.

    >>> encode_json({"name": "Zoë", "box": (1, 2.5)})
    b'{"name": "Zo\\u00eb", "box": [1, 2.5]}'
    """
    return json.dumps(value, allow_nan=False, default=plain).encode("ascii")


def encode_ten(value: Any) -> bytes:
    """Encode a list of arrays as ``.ten``; one array is a list of one."""
    return encode_buffer(value if isinstance(value, list | tuple) else [value])


def refuse_pickle(_: Any) -> Any:
    """Refuse to write or to read pickle."""
    raise ValueError("pickle is code when it is read: allow_pickle=True trusts it")


encoders: dict[str, Callable[[Any], bytes]] = {
    **dict.fromkeys(
        ("cls", "cls2", "class", "count", "index", "inx", "id"), encode_integer
    ),
    **dict.fromkeys(("txt", "text", "transcript", "html", "htm"), encode_text),
    **dict.fromkeys(("json", "jsn"), encode_json),
    **dict.fromkeys(("ten", "tb", "tenbin"), encode_ten),
    **dict.fromkeys(("mp", "msgpack", "msg"), encode_msgpack),
    **dict.fromkeys(("pyd", "pickle", "pkl"), refuse_pickle),
    "cbor": encode_cbor,
    "npy": encode_npy,
    "npz": encode_npz,
    "pth": encode_pth,
    **{name: partial(encode_image, extension=name) for name in IMAGE_EXTENSIONS},
}
"""The encoder of each extension (lower case): takes a value, raises ValueError."""


def encode_field(
    extension: str,
    value: Any,
    *,
    allow_pickle: bool = False,
    key: str = "",
    url: str = "",
) -> bytes:
    r"""Encode one field's value; ``key`` and ``url`` are for the error only.

    Raises:
        EncodeError: the extension has no encoder, or the encoder refused.
        MissingExtraError: the encoder needs a package that is not installed.

    >>> encode_field("cls", 7), encode_field("note.md", "café"), encode_field("x", b"y")
    (b'7', b'caf\xc3\xa9', b'y')
    >>> encode_field("cls", 7.5, key="n3")
    Traceback (most recent call last):
    shardbuild.errors.EncodeError: <memory>: sample 'n3': field 'cls': 7.5 is no integer
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    name, num_packed = packed_name(extension)
    encode: Callable[[Any], bytes] = encode_text
    if not isinstance(value, str):
        encode = _encoder_of(name, allow_pickle=allow_pickle)
    try:
        data = encode(value)
        for _ in range(num_packed):
            data = gzip(data)
    except (MemoryError, MissingExtraError):
        raise
    except Exception as error:
        problem = f"field {extension!r}: {error}"
        raise EncodeError(url or _NO_URL, problem, key) from error
    return data


def _encoder_of(name: str, *, allow_pickle: bool) -> Callable[[Any], bytes]:
    if allow_pickle:
        from shardbuild.codecs.trusted import trusting_encoders

        if name in trusting_encoders:
            return trusting_encoders[name]
    return encoders.get(name, _refuse)


def _refuse(value: Any) -> bytes:
    raise ValueError(f"no encoder takes a {type(value).__name__}: give bytes or text")


def encode_sample(
    sample: dict[str, Any], *, allow_pickle: bool = False, url: str = ""
) -> dict[str, Any]:
    """Return a copy of a sample with every field as bytes.

    Names that begin with ``_`` are meta and stay as they are.

    Raises:
        EncodeError: names the field that could not be encoded.
        MissingExtraError: a field needs a package that is not installed.

    >>> encode_sample({"__key__": "a", "cls": 3, "json": {"w": 1}})
    {'__key__': 'a', 'cls': b'3', 'json': b'{"w": 1}'}
    """
    key = str(sample.get("__key__", ""))
    return {
        name: value
        if name.startswith("_")
        else encode_field(name, value, allow_pickle=allow_pickle, key=key, url=url)
        for name, value in sample.items()
    }

"""Samples as ZMQ messages: each one frame, one msgpack map. Data is never code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardbuild.codecs.extras import import_extra
from shardbuild.errors import EncodeError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EOF_FRAME", "decode_frame", "encode_frame", "without_meta"]

_EOF = "__EOF__"

EOF_FRAME = b"\x81\xa7__EOF__\xc3"
"""``{"__EOF__": true}``: this producer is done."""


def encode_frame(sample: Mapping[str, Any], *, url: str) -> bytes:
    r"""Encode a sample as a msgpack map: text as text, bytes as bytes.

    Raises:
        EncodeError: a value is none of what msgpack has (encode it first), or
            the sample would be taken for the end.

    >>> encode_frame({"__key__": "a/b", "txt": b"hi"}, url="zpush://h:1")
    b'\x82\xa7__key__\xa3a/b\xa3txt\xc4\x02hi'
    """
    msgpack = _msgpack(url)
    if sample.get(_EOF):
        problem = f"its field {_EOF!r} would be taken for the end of the samples"
        raise EncodeError(url, problem, str(sample.get("__key__", "")))
    try:
        data: bytes = msgpack.packb(sample)
    except (TypeError, ValueError, OverflowError) as error:
        problem = f"cannot be sent: {error}: encode its fields to bytes first"
        raise EncodeError(url, problem, str(sample.get("__key__", ""))) from error
    return data


def decode_frame(data: Any, *, url: str) -> dict[str, Any] | None:
    r"""Decode a message to a sample; None for the end of a producer's samples.

    Names may be text or bytes. Before its version 1, msgpack wrote bytes as if
    they were text: a message whose text is no UTF-8 is taken for one of those,
    and all its fields but the meta are bytes.

    Raises:
        StorageError: the message is no sample.

    >>> decode_frame(b"\x82\xc4\x03cls\xa13\xa3jpg\xa2\xff\xd8", url="zpull://h:1")
    {'cls': b'3', 'jpg': b'\xff\xd8'}
    >>> decode_frame(b"\x81\xa7__EOF__\xc4\x04true", url="zpull://h:1")
    """
    msgpack = _msgpack(url)
    try:
        try:
            found = msgpack.unpackb(data, strict_map_key=False)
        except UnicodeDecodeError:
            found = msgpack.unpackb(data, raw=True, strict_map_key=False)
            found = _old_style(found)
    except Exception as error:
        problem = f"a message of {len(data)} bytes is no sample: {error!r}"
        raise StorageError(url, problem) from error
    if type(found) is not dict:
        problem = f"a message of {len(data)} bytes is no sample: no map"
        raise StorageError(url, problem)
    if not all(type(name) is str for name in found):
        found = {_name(name, url): value for name, value in found.items()}
    return None if found.get(_EOF) else found


def without_meta(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a sample without its meta fields, except the key.

    >>> without_meta({"__key__": "a", "__url__": "x.tar", "cls": b"3"})
    {'__key__': 'a', 'cls': b'3'}
    """
    return {
        name: value
        for name, value in sample.items()
        if name == "__key__" or not name.startswith("__")
    }


def _old_style(found: Any) -> Any:
    if not isinstance(found, dict):
        return found
    return {
        name: value.decode()
        if isinstance(name, bytes)
        and name.startswith(b"__")
        and isinstance(value, bytes)
        else value
        for name, value in found.items()
    }


def _name(name: Any, url: str) -> str:
    if isinstance(name, bytes):
        try:
            return name.decode()
        except UnicodeDecodeError as error:
            problem = f"a field of a message has the name {name!r}"
            raise StorageError(url, problem) from error
    if isinstance(name, str):
        return name
    raise StorageError(url, f"a field of a message has the name {name!r}")


def _msgpack(url: str) -> Any:
    return import_extra("msgpack", package="msgpack", extra="zmq", wanted_by=url)

"""Columns of numbers as one file that ``np.load`` reads, safely read by us.

The same columns give the same bytes, whatever the release of numpy or zlib: the
parts are stored as they are, with headers made here. What is read is trusted in
nothing: no pickle, no compression, no array larger than the bytes it came in.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["pack_columns", "unpack_columns"]

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '(\|u1|<u2|<u4|<u8|<i8)', 'fortran_order': False, "
    rb"'shape': \((\d{1,18}),\), \} *\n"
)
_MAX_HEADER = 1024
_NOT_PLAIN = 0x61
"""Flags of a part that is encrypted, a patch, or encrypted strongly."""
_LOCAL_MAGIC = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def pack_columns(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """One file of columns, each of one dimension and of little-endian integers.

    >>> data = pack_columns({"ages": np.array([7, 9], "<u2")})
    >>> np.load(io.BytesIO(data))["ages"].tolist()
    [7, 9]
    >>> unpack_columns(data)["ages"].tolist()
    [7, 9]
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, column in columns.items():
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, _packed(column))
    return buffer.getvalue()


def unpack_columns(data: bytes) -> dict[str, NDArray[Any]]:
    """The columns of a file, as views of it.

    Raises:
        ValueError: it is damaged, or holds anything but such columns.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
        _check_entries(entries, len(data))
        whole = memoryview(data)
        return {
            entry.filename.removesuffix(".npy"): _column(_content(whole, entry))
            for entry in entries
        }
    except (
        *(EOFError, LookupError, NotImplementedError, OSError, OverflowError),
        *(RuntimeError, struct.error, zipfile.BadZipFile),
    ) as problem:
        raise ValueError(str(problem)) from problem


def _packed(column: NDArray[Any]) -> bytes:
    kind = column.dtype.str
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({len(column)},), }}"
    header = text.encode("ascii")
    header += b" " * (-(len(_MAGIC) + 3 + len(header)) % 64) + b"\n"
    return _MAGIC + len(header).to_bytes(2, "little") + header + column.tobytes()


def _check_entries(entries: list[zipfile.ZipInfo], num_bytes: int) -> None:
    if sum(entry.file_size for entry in entries) > num_bytes:
        problem = "its parts are larger than the whole"
        raise ValueError(problem)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        problem = "it is compressed"
        raise ValueError(problem)
    if any(entry.flag_bits & _NOT_PLAIN for entry in entries):
        problem = "it is encrypted or a patch"
        raise ValueError(problem)


def _content(data: memoryview, entry: zipfile.ZipInfo) -> memoryview:
    """The bytes of a part that is stored as it is, without a copy.

    `zipfile` takes ten times as long, for each part.
    """
    at = entry.header_offset
    magic, num_name_bytes, num_extra_bytes = _LOCAL_HEADER.unpack_from(data, at)
    begin = at + _LOCAL_HEADER.size
    name = bytes(data[begin : begin + num_name_bytes])
    begin += num_name_bytes + num_extra_bytes
    content = data[begin : begin + entry.file_size]
    if magic != _LOCAL_MAGIC or name != entry.orig_filename.encode():
        problem = f"there is no {entry.orig_filename!r} at byte {at}"
        raise ValueError(problem)
    if len(content) != entry.file_size or crc32(content) != entry.CRC:
        problem = f"the sum of {entry.orig_filename!r} is wrong"
        raise ValueError(problem)
    return content


def _column(data: memoryview) -> NDArray[Any]:
    start = len(_MAGIC) + 2
    stop = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    match = _HEADER.fullmatch(data, start, min(stop, start + _MAX_HEADER))
    if data[: len(_MAGIC)] != _MAGIC or match is None:
        problem = f"a column has the header {bytes(data[:100])!r}"
        raise ValueError(problem)
    # What is there counts, and not what the header says is there.
    column = np.frombuffer(data, dtype=match[1].decode(), offset=stop)
    if int(match[2]) != len(column):
        problem = f"a column of {int(match[2])} numbers has {len(column)}"
        raise ValueError(problem)
    return column

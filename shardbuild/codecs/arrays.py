"""Numpy arrays as ``.npy`` and ``.npz``, without pickle in either direction."""

from __future__ import annotations

import ast
import re
import zipfile
import zlib
from io import BytesIO
from math import prod
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.packing import MAX_UNPACKED_BYTES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["decode_npy", "decode_npz", "encode_npy", "encode_npz"]

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}  # of the header's length, by major version
_HEADER_FIELDS = {"descr", "fortran_order", "shape"}
_MAX_HEADER_BYTES = 1 << 20
_SIZE = rb"(?:0|[1-9]\d{0,17})"
_PLAIN_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?\w{1,20}(?:\[\w{1,20}\])?)', 'fortran_order': (True|False), "
    rb"'shape': \((|%b,|%b(?:, %b)+)\), \} *\n?" % (_SIZE, _SIZE, _SIZE)
)
"""As numpy writes it for arrays without fields."""
_MAX_TRIES = 100


def encode_npy(value: Any) -> bytes:
    """Encode an array, or what numpy makes an array of, as ``.npy``.

    Raises:
        ValueError: it holds Python objects, a mask (which ``.npy`` would
            drop), or lists of different lengths.

    >>> import numpy as np
    >>> decode_npy(encode_npy(np.float32([[1, 2]])))
    array([[1., 2.]], dtype=float32)
    """
    import numpy as np

    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(  # noqa: TRY004  # encoders refuse by one kind of error
            "a masked array would lose its mask: fill it first"
        )
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise ValueError("an array of Python objects cannot be stored without pickle")
    stream = BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def decode_npy(data: bytes) -> npt.NDArray[Any]:
    """Decode ``.npy`` bytes to a new, writable array.

    The size that the header claims is compared with the bytes that are there
    before anything is allocated.

    Raises:
        ValueError: the bytes are damaged, too few or too many, or hold
            pickled objects.
    """
    import numpy as np

    dtype, fortran_order, shape, offset = _read_header(data)
    num_bytes = prod(shape) * dtype.itemsize
    if len(data) - offset != num_bytes:
        raise ValueError(
            f"the header says {num_bytes} bytes of array, {len(data) - offset} follow"
        )
    if fortran_order:
        return np.ndarray(shape[::-1], dtype, data, offset).copy().T
    return np.ndarray(shape, dtype, data, offset).copy()


def encode_npz(value: Any) -> bytes:
    """Encode a dict of arrays by name as ``.npz``, not compressed, without a time.

    Raises:
        ValueError: it is no such dict, or an array cannot be an ``.npy``.

    >>> import numpy as np
    >>> decode_npz(encode_npz({"x": np.uint8(7), "y": [1.5]}))
    {'x': array(7, dtype=uint8), 'y': array([1.5])}
    """
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"a {type(value).__name__} is no dict of arrays by name")
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in value.items():
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            if entry.filename != f"{name}.npy" or not name:
                raise ValueError(f"the name {name!r} would not come back")
            entry.create_system = 3  # of whatever machine
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, encode_npy(array))
    return stream.getvalue()


def decode_npz(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Decode ``.npz`` to a dict of new, writable arrays.

    Raises:
        ValueError: the bytes are damaged, hold anything but arrays, or unpack to
            more than `shardbuild.codecs.packing.MAX_UNPACKED_BYTES`.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            entries = archive.infolist()
            num_bytes = sum(entry.file_size for entry in entries)
            if num_bytes > max(len(data), MAX_UNPACKED_BYTES):
                raise ValueError(f"unpacks to {num_bytes} bytes: too many")
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name == entry.filename or name in arrays:
                    raise ValueError(f"holds {entry.filename!r}, which is no array")
                arrays[name] = decode_npy(archive.read(entry))
    except (
        *(EOFError, LookupError, NotImplementedError, OSError, OverflowError),
        *(RuntimeError, zipfile.BadZipFile, zlib.error),
    ) as error:
        raise ValueError(f"is no .npz: {error}") from error
    return arrays


def _read_header(data: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """Return dtype, Fortran order, shape, and where the array's bytes begin."""
    import numpy as np

    if data[:6] != _MAGIC or len(data) < 8 or data[6] not in _LENGTH_BYTES:
        raise ValueError("the bytes do not begin as .npy version 1, 2 or 3 does")
    start = 8 + _LENGTH_BYTES[data[6]]
    stop = start + int.from_bytes(data[8:start], "little")
    if not start <= stop <= min(len(data), _MAX_HEADER_BYTES):
        raise ValueError(f"the header ends at byte {stop} of {len(data)}")
    plain = _PLAIN_HEADER.fullmatch(data, start, stop)
    descr: Any
    if plain is not None:
        descr, order, sizes = (group.decode() for group in plain.groups())
        fortran_order = order == "True"
        shape = tuple(int(size) for size in sizes.split(",") if size)
    else:
        text = data[start:stop].decode("utf-8" if data[6] == 3 else "latin-1").strip()
        descr, fortran_order, shape = _fields_of(_literal(text))
    dtype = np.lib.format.descr_to_dtype(descr)
    if dtype.hasobject:
        raise ValueError("holds Python objects, and pickle is never read")
    return dtype, fortran_order, shape, stop


def _fields_of(header: Any) -> tuple[Any, bool, tuple[int, ...]]:
    if not isinstance(header, dict) or set(header) != _HEADER_FIELDS:
        raise ValueError(f"the header has not the fields {sorted(_HEADER_FIELDS)}")
    shape = header["shape"]
    if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)):
        raise ValueError(f"the header's shape is {shape!r}")
    return header["descr"], bool(header["fortran_order"]), shape


def _literal(text: str) -> Any:
    """Evaluate a literal, in whatever thread.

    Where something else has Python code run while garbage is collected (Dask, JAX and
    Hypothesis do), Python 3.11 may take two threads that parse at once for one, and
    says "AST constructor recursion depth mismatch" of a text that is good.
    """
    confused: SystemError | None = None
    for _ in range(_MAX_TRIES):
        try:
            return ast.literal_eval(text)
        except SystemError as error:
            confused = error
        except (RecursionError, SyntaxError, TypeError) as error:
            raise ValueError(f"the header is no literal: {error}") from error
    raise ValueError("the header cannot be parsed here") from confused

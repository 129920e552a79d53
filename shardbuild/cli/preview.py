"""A glimpse of a field: one short line that is safe to print."""

from __future__ import annotations

import io
import json
import warnings

from shardbuild.cli.printing import printable

__all__ = ["preview"]

WIDTH = 60
PICTURES = frozenset(
    "bmp gif jpeg jpg pbm pgm png pnm ppm tif tiff webp".split()  # noqa: SIM905
)


def preview(extension: str, data: bytes) -> str:
    r"""Tell in at most 60 characters what is in a field.

    >>> preview("caption.txt", b"a dog\non a\tlawn")
    'a dog on a lawn'
    >>> preview("json", b'{"boxes": [1, 2],  "by": "hand"}')
    '{"boxes":[1,2],"by":"hand"}'
    >>> preview("ppm", b"P6 2 1 255 rgbRGB")
    'PPM picture, 2 x 1, RGB'
    >>> preview("bin", b"\xff\x00")
    'ff 00'
    """
    kind = extension.rpartition(".")[2].lower()
    if kind in PICTURES:
        return _picture(data)
    if kind == "npy":
        return _array(data)
    if kind in {"json", "jsn"}:
        data = _compact_json(data)
    return _text(data) or _hex(data)


def _picture(data: bytes) -> str:
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as picture:
            warnings.simplefilter("ignore")  # a large one is only measured here
            width, height = picture.size
            return f"{picture.format} picture, {width} x {height}, {picture.mode}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "not a picture that Pillow can open"


def _array(data: bytes) -> str:
    from numpy.lib import format as npy

    stream = io.BytesIO(data)
    try:
        read_header = {
            (1, 0): npy.read_array_header_1_0,
            (2, 0): npy.read_array_header_2_0,
        }[npy.read_magic(stream)]
        shape, _, dtype = read_header(stream)
    except (KeyError, ValueError):
        return "not an array that numpy can open"
    return f"array, {' x '.join(map(str, shape)) or 'one'} {dtype}"


def _compact_json(data: bytes) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
        errors="backslashreplace"
    )


def _text(data: bytes) -> str | None:
    """Return the beginning of a text in one line, or None if it is none."""
    head = data[: 16 * WIDTH]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) == len(data) or error.start < len(head) - 3:
            return None
        text = head[: error.start].decode()
    words = " ".join(text.split())
    if not words or sum(c.isprintable() for c in words) < 0.9 * len(words):
        return None
    return _shortened(printable(words), is_whole=len(head) == len(data))


def _hex(data: bytes) -> str:
    if not data:
        return "empty"
    return _shortened(data[:WIDTH].hex(" "), is_whole=len(data) <= WIDTH)


def _shortened(text: str, *, is_whole: bool) -> str:
    if is_whole and len(text) <= WIDTH:
        return text
    return text[: WIDTH - 3].rstrip() + "..."

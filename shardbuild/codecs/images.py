"""Pictures: bytes to Pillow images or numpy arrays, and back.

What is read is decided by the bytes, not by the extension (a PNG that is
called ``.jpg`` is common, and harmless); what is written, by the extension.
Only formats whose decoders draw pixels are opened: never one that runs a
program, as PostScript would.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, get_args

from shardbuild.codecs.torchdata import as_tensor, is_tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

__all__ = [
    "IMAGE_EXTENSIONS",
    "ImageSpec",
    "decode_image",
    "encode_image",
    "from_chw",
    "open_image",
    "to_16_bits",
    "to_chw",
    "to_mode",
]

# fmt: off
ImageSpec = Literal[
    "l8", "rgb8", "rgba8", "l", "rgb", "rgba", "pil", "pill", "pilrgb", "pilrgba",
    "torchl8", "torchrgb8", "torchrgba8", "torchl", "torchrgb", "torch", "torchrgba",
]
# fmt: on

# Extension: Pillow's format, then the modes it holds, the widest last.
_Format = tuple[str, tuple[str, ...]]
_PNG: _Format = ("PNG", ("1", "P", "L", "LA", "I;16", "RGB", "RGBA"))
_JPEG: _Format = ("JPEG", ("L", "RGB", "CMYK"))
_ANY_PPM: _Format = ("PPM", ("1", "L", "I;16", "RGB"))

_TIFF: _Format = ("TIFF", ("1", "P", "L", "LA", "I;16", "RGB", "RGBA", "CMYK"))

_FORMATS: dict[str, _Format] = {
    "bmp": ("BMP", ("1", "P", "L", "RGB")),
    "gif": ("GIF", ("P", "L")),
    "image": _ANY_PPM,
    "img": _ANY_PPM,
    "jfif": _JPEG,
    "jpe": _JPEG,
    "jpeg": _JPEG,
    "jpg": _JPEG,
    "pbm": ("PPM", ("1",)),
    "pgm": ("PPM", ("L", "I;16")),
    "png": _PNG,
    "pnm": _ANY_PPM,
    "ppm": ("PPM", ("RGB",)),
    "tif": _TIFF,
    "tiff": _TIFF,
    "webp": ("WEBP", ("RGB", "RGBA")),
}

IMAGE_EXTENSIONS = frozenset(_FORMATS)
"""The extensions that are encoded and decoded as pictures, in lower case."""

_READABLE = ("JPEG", "PNG", "PPM", "WEBP", "GIF", "BMP", "TIFF")

# Quality 100 is what webdataset writes; a job that wants another gives bytes.
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100},
    "WEBP": {"lossless": True, "exact": True},
}

# Conversions that lose nothing, tried in this order.
_WIDER: dict[str, tuple[str, ...]] = {"1": ("L", "RGB"), "L": ("RGB",)}

_MAX_16 = 65535
_FLOAT_SLACK = 0.001


def open_image(data: bytes) -> Image:
    """Open a picture without decoding its pixels yet.

    Raises:
        ValueError: it claims more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``
            (89 million unless you set it; None switches the check off).
        OSError: it is none of JPEG, PNG, PPM, WebP, GIF, BMP and TIFF.

    >>> open_image(b"P5 3 2 255 abcdef").size
    (3, 2)
    """
    import PIL.Image

    try:
        image = PIL.Image.open(BytesIO(data), formats=_READABLE)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    width, height = image.size
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(
            f"{width} x {height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS"
            f" = {limit}: raise that limit if the picture is to be trusted"
        )
    return image


def decode_image(data: bytes, spec: ImageSpec = "rgb8") -> Any:
    """Decode a picture as ``spec`` says.

    - ``l8 rgb8 rgba8``: numpy uint8, height x width (x 3 or 4), writable;
    - ``l rgb rgba``: numpy float32 in [0, 1], the same shapes;
    - ``torchl8 torchrgb8 torchrgba8 torchl torchrgb torchrgba``: the same as torch
      tensors, channels first; ``torch`` is ``torchrgb``;
    - ``pill pilrgb pilrgba``: a loaded Pillow image of that mode;
    - ``pil``: a loaded Pillow image of the mode that the file has.

    Pictures with 16 bits a pixel are scaled to 8, not clipped. The EXIF
    orientation is not applied (``jobs/resize_images.py`` applies it).

    Raises:
        ValueError: ``spec`` is none of these, or the picture is too large.
        OSError: the bytes are no picture, or are cut off.
        MissingExtraError: a tensor is asked for, and torch is not installed.

    >>> decode_image(b"P5 3 2 255 abcdef", "l8").tolist()
    [[97, 98, 99], [100, 101, 102]]
    """
    if spec not in get_args(ImageSpec):
        raise ValueError(f"no image spec {spec!r}: known are {get_args(ImageSpec)}")
    image = open_image(data)
    image.load()
    if spec == "pil":
        return image
    name = spec.removeprefix("torch").removeprefix("pil").removesuffix("8") or "rgb"
    image = to_mode(image, name.upper())
    if spec.startswith("pil"):
        return image
    import numpy as np

    pixels = np.array(image)  # a copy, so that it can be written to
    if not spec.endswith("8"):
        pixels = pixels.astype(np.float32) / 255
    return as_tensor(to_chw(pixels)) if spec.startswith("torch") else pixels


def to_chw(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Put the channels first: height x width x 3 to 3 x height x width.

    What has no channels stays as it is.

    >>> import numpy as np
    >>> to_chw(np.array([[[1, 2, 3], [4, 5, 6]]])).tolist()
    [[[1, 4]], [[2, 5]], [[3, 6]]]
    """
    import numpy as np

    return np.ascontiguousarray(
        np.moveaxis(pixels, -1, 0) if pixels.ndim > 2 else pixels
    )


def from_chw(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Put the channels last: the way back of `to_chw`."""
    import numpy as np

    return np.moveaxis(pixels, 0, -1) if pixels.ndim > 2 else pixels


def to_mode(image: Image, mode: str) -> Image:
    """Convert a Pillow image to the mode L, RGB or RGBA.

    Pillow itself clips 16-bit pixels to 255; here they are scaled, rounding
    to the nearest.

    Raises:
        ValueError: the pixels are floats, or integers outside 0...65535.
    """
    if image.mode == "F":
        raise ValueError("has float pixels, whose range is not known")
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    if isinstance(image.info.get("transparency"), bytes) and mode != "RGBA":
        image = image.convert("RGBA")  # a palette of colours with an alpha each
    return image if image.mode == mode else image.convert(mode)


def _to_8_bits(image: Image) -> Image:
    import numpy as np
    import PIL.Image

    pixels = np.asarray(to_16_bits(image)).astype(np.uint32)
    return PIL.Image.fromarray(
        ((pixels * 255 + _MAX_16 // 2) // _MAX_16).astype(np.uint8)
    )


def to_16_bits(image: Image) -> Image:
    """Convert a Pillow image of integer pixels (``I``...) to the mode I;16.

    Raises:
        ValueError: the pixels leave 0...65535.
    """
    if image.mode == "I":
        low, high = image.getextrema()
        if not (_is_16_bits(low) and _is_16_bits(high)):
            raise ValueError(f"has pixels from {low} to {high}, not 0 to {_MAX_16}")
    return image if image.mode == "I;16" else image.convert("I").convert("I;16")


def _is_16_bits(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= _MAX_16


def encode_image(value: Any, extension: str) -> bytes:
    r"""Encode a picture in the format of ``extension``.

    ``value`` is a Pillow image, or an array of height x width (x 1 to 4), or a
    torch tensor of (1 to 4 x) height x width:
    uint8, bool (False black, True white), uint16 (one channel, for png and
    pgm), or floats in [0, 1], rounded to the nearest of 255 steps.
    ``img image pnm`` choose pbm, pgm or ppm by the channels; a grey picture
    becomes three equal channels in a ``ppm``.

    Raises:
        ValueError: the value is no picture, floats leave [0, 1] by more than
            0.001, or the format cannot hold its channels without loss
            (transparency in a jpg, grey in a pbm).

    >>> encode_image(decode_image(b"P5 3 2 255 abcdef", "l8"), "pgm")
    b'P5\n3 2\n255\nabcdef'
    """
    image_format, modes = _FORMATS[extension]
    image = _as_mode_of(_as_image(value), modes, extension)
    stream = BytesIO()
    image.save(stream, image_format, **_OPTIONS.get(image_format, {}))
    return stream.getvalue()


def _as_mode_of(image: Image, modes: tuple[str, ...], extension: str) -> Image:
    if image.mode.startswith("I") and "I;16" in modes:
        return to_16_bits(image)
    if image.mode in modes:
        return image
    if image.mode == "L" and modes == ("1",) and _is_black_and_white(image):
        return image.convert("1")
    for wider in _WIDER.get(image.mode, ()):
        if wider in modes:
            return image.convert(wider)
    held = ", ".join(modes)
    raise ValueError(
        f"{extension!r} cannot hold mode {image.mode} (only {held}) without loss:"
        " convert the picture first"
    )


def _is_black_and_white(image: Image) -> bool:
    return not any(image.histogram()[1:255])


def _as_image(value: Any) -> Image:
    import PIL.Image

    if isinstance(value, PIL.Image.Image):
        image = value
    elif is_tensor(value):
        pixels = from_chw(value.detach().cpu().numpy())
        image = PIL.Image.fromarray(_as_pixels(pixels))
    elif hasattr(value, "__array__"):
        image = PIL.Image.fromarray(_as_pixels(value))
    else:
        raise ValueError(
            f"a {type(value).__name__} is no picture: give a Pillow image, a numpy"
            " array, or encoded bytes"
        )
    if not image.width or not image.height:
        raise ValueError(f"a picture of {image.width} x {image.height} pixels is empty")
    return image


def _as_pixels(value: Any) -> npt.NDArray[Any]:
    import numpy as np

    pixels = np.asarray(value)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim != 2 and not (pixels.ndim == 3 and 2 <= pixels.shape[2] <= 4):
        raise ValueError(
            f"an array of shape {np.shape(value)} is no picture: height x width or"
            " height x width x 1 to 4 is one"
        )
    if not pixels.size:
        raise ValueError(f"a picture of shape {pixels.shape} is empty")
    return np.ascontiguousarray(_as_integers(pixels))


def _as_integers(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import numpy as np

    kind = pixels.dtype.kind
    if kind == "b" and pixels.ndim == 3:
        return pixels.astype(np.uint8) * np.uint8(255)
    if kind == "b" or pixels.dtype == np.uint8:
        return pixels
    if kind == "u" and pixels.itemsize == 2 and pixels.ndim == 2:
        return pixels.astype("<u2")
    if kind == "f":
        return _from_floats(pixels)
    raise ValueError(
        f"pixels of type {pixels.dtype} in {pixels.ndim} dimensions are ambiguous:"
        " use uint8, bool, floats in [0, 1], or uint16 with one channel"
    )


def _from_floats(pixels: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    import numpy as np

    low, high = float(pixels.min()), float(pixels.max())
    # Written so that a NaN, which compares with nothing, is refused too.
    if not (low >= -_FLOAT_SLACK and high <= 1 + _FLOAT_SLACK):
        raise ValueError(
            f"float pixels must be in [0, 1], these are in [{low}, {high}]"
        )
    steps = np.clip(pixels, 0, 1).astype(np.float64) * 255
    return np.asarray(np.rint(steps), np.uint8)

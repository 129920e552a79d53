"""Make the pictures of each sample smaller, and leave its other fields alone.

By default the shorter side becomes ``--size`` pixels; ``--side longer`` makes
the whole picture fit into a square. A picture that is small enough is not
touched, and none is enlarged. The format stays what it was (JPEG, PNG, WebP,
PBM, PGM, PPM), and so do transparency, 16 bits of grey, CMYK and the colour
profile; a palette becomes colours. The EXIF orientation is applied, and other
EXIF data is dropped.

``--nearest seg.png`` names the fields (with commas between) whose pixels are
labels: their pixels are picked, never mixed.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.images import open_image, to_16_bits

if TYPE_CHECKING:
    from PIL.Image import Image

    from shardbuild import Sample

IMAGES = frozenset({"jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "webp"})

# What Pillow calls a format when it reads it: what it is written as.
FORMATS = {
    "JPEG": "JPEG",
    "MPO": "JPEG",  # a JPEG with further pictures after the first
    "PNG": "PNG",
    "PPM": "PPM",
    "WEBP": "WEBP",
}
WITH_ALPHA = {"1": "LA", "L": "LA", "LA": "LA", "RGBA": "RGBA"}  # all else: RGBA
WITHOUT_PALETTE = {"1": "L", "P": "RGB", "PA": "RGBA"}


def transform(
    sample: Sample,
    *,
    size: int = 256,
    side: str = "shorter",
    quality: int = 90,
    nearest: str = "",
) -> Sample:
    r"""Return the sample with every picture made smaller.

    >>> sample = {"__key__": "a", "pgm": b"P5 4 2 255 aabbccdd", "cls": b"1"}
    >>> transform(sample, size=1)
    {'__key__': 'a', 'pgm': b'P5\n2 1\n255\nbc', 'cls': b'1'}
    """
    if size < 1 or side not in {"shorter", "longer"} or not 1 <= quality <= 100:
        raise ValueError(
            f"size={size} must be at least 1, side={side!r} 'shorter' or 'longer',"
            f" quality={quality} 1 to 100"
        )
    labels = nearest.split(",")
    resized = dict(sample)
    for name, data in sample.items():
        if name.rpartition(".")[2].lower() in IMAGES:
            try:
                resized[name] = _resize(
                    data, (size, side), quality, is_label=name in labels
                )
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(f"field {name!r}: {error}") from error
    return resized


def _resize(
    data: bytes, fit: tuple[int, str], quality: int, *, is_label: bool
) -> bytes:
    from PIL import ImageOps

    image = open_image(data)
    target = _target_size(image.size, *fit)
    if target == image.size:
        return data
    image_format = FORMATS.get(image.format or "")
    if image_format is None:
        raise ValueError(f"is a {image.format}, which this job does not write")
    if image_format != "JPEG" and getattr(image, "n_frames", 1) > 1:
        raise ValueError("is an animation")
    smaller = _pick(image, target) if is_label else _mix(image, target)
    options = _options(image, image_format, quality, is_label=is_label)
    stream = BytesIO()
    ImageOps.exif_transpose(smaller, in_place=True)
    smaller.save(stream, image_format, **options)
    return stream.getvalue()


def _target_size(size: tuple[int, int], pixels: int, side: str) -> tuple[int, int]:
    """Return the size to make of ``size``: never larger, never empty."""
    now = min(size) if side == "shorter" else max(size)
    if now <= pixels:
        return size
    width, height = ((2 * n * pixels + now) // (2 * now) for n in size)
    return max(width, 1), max(height, 1)


def _pick(image: Image, size: tuple[int, int]) -> Image:
    from PIL.Image import Resampling

    return image.resize(size, Resampling.NEAREST)


def _mix(image: Image, size: tuple[int, int]) -> Image:
    from PIL.Image import Resampling

    # A JPEG decodes at half, a quarter or an eighth of its size, several times
    # faster; `box` is what the picture covers of the padded pixels.
    _, box = image.draft(None, size) or (None, None)
    smaller = _mixable(image).resize(size, Resampling.BICUBIC, box)
    if image.format == "PPM" and image.mode == "1":
        return smaller.point([0] * 128 + [255] * 128).convert("1")
    return smaller


def _mixable(image: Image) -> Image:
    """Return the picture in a mode whose neighbouring pixels may be averaged."""
    image.load()
    if "transparency" in image.info:
        return image.convert(WITH_ALPHA.get(image.mode, "RGBA"))
    if image.mode.startswith("I"):
        return to_16_bits(image)
    # Converting a picture to the mode that it has would copy it.
    mode = WITHOUT_PALETTE.get(image.mode)
    return image.convert(mode) if mode else image


def _options(
    image: Image, image_format: str, quality: int, *, is_label: bool
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if image_format in {"JPEG", "WEBP"}:
        options["quality"] = quality
    if image_format == "WEBP" and is_label:
        options["lossless"] = True
    if image_format != "PPM" and "icc_profile" in image.info:
        options["icc_profile"] = image.info["icc_profile"]
    return options

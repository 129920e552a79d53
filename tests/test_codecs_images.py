"""Pictures: what a format can hold comes back, and what it cannot is refused."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shardbuild.codecs.decoders import decode_field
from shardbuild.codecs.encoders import encode_field
from shardbuild.codecs.images import (
    decode_image,
    encode_image,
    from_chw,
    open_image,
    to_chw,
    to_mode,
)
from shardbuild.errors import DecodeError, EncodeError, MissingExtraError

PHOTO = Path(__file__).parent / "data" / "photos" / "astronaut" / "astronaut.jpg"

SHAPES = {
    "l8": (5, 4),
    "rgb8": (5, 4, 3),
    "rgba8": (5, 4, 4),
}


def saved(image, image_format, **options):
    stream = BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def pixels(shape, dtype=np.uint8):
    return np.random.default_rng(7).integers(0, 256, shape).astype(dtype)


@pytest.mark.parametrize("spec", SHAPES)
@pytest.mark.parametrize("extension", ["png", "ppm", "pgm", "pnm", "img", "image"])
def test_lossless_formats_give_back_each_pixel_or_refuse(extension, spec):
    array = pixels(SHAPES[spec])
    if (extension, spec) == ("pgm", "rgb8") or (spec == "rgba8" and extension != "png"):
        with pytest.raises(ValueError, match="without loss"):
            encode_image(array, extension)
        return
    back = decode_image(encode_image(array, extension), spec)
    np.testing.assert_array_equal(back, array)
    assert back.dtype == np.uint8
    assert back.flags.writeable


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_floats_round_trip_through_eight_bits(array):
    """Each of the 256 steps survives: the nearest is taken, not the one below."""
    floats = decode_image(encode_image(array, "png"), "l")
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, array / 255, atol=1e-7)
    np.testing.assert_array_equal(
        decode_image(encode_image(floats, "png"), "l8"), array
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_rounded_to_the_nearest_and_clipped_within_a_thousandth(dtype):
    array = np.array([[-0.0005, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.0005]], dtype)
    assert decode_image(encode_image(array, "png"), "l8").tolist() == [
        [0, 0, 1, 254, 255]
    ]


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, np.nan, np.inf])
def test_floats_out_of_range_are_refused(value):
    array = np.full((2, 2), 0.5)
    array[1, 1] = value
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        encode_image(array, "png")


def test_sixteen_bits_are_kept_by_png_and_pgm_and_scaled_when_eight_are_asked_for():
    array = np.array([[0, 128, 129, 256, 65535]], np.uint16)
    for extension in ("png", "pgm", "pnm", "img"):
        data = encode_image(array, extension)
        image = decode_image(data, "pil")
        assert np.asarray(image).tolist() == array.tolist()
        assert decode_image(data, "l8").tolist() == [[0, 0, 1, 1, 255]]
        assert decode_image(data, "rgb8")[0, 3].tolist() == [1, 1, 1]
        assert encode_image(image, "png") == encode_image(array, "png")
    assert encode_image(array.astype(">u2"), "pgm") == encode_image(array, "pgm")
    with pytest.raises(ValueError, match="'jpg' cannot hold mode I;16"):
        encode_image(array, "jpg")


def test_black_and_white_is_kept_and_grey_in_a_pbm_refused():
    array = np.array([[True, False, True]])
    assert encode_image(array, "pbm") == b"P4\n3 1\n\x40"
    assert encode_image(array.astype(np.uint8) * 255, "pbm") == b"P4\n3 1\n\x40"
    for extension in ("png", "pbm", "pgm", "ppm", "jpg", "img"):
        back = decode_image(encode_image(array, extension), "l8")
        assert back.tolist() == [[255, 0, 255]]
    assert decode_image(encode_image(np.ones((2, 2, 3), bool), "png")).min() == 255
    with pytest.raises(ValueError, match="'pbm' cannot hold mode L"):
        encode_image(np.array([[0, 254]], np.uint8), "pbm")
    with pytest.raises(ValueError, match="'pbm' cannot hold mode RGB"):
        encode_image(np.zeros((2, 2, 3), np.uint8), "pbm")


def test_one_and_two_channels_are_grey_and_grey_with_transparency():
    grey = pixels((3, 2, 1))
    np.testing.assert_array_equal(
        decode_image(encode_image(grey, "png"), "l8"), grey[:, :, 0]
    )
    both = pixels((3, 2, 2))
    image = decode_image(encode_image(both, "png"), "pil")
    assert image.mode == "LA"
    np.testing.assert_array_equal(np.asarray(image), both)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.zeros((0, 3), np.uint8), "empty"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\) is no picture"),
        (np.zeros(3, np.uint8), r"shape \(3,\) is no picture"),
        (np.zeros((2, 2), np.int64), "int64 in 2 dimensions are ambiguous"),
        (np.zeros((2, 2, 3), np.uint16), "uint16 in 3 dimensions are ambiguous"),
        (np.zeros((2, 2), np.complex64), "complex64"),
        ([[1, 2]], "a list is no picture"),
        (None, "a NoneType is no picture"),
        (PIL.Image.new("L", (0, 3)), "0 x 3 pixels is empty"),
        (PIL.Image.new("F", (1, 1)), "mode F"),
        (PIL.Image.new("I", (1, 1), 65536), "65536"),
        (PIL.Image.new("I", (1, 1), -1), "-1"),
    ],
    ids=range(12),
)
def test_what_is_no_picture_is_refused(value, problem):
    with pytest.raises(ValueError, match=problem):
        encode_image(value, "png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "HSV"])
def test_a_jpg_refuses_what_it_cannot_hold(mode):
    with pytest.raises(ValueError, match=f"'jpg' cannot hold mode {mode}"):
        encode_image(PIL.Image.new(mode, (8, 8)), "jpg")


def test_transparency_is_not_dropped_silently_in_a_ppm():
    with pytest.raises(ValueError, match="mode RGBA"):
        encode_image(PIL.Image.new("RGBA", (8, 8)), "ppm")


@pytest.mark.parametrize("mode", ["1", "P", "L", "LA", "I;16", "RGB", "RGBA"])
def test_a_pillow_image_comes_back_in_its_mode_from_png(mode):
    image = PIL.Image.open(PHOTO).convert("RGB").resize((32, 32))
    image = (
        image.convert("L").convert("I").convert(mode)
        if mode == "I;16"
        else (image.convert(mode))
    )
    back = decode_image(encode_image(image, "png"), "pil")
    assert back.mode == mode
    assert back.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


def test_cmyk_survives_a_jpg_and_decodes_to_colours():
    image = PIL.Image.open(PHOTO).convert("RGB")
    data = encode_image(image.convert("CMYK"), "jpg")
    assert decode_image(data, "pil").mode == "CMYK"
    difference = decode_image(data).astype(int) - np.asarray(image).astype(int)
    assert np.abs(difference).mean() < 3


SPECS: list[tuple[Any, Any, Any, tuple[int, ...]]] = [
    ("l8", "l", "pill", (512, 512)),
    ("rgb8", "rgb", "pilrgb", (512, 512, 3)),
    ("rgba8", "rgba", "pilrgba", (512, 512, 4)),
]


@pytest.mark.parametrize(("eight", "floats", "pillow", "shape"), SPECS)
def test_every_spec_gives_its_own_shape_type_and_mode(eight, floats, pillow, shape):
    data = PHOTO.read_bytes()
    of_eight, of_floats = decode_image(data, eight), decode_image(data, floats)
    image = decode_image(data, pillow)
    assert of_eight.shape == of_floats.shape == shape
    assert (of_eight.dtype, of_floats.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(np.rint(of_floats * 255), of_eight)
    assert image.mode == floats.upper()
    np.testing.assert_array_equal(np.asarray(image), of_eight)
    assert decode_image(data, "pil").mode == "RGB"


@pytest.mark.parametrize("spec", ["RGB8", "rgb9", "", "torchpil", "numpy"])
def test_an_unknown_spec_is_refused(spec):
    with pytest.raises(ValueError, match="no image spec"):
        decode_image(PHOTO.read_bytes(), spec)


def test_palettes_with_and_without_transparency_decode():
    image = PIL.Image.open(PHOTO).resize((16, 16)).quantize(4)
    plain = decode_image(saved(image, "PNG"), "rgba8")
    assert plain[:, :, 3].min() == 255
    clear = decode_image(saved(image, "PNG", transparency=0), "rgba8")
    assert clear[:, :, 3].min() == 0
    np.testing.assert_array_equal(clear[:, :, :3], plain[:, :, :3])
    partly = saved(image, "PNG", transparency=b"\x80\x00\xff\xff")
    assert decode_image(partly, "rgb8").shape == (16, 16, 3)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG"])
def test_what_is_read_is_decided_by_the_bytes_not_the_extension(image_format):
    data = saved(PIL.Image.open(PHOTO).convert("L"), image_format)
    assert decode_field("jpg", data, images="l8").shape == (512, 512)


def test_a_format_that_runs_a_program_is_not_opened():
    data = saved(PIL.Image.new("L", (4, 4)), "EPS")
    assert PIL.Image.open(BytesIO(data)).format == "EPS"
    with pytest.raises(DecodeError, match="cannot identify"):
        decode_field("jpg", data)


def test_a_decompression_bomb_is_refused(monkeypatch):
    bomb = saved(PIL.Image.new("1", (20_000, 10_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(DecodeError, match="exceeds limit of 178956970"):
        decode_field("png", bomb)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 15)
    with (
        pytest.warns(PIL.Image.DecompressionBombWarning),
        pytest.raises(DecodeError, match=r"4 x 4 pixels are more than .* = 15"),
    ):
        decode_field("pgm", b"P5 4 4 255 0123456789abcdef")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    assert open_image(bomb).size == (20_000, 10_000)


def test_float_pixels_have_no_known_range():
    with pytest.raises(ValueError, match="float pixels"):
        to_mode(PIL.Image.new("F", (1, 1)), "L")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("extension", ["jpg", "png", "ppm"])
def test_a_picture_that_is_cut_off_is_an_error(extension, keep):
    whole = encode_field(extension, PIL.Image.open(PHOTO))
    with pytest.raises(DecodeError, match="field"):
        decode_field(extension, whole[: int(keep * len(whole))])


@given(st.data())
def test_damaged_bytes_give_an_array_or_a_decode_error(data):
    extension = data.draw(st.sampled_from(["jpg", "png", "pgm", "pbm"]))
    image = PIL.Image.open(PHOTO).resize((32, 32))
    mode = {"pgm": "L", "pbm": "1"}.get(extension, "RGB")
    damaged = bytearray(encode_field(extension, image.convert(mode)))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_field(extension, bytes(damaged))
    except DecodeError:
        return
    assert decoded.dtype == np.uint8


# -- channels first, without torch ------------------------------------------


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=4)))
def test_channels_go_first_and_come_back(array):
    first = to_chw(array)
    assert first.flags.c_contiguous
    if array.ndim == 3:
        assert first.shape == (array.shape[2], *array.shape[:2])
        for channel in range(array.shape[2]):
            np.testing.assert_array_equal(first[channel], array[:, :, channel])
    np.testing.assert_array_equal(from_chw(first), array)


def test_a_tensor_needs_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    data = encode_field("pgm", np.zeros((2, 2), np.uint8))
    needs = r"needs the package 'torch': pip install 'shardbuild\[torch\]'"
    with pytest.raises(MissingExtraError, match=needs):
        decode_field("pgm", data, images="torchl8")


# -- the other formats ------------------------------------------------------


@pytest.mark.parametrize(
    ("extension", "spec"),
    [
        *(("tif", "l8"), ("tiff", "rgb8"), ("tiff", "rgba8"), ("gif", "l8")),
        *(("bmp", "l8"), ("bmp", "rgb8"), ("webp", "rgb8"), ("webp", "rgba8")),
    ],
)
def test_the_other_lossless_formats_give_back_each_pixel(extension, spec):
    array = pixels(SHAPES[spec])
    back = decode_field(extension, encode_field(extension, array), images=spec)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("extension", "spec"),
    [("gif", "rgb8"), ("bmp", "rgba8"), ("jfif", "rgba8"), ("jpe", "rgba8")],
)
def test_what_they_cannot_hold_they_refuse(extension, spec):
    with pytest.raises(EncodeError, match=f"'{extension}' cannot hold mode"):
        encode_field(extension, pixels(SHAPES[spec]))


def test_a_tiff_keeps_sixteen_bits():
    array = np.array([[0, 128, 65535]], np.uint16)
    image = decode_image(encode_image(array, "tif"), "pil")
    assert np.asarray(image).tolist() == array.tolist()

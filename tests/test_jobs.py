"""The jobs in jobs/, on real photographs."""

from __future__ import annotations

import importlib
import inspect
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import filter_images, resize_images, select_fields
from shardbuild.codecs.images import decode_image, encode_image

ROOT = Path(__file__).parent.parent
PHOTOS = sorted((ROOT / "tests" / "data" / "photos").glob("*/*.jpg"))
ASTRONAUT = next(photo for photo in PHOTOS if photo.stem == "astronaut")
RETINA = next(photo for photo in PHOTOS if photo.stem == "retina")
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


def saved(image, image_format, **options):
    stream = BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def opened(data):
    image = PIL.Image.open(BytesIO(data))
    image.load()
    return image


def resized(data, extension="jpg", **options):
    return resize_images.transform({"__key__": "a", extension: data}, **options)[
        extension
    ]


def noise(one, other):
    """The mean square difference of two pictures, in decibels below white."""
    difference = np.asarray(one, float) - np.asarray(other, float)
    return 10 * np.log10(255**2 / max(np.mean(difference**2), 1e-9))


@pytest.mark.parametrize("name", JOBS)
def test_a_job_has_help_and_options_that_a_command_line_can_give(name):
    job = importlib.import_module(f"jobs.{name}")
    assert (inspect.getdoc(job) or "").partition("\n")[0].endswith(".")
    assert job.transform is None or inspect.isfunction(job.transform)
    assert all(isinstance(option, str) for option in getattr(job, "defaults", {}))
    if job.transform is not None:
        _, *options = inspect.signature(job.transform).parameters.values()
        assert options
        for option in options:
            assert option.kind is option.KEYWORD_ONLY
            assert type(option.default) in {int, float, str, bool}


def test_copy_and_reshard_leave_samples_alone():
    copy, reshard = (importlib.import_module(f"jobs.{n}") for n in ("copy", "reshard"))
    assert copy.transform is None
    assert reshard.transform is None
    assert reshard.defaults == {"maxsize": "1GB"}


# resize_images


@pytest.mark.parametrize("side", ["shorter", "longer"])
@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.stem)
def test_a_photograph_gets_its_size_and_keeps_its_shape(photo, side):
    data = photo.read_bytes()
    before, after = opened(data), opened(resized(data, size=100, side=side))
    now = min if side == "shorter" else max
    assert now(after.size) == 100
    scale = 100 / now(before.size)
    assert abs(after.width - before.width * scale) <= 0.5
    assert abs(after.height - before.height * scale) <= 0.5
    assert (after.format, after.mode) == ("JPEG", before.mode)


def test_the_other_fields_and_the_order_of_fields_stay():
    jpg = ASTRONAUT.read_bytes()
    sample = {
        "__key__": "a.jpg",
        "cls": b"\xff",
        "jpg": jpg,
        "left.PNG": saved(PIL.Image.open(ASTRONAUT), "PNG"),
        "txt": b"t",
    }
    given_sample = dict(sample)
    result = resize_images.transform(sample, size=32)
    assert sample == given_sample
    assert list(result) == list(sample)
    assert opened(result["jpg"]).size == opened(result["left.PNG"]).size == (32, 32)
    for name in ("__key__", "cls", "txt"):
        assert result[name] == sample[name]
    assert resize_images.transform(sample, size=32) == result


@given(st.integers(1, 600), st.integers(1, 600), st.integers(1, 600))
def test_no_picture_is_enlarged_or_empty(width, height, size):
    data = saved(PIL.Image.new("L", (width, height)), "PPM")
    for side, now in (("shorter", min), ("longer", max)):
        result = resized(data, "pgm", size=size, side=side)
        if now(width, height) <= size:
            assert result == data
        else:
            after = opened(result).size
            assert now(after) == size
            assert min(after) >= 1


@pytest.mark.parametrize("size", [33, 64, 177, 200, 256, 353, 511])
def test_decoding_at_a_fraction_shifts_nothing_also_at_odd_sizes(size):
    """Without the box that `draft` gives, these are at 37 to 46 decibels."""
    data = RETINA.read_bytes()
    plain = opened(data).resize((size, size), PIL.Image.Resampling.BICUBIC)
    plain = opened(saved(plain, "JPEG", quality=100)).convert("L")
    assert noise(opened(resized(data, size=size, quality=100)).convert("L"), plain) > 48


def test_quality_is_the_jpegs():
    data = ASTRONAUT.read_bytes()
    sizes = [len(resized(data, quality=quality)) for quality in (10, 50, 90, 100)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_and_not_applied_again(image_format, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = PIL.Image.open(ASTRONAUT).crop((0, 0, 400, 240))
    turned = saved(image, image_format, exif=exif)
    result = opened(resized(turned, size=60, quality=100))
    upright = PIL.ImageOps.exif_transpose(opened(turned))
    assert result.size == ((100, 60) if orientation <= 4 else (60, 100))
    assert result.getexif().get(0x0112, 1) == 1
    assert noise(result, upright.resize(result.size, PIL.Image.Resampling.BICUBIC)) > 30


@pytest.mark.parametrize(
    ("mode", "image_format", "mode_after"),
    [
        ("1", "PNG", "L"),
        ("1", "PPM", "1"),
        ("CMYK", "JPEG", "CMYK"),
        ("L", "JPEG", "L"),
        ("L", "PNG", "L"),
        ("L", "PPM", "L"),
        ("LA", "PNG", "LA"),
        ("P", "PNG", "RGB"),
        ("RGB", "PPM", "RGB"),
        ("RGB", "WEBP", "RGB"),
        ("RGBA", "PNG", "RGBA"),
        ("RGBA", "WEBP", "RGBA"),
    ],
)
def test_colour_modes_are_kept_where_the_format_can(mode, image_format, mode_after):
    image = PIL.Image.open(ASTRONAUT).convert("RGB").convert(mode)
    if mode == "RGBA":
        image.putalpha(200)
    result = opened(resized(saved(image, image_format), size=64))
    assert (result.format, result.mode) == (image_format, mode_after)
    plain = PIL.Image.open(ASTRONAUT).convert("RGB").resize((64, 64))
    assert noise(result.convert("L"), plain.convert("L")) > (8 if mode == "1" else 20)


@pytest.mark.parametrize("extension", ["png", "pgm"])
def test_sixteen_bits_stay_sixteen(extension):
    ramp = np.linspace(0, 65535, 200 * 100).reshape(100, 200).astype(np.uint16)
    result = opened(resized(encode_image(ramp, extension), extension, size=50))
    pixels = np.asarray(result)
    assert result.mode in {"I", "I;16"}
    assert pixels.shape == (50, 100)
    assert len(np.unique(pixels)) > 4000
    assert abs(int(pixels[25, 50]) - int(ramp[50, 100])) < 400


def test_transparent_pixels_do_not_bleed_into_the_others():
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :30] = (255, 255, 255, 255)
    pixels[:, 30:] = (0, 255, 0, 0)
    result = np.asarray(opened(resized(encode_image(pixels, "png"), "png", size=16)))
    seen = result[result[:, :, 3] > 8]
    assert seen[:, :3].min() > 250


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_transparent_colour_becomes_transparency(mode):
    image = PIL.Image.new(mode, (64, 64), 0)
    image.paste(1 if mode == "P" else "white", (0, 0, 32, 64))
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 255, 255])
    key = (0, 0, 0) if mode == "RGB" else 0
    data = saved(image, "PNG", transparency=key)
    result = opened(resized(data, "png", size=16)).convert("RGBA")
    assert result.getpixel((2, 8)) == (255, 255, 255, 255)
    assert result.getpixel((13, 8))[3] == 0


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_the_colour_profile_is_kept(image_format):
    profile = b"profile of a wide gamut" + bytes(200)
    data = saved(PIL.Image.open(ASTRONAUT), image_format, icc_profile=profile)
    assert opened(resized(data, size=32)).info["icc_profile"] == profile


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_label_pixels_are_picked_never_mixed(image_format):
    labels = np.kron([[3, 200], [90, 17]], np.ones((64, 64))).astype(np.uint8)
    image = PIL.Image.fromarray(np.stack([labels] * 3, axis=2))
    data = saved(image, image_format, lossless=True)
    mixed = opened(resized(data, "seg.png", size=33))
    picked = opened(resized(data, "seg.png", size=33, nearest="a.png,seg.png"))
    assert set(np.unique(np.asarray(picked))) == {3, 17, 90, 200}
    assert len(np.unique(np.asarray(mixed))) > 4


def test_label_pixels_of_a_palette_keep_their_numbers():
    image = PIL.Image.open(ASTRONAUT).quantize(5)
    picked = opened(resized(saved(image, "PNG"), "png", size=100, nearest="png"))
    assert picked.mode == "P"
    assert picked.getpalette() == opened(saved(image, "PNG")).getpalette()
    assert (
        noise(
            picked.convert("L"),
            opened(resized(saved(image, "PNG"), "png", size=100)).convert("L"),
        )
        > 15
    )
    bits = resized(encode_image(image.convert("1"), "pbm"), "pbm", nearest="pbm")
    assert opened(bits).mode == "1"


def test_a_picture_with_others_behind_it_gives_the_first():
    first, second = PIL.Image.open(ASTRONAUT), PIL.Image.new("RGB", (640, 480))
    data = saved(first, "MPO", save_all=True, append_images=[second])
    assert opened(data).format == "MPO"
    result = opened(resized(data, size=64))
    assert result.format == "JPEG"
    assert noise(result, first.resize((64, 64))) > 20


def animation(image_format):
    frames = [PIL.Image.new("RGB", (300, 300), colour) for colour in ("red", "blue")]
    return saved(frames[0], image_format, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cannot identify image"),
        (ASTRONAUT.read_bytes()[:9000], "truncated"),
        (saved(PIL.Image.new("1", (20_000, 10_000)), "PNG"), "exceeds limit"),
        (animation("PNG"), "is an animation"),
        (animation("WEBP"), "is an animation"),
        (animation("GIF"), "is a GIF, which this job does not write"),
    ],
    ids=["empty", "cut", "bomb", "apng", "webp", "gif"],
)
def test_what_cannot_be_resized_is_an_error_that_names_the_field(data, problem):
    with pytest.raises(ValueError, match=rf"^field 'left\.jpg': .*{problem}"):
        resized(data, "left.jpg", size=64)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"side": "both"}, {"quality": 0}, {"quality": 101}]
)
def test_an_option_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        resize_images.transform({"__key__": "a"}, **options)


def test_a_picture_that_is_small_enough_is_not_touched():
    data = ASTRONAUT.read_bytes()
    assert resized(data, size=512) == data
    assert resized(data, size=512, side="longer") == data


# filter_images


def test_pictures_that_are_small_or_long_are_dropped():
    picture = saved(PIL.Image.new("L", (400, 100)), "PNG")
    sample = {"__key__": "a", "png": picture, "cls": b"1"}
    assert filter_images.transform(sample) == sample
    assert filter_images.transform(sample, min_side=100) == sample
    assert filter_images.transform(sample, min_side=101) is None
    assert filter_images.transform(sample, max_aspect=3.9) is None
    assert filter_images.transform(sample | {"left.jpg": ASTRONAUT.read_bytes()})
    assert filter_images.transform({"__key__": "a", "cls": b"1"}) is None


def test_damage_is_an_error_unless_only_headers_are_read():
    sample = {"__key__": "a", "jpg": ASTRONAUT.read_bytes()[:9000]}
    with pytest.raises(ValueError, match=r"^field 'jpg': .*truncated"):
        filter_images.transform(sample)
    assert filter_images.transform(sample, check=False) == sample
    with pytest.raises(ValueError, match=r"^field 'jpg': cannot identify"):
        filter_images.transform({"__key__": "a", "jpg": b""}, check=False)


# select_fields

SAMPLE = {"__key__": "a", "__note__": 1, "cls": b"1", "jpeg": b"2", "seg.png": b"3"}
META = {"__key__": "a", "__note__": 1}


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({}, {"cls": b"1", "jpeg": b"2", "seg.png": b"3"}),
        ({"keep": "seg.png,cls"}, {"cls": b"1", "seg.png": b"3"}),
        ({"keep": "cls,png?"}, {"cls": b"1"}),
        ({"drop": "cls,nothing"}, {"jpeg": b"2", "seg.png": b"3"}),
        ({"keep": "jpeg", "rename": "jpeg:jpg"}, {"jpg": b"2"}),
        (
            {"rename": "jpeg:cls,cls:jpeg,x?:y"},
            {"jpeg": b"1", "cls": b"2", "seg.png": b"3"},
        ),
    ],
    ids=range(6),
)
def test_fields_are_kept_dropped_and_renamed(options, fields):
    assert select_fields.transform(SAMPLE, **options) == META | fields


def test_a_field_that_is_not_there_is_an_error():
    with pytest.raises(KeyError, match=r"has no field 'jpg', only cls, jpeg, seg\.png"):
        select_fields.transform(SAMPLE, keep="jpg")
    with pytest.raises(KeyError, match="has no field 'jpeg', only cls"):
        select_fields.transform(SAMPLE, keep="cls", rename="jpeg:jpg")


def test_two_fields_never_get_one_name():
    with pytest.raises(ValueError, match="two fields would have one name"):
        select_fields.transform(SAMPLE, rename="jpeg:cls")


def test_a_resized_picture_decodes_as_any_other():
    result = resized(ASTRONAUT.read_bytes(), size=48)
    assert decode_image(result, "rgb8").shape == (48, 48, 3)

"""Sound and films that PyAV wrote come back; damage and what is too much do not."""

from __future__ import annotations

import sys
from fractions import Fraction
from io import BytesIO
from typing import Any

import av
import numpy as np
import pytest
import torch

from shardbuild.codecs import audiovideo
from shardbuild.codecs.audiovideo import (
    AUDIO_EXTENSIONS,
    VIDEO_EXTENSIONS,
    decode_audio,
    decode_video,
    torch_audio,
    torch_video,
)
from shardbuild.codecs.handlers import Decoder
from shardbuild.errors import DecodeError, MissingExtraError

RATE = 48_000
NUM_SAMPLES = 1 << 15
NUM_FRAMES = 5
GREYS = [number * 40 for number in range(NUM_FRAMES)]

# Extension: FFmpeg's container, its codec of pictures, of sound.
FILMS = {
    "avi": ("avi", "mpeg4", None),
    "h264": ("h264", "libx264", None),
    "mjpeg": ("mjpeg", "mjpeg", None),
    "mov": ("mov", "mpeg4", "pcm_s16le"),
    "mp4": ("mp4", "mpeg4", "aac"),
    "mpg": ("mpeg", "mpeg1video", None),
    "ogv": ("ogv", "libvpx", None),
    "webm": ("webm", "libvpx", None),
    "wmv": ("asf", "wmv2", None),
}
# Extension: container, codec, how FFmpeg calls its samples, whether none is lost.
SOUNDS = {
    "flac": ("flac", "flac", "s16", True),
    "m4a": ("mp4", "aac", "fltp", False),
    "mp3": ("mp3", "libmp3lame", "fltp", False),
    "ogg": ("ogg", "flac", "s16", True),
    "sox": ("sox", "pcm_s32le", "s32", True),
    "wav": ("wav", "pcm_s16le", "s16", True),
    "wma": ("asf", "wmav2", "fltp", False),
}


def encoded(container, stream, frames):
    for frame in [*frames, None]:
        container.mux(stream.encode(frame))


def pictures():
    for grey in GREYS:
        yield av.VideoFrame.from_ndarray(
            np.full((48, 64, 3), grey, np.uint8), format="rgb24"
        )


def tone(num_samples):
    """A falling tone on the left, its half on the right, as shorts."""
    left = np.sin(np.arange(num_samples) / 20) * 20_000
    return np.stack([left, left / 2]).astype(np.int16)


def sound(kind, samples):
    """Frames of 1024 samples, in the layout that a codec asks for."""
    for start in range(0, samples.shape[1], 1024):
        part = samples[:, start : start + 1024]
        if kind == "fltp":
            part = part.astype(np.float32) / 2**15
        elif kind == "s32":
            part = part.astype(np.int32) << 16
        if not kind.endswith("p"):
            part = part.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(part), format=kind, layout="stereo"
        )
        frame.rate = RATE
        frame.pts, frame.time_base = start, Fraction(1, RATE)
        yield frame


def film(extension):
    container_format, pixels, waves = FILMS[extension]
    stream = BytesIO()
    with av.open(stream, "w", format=container_format) as container:
        video: Any = container.add_stream(pixels, rate=25)
        video.width, video.height = 64, 48
        video.pix_fmt = "yuvj420p" if pixels == "mjpeg" else "yuv420p"
        audio = None
        if waves:
            audio = container.add_stream(waves, rate=RATE, layout="stereo")
        encoded(container, video, pictures())
        if audio:
            kind = "fltp" if waves == "aac" else "s16"
            encoded(container, audio, sound(kind, tone(NUM_SAMPLES)))
    return stream.getvalue()


def music(extension):
    container_format, codec, kind, _ = SOUNDS[extension]
    stream = BytesIO()
    with av.open(stream, "w", format=container_format) as container:
        audio: Any = container.add_stream(codec, rate=RATE, layout="stereo")
        audio.bit_rate = 128_000
        encoded(container, audio, sound(kind, tone(NUM_SAMPLES)))
    return stream.getvalue()


def assert_loud_as_the_tone(waves):
    """Codecs that lose something keep the volume: that of a sine."""
    volume = np.sqrt((waves**2).mean(axis=1)) * np.sqrt(2) * 2**15
    np.testing.assert_allclose(volume, [20_000, 10_000], rtol=0.2)


def test_each_extension_is_tried():
    assert set(FILMS) == VIDEO_EXTENSIONS
    assert set(SOUNDS) == AUDIO_EXTENSIONS


@pytest.mark.parametrize("extension", FILMS)
def test_a_film_comes_back_frame_by_frame(extension):
    frames, waves, facts = decode_video(film(extension), extension)
    assert frames.dtype == np.uint8
    assert frames.shape == (NUM_FRAMES, 48, 64, 3)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), GREYS, atol=8)
    assert waves.dtype == np.float32
    if FILMS[extension][2]:
        assert facts["audio_fps"] == RATE
        assert waves.shape[0] == 2
        assert waves.shape[1] >= NUM_SAMPLES
        assert_loud_as_the_tone(waves)
    else:
        assert waves.shape == (1, 0)
        assert "audio_fps" not in facts
    assert facts["video_fps"] == 25


@pytest.mark.parametrize("extension", SOUNDS)
def test_sound_comes_back(extension):
    waves, rate = decode_audio(music(extension), extension)
    assert rate == RATE
    assert waves.dtype == np.float32
    expected = tone(NUM_SAMPLES).astype(np.float32) / 2**15
    if SOUNDS[extension][3]:
        np.testing.assert_array_equal(waves, expected)
    else:
        assert waves.shape[0] == 2
        assert_loud_as_the_tone(waves)


def test_bytes_without_a_sign_are_centred():
    stream = BytesIO()
    with av.open(stream, "w", format="wav") as container:
        audio = container.add_stream("pcm_u8", rate=8000, layout="mono")
        samples = np.array([[0, 64, 128, 192, 255]], np.uint8)
        frame = av.AudioFrame.from_ndarray(samples, format="u8", layout="mono")
        frame.rate = 8000
        encoded(container, audio, [frame])
    waves, rate = decode_audio(stream.getvalue(), "wav")
    assert (waves.tolist(), rate) == ([[-1, -0.5, 0, 0.5, 127 / 128]], 8000)


def test_tensors_come_from_the_handlers():
    decode = Decoder([torch_video, torch_audio])
    found = decode({"a.MP4": film("mp4"), "b.wav": music("wav")})
    frames, waves, facts = found["a.MP4"]
    assert frames.dtype == torch.uint8
    assert frames.numpy().shape == (NUM_FRAMES, 48, 64, 3)
    assert (waves.numpy().shape[0], facts["audio_fps"]) == (2, RATE)
    waves, rate = found["b.wav"]
    assert (waves.dtype, waves.shape, rate) == (torch.float32, (2, NUM_SAMPLES), RATE)


@pytest.mark.parametrize("extension", [*FILMS, *SOUNDS])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk" * 20,
        b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
        b"ffconcat version 1.0\n",
    ],
    ids=["empty", "junk", "a list of files", "a script"],
)
def test_what_is_no_film_and_no_sound_is_an_error(extension, data):
    with pytest.raises(DecodeError, match=f"field '{extension}': (is|has) "):
        Decoder([torch_video, torch_audio])({extension: data})


def test_a_film_that_is_cut_off_is_an_error():
    whole = film("mp4")
    with pytest.raises(ValueError, match=r"is no mov|is damaged"):
        decode_video(whole[: len(whole) // 2], "mp4")


def test_sound_is_no_film_and_a_mute_film_no_sound():
    with pytest.raises(ValueError, match="has no pictures"):
        decode_video(music("m4a"), "mp4")
    with pytest.raises(ValueError, match="has no sound"):
        decode_audio(film("wmv"), "wma")


def test_what_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(audiovideo, "MAX_UNPACKED_BYTES", 3 * 48 * 64 * 2)
    with pytest.raises(ValueError, match="unpacks to more than 18432 bytes"):
        decode_video(film("avi"), "avi")
    with pytest.raises(ValueError, match="unpacks to more than 18432 bytes"):
        decode_audio(music("flac"), "flac")


@pytest.mark.parametrize(
    ("handler", "key"), [(torch_video, ".MP4"), (torch_audio, ".ogg")]
)
def test_without_pyav_the_error_names_the_extra(handler, key, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        MissingExtraError, match=r"'av': pip install 'shardbuild\[av\]'"
    ):
        Decoder([handler])({key[1:]: b""})
    for other in (".mp", ".x", ".fla", "mp4.txt", ".wavx"):
        assert handler(other, b"") is None

"""Sound and films: bytes to numpy arrays and torch tensors, by PyAV.

The extension chooses the one container format that is tried. FFmpeg would guess
another from the bytes, and there are some whose files name other files to open.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.encoders import handler_name
from shardbuild.codecs.extras import import_extra
from shardbuild.codecs.packing import MAX_UNPACKED_BYTES
from shardbuild.codecs.torchdata import as_tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]
    Waves = npt.NDArray[np.float32]

__all__ = [
    "AUDIO_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "decode_audio",
    "decode_video",
    "torch_audio",
    "torch_video",
]

_VIDEO = {
    **dict.fromkeys(("mp4", "mov"), "mov"),
    **dict.fromkeys(("avi", "h264", "mjpeg"), None),
    "mpg": "mpeg",
    "ogv": "ogg",
    "webm": "matroska",
    "wmv": "asf",
}
_AUDIO = {
    **dict.fromkeys(("flac", "mp3", "ogg", "sox", "wav"), None),
    "m4a": "mov",
    "wma": "asf",
}

VIDEO_EXTENSIONS = frozenset(_VIDEO)
"""The extensions that are decoded as films, in lower case."""

AUDIO_EXTENSIONS = frozenset(_AUDIO)
"""The extensions that are decoded as sound, in lower case."""

# What is full volume: of unsigned, short and long integers.
_SCALES = {"u1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31, "i8": 2.0**63}


def decode_video(data: bytes, extension: str) -> tuple[Pixels, Waves, dict[str, Any]]:
    """Decode a film to (frames, sound, facts).

    Frames are uint8, number x height x width x 3; sound is float32, 1 at full volume,
    channels x samples (1 x 0 if there is none); the facts are ``video_fps`` and,
    if there is sound, ``audio_fps``.

    Raises:
        ValueError: the bytes are no film of that extension, or unpack to more
            than `shardbuild.codecs.packing.MAX_UNPACKED_BYTES`.
        MissingExtraError: PyAV is not installed.
    """
    import numpy as np

    av = _av(extension)
    with _opened(av, data, _VIDEO[extension] or extension) as container:
        if not container.streams.video:
            raise ValueError("has no pictures")
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or 0
        facts: dict[str, Any] = {"video_fps": float(rate)}
        streams = [stream]
        if container.streams.audio:
            streams.append(container.streams.audio[0])
            facts["audio_fps"] = container.streams.audio[0].rate
        frames: list[Pixels] = []
        waves: list[Waves] = []
        for frame in _frames(av, container, streams):
            if isinstance(frame, av.VideoFrame):
                frames.append(frame.to_ndarray(format="rgb24"))
            else:
                waves.append(_waves_of(frame))
    if not frames:
        raise ValueError("has no pictures")
    return np.stack(frames), _joined(waves), facts


def decode_audio(data: bytes, extension: str) -> tuple[Waves, int]:
    """Decode sound to (waves, samples a second): float32, channels x samples.

    Raises:
        ValueError: the bytes are no sound of that extension, or unpack to more
            than `shardbuild.codecs.packing.MAX_UNPACKED_BYTES`.
        MissingExtraError: PyAV is not installed.
    """
    av = _av(extension)
    with _opened(av, data, _AUDIO[extension] or extension) as container:
        if not container.streams.audio:
            raise ValueError("has no sound")
        stream = container.streams.audio[0]
        waves = [_waves_of(frame) for frame in _frames(av, container, [stream])]
    if not waves:
        raise ValueError("has no sound")
    return _joined(waves), int(stream.rate)


def torch_video(key: str, data: bytes) -> Any:
    """Decode a film as `decode_video`, to torch tensors.

    A handler for `shardbuild.codecs.handlers.Decoder`.

    Raises:
        ValueError: the bytes are no film of that extension.
        MissingExtraError: PyAV or torch is not installed.

    >>> torch_video(".jpg", b"")
    """
    name = handler_name(key)
    if name not in VIDEO_EXTENSIONS:
        return None
    frames, waves, facts = decode_video(data, name)
    return as_tensor(frames), as_tensor(waves), facts


def torch_audio(key: str, data: bytes) -> Any:
    """Decode sound as `decode_audio`, to a torch tensor and its rate.

    A handler for `shardbuild.codecs.handlers.Decoder`.

    Raises:
        ValueError: the bytes are no sound of that extension.
        MissingExtraError: PyAV or torch is not installed.

    >>> torch_audio(".txt", b"")
    """
    name = handler_name(key)
    if name not in AUDIO_EXTENSIONS:
        return None
    waves, rate = decode_audio(data, name)
    return as_tensor(waves), rate


def _av(extension: str) -> Any:
    return import_extra("av", package="av", extra="av", wanted_by=f"a .{extension}")


def _opened(av: Any, data: bytes, container_format: str) -> Any:
    try:
        return av.open(BytesIO(data), format=container_format)
    except av.FFmpegError as error:
        raise ValueError(f"is no {container_format}: {error}") from error


def _frames(av: Any, container: Any, streams: list[Any]) -> Iterator[Any]:
    """The decoded frames of some streams, as long as they are not too much."""
    num_bytes = 0
    try:
        for frame in container.decode(streams):
            if isinstance(frame, av.VideoFrame):
                num_bytes += 3 * frame.width * frame.height
            else:
                num_bytes += 4 * frame.samples * len(frame.layout.channels)
            if num_bytes > MAX_UNPACKED_BYTES:
                raise ValueError(f"unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            yield frame
    except av.FFmpegError as error:
        raise ValueError(f"is damaged: {error}") from error


def _waves_of(frame: Any) -> Waves:
    """The samples of a frame, channels first, full volume 1."""
    import numpy as np

    waves: npt.NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        waves = waves.reshape(-1, len(frame.layout.channels)).T
    kind = waves.dtype.str[1:]
    waves = np.asarray(waves, np.float32) / np.float32(_SCALES.get(kind, 1))
    return waves - np.float32(1) if kind == "u1" else waves


def _joined(waves: Iterable[Waves]) -> Waves:
    import numpy as np

    parts = list(waves)
    if not parts:
        return np.empty((1, 0), np.float32)
    return np.ascontiguousarray(np.concatenate(parts, axis=1))

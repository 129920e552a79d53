"""Sound and films as torch tensors, by torchaudio and torchvision.

Both read files: the bytes are put into one that lives as long as the reading.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.encoders import handler_name
from shardbuild.codecs.extras import import_extra
from shardbuild.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AUDIO_EXTENSIONS", "VIDEO_EXTENSIONS", "torch_audio", "torch_video"]

AUDIO_EXTENSIONS = frozenset(("flac", "mp3", "sox", "wav", "m4a", "ogg", "wma"))
VIDEO_EXTENSIONS = frozenset(
    ("mp4", "ogv", "mjpeg", "avi", "mov", "h264", "mpg", "webm", "wmv")
)


def torch_video(key: str, data: bytes) -> Any:
    """Decode a film to (frames, sound, facts) by ``torchvision.io.read_video``.

    A handler for `shardbuild.codecs.handlers.Decoder`.

    Raises:
        MissingExtraError: torchvision is not installed, or is one of those that
            no longer read films.

    >>> torch_video(".jpg", b"")
    """
    name = handler_name(key)
    if name not in VIDEO_EXTENSIONS:
        return None
    reader = import_extra(
        "torchvision.io", package="torchvision", extra="video", wanted_by=f"a .{name}"
    )
    if not hasattr(reader, "read_video"):
        raise MissingExtraError(f"a .{name}", "torchvision with io.read_video", "video")
    return _by_file(name, data, lambda path: reader.read_video(path, pts_unit="sec"))


def torch_audio(key: str, data: bytes) -> Any:
    """Decode sound to (waveform, sample rate) by ``torchaudio.load``.

    A handler for `shardbuild.codecs.handlers.Decoder`.

    Raises:
        MissingExtraError: torchaudio is not installed.

    >>> torch_audio(".txt", b"")
    """
    name = handler_name(key)
    if name not in AUDIO_EXTENSIONS:
        return None
    torchaudio = import_extra(
        "torchaudio", package="torchaudio", extra="audio", wanted_by=f"a .{name}"
    )
    return _by_file(name, data, torchaudio.load)


def _by_file(name: str, data: bytes, read: Callable[[str], Any]) -> Any:
    with TemporaryDirectory(prefix="shardbuild-") as folder:
        # The name comes from the lists above, never from the data.
        path = Path(folder, f"field.{name}")
        path.write_bytes(data)
        return read(str(path))

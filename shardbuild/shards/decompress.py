"""Compressed shards as streams of tar bytes, known by their first bytes.

gzip by isal, zstd by zstandard, bzip2 and xz by the standard library. All read
several members or frames in a row, as ``cat a.gz b.gz`` makes them, and bound what
is in memory. A stream that ends early is an error, also where the tar inside
happens to be whole by then.
"""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final, Protocol

from shardbuild.errors import ShardError, TruncatedShardError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Readable", "Source", "compression_of", "decompressed"]

_READ_BYTES: Final = 256 << 10
_MAGICS: Final = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_BZIP2: Final = (b"1AY&SY", b"\x17rE8P\x90")  # a block, or the end of the stream
_SKIPPABLE: Final = b"\x2a\x4d\x18"


class Readable(Protocol):
    """All that reading a shard asks of a stream."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill some of a buffer; 0 at the end."""


def compression_of(head: bytes) -> str | None:
    """Tell how a stream that begins with ``head`` is compressed.

    >>> import bz2
    >>> compression_of(bz2.compress(b"tar")), compression_of(b"0001.jpg")
    ('bzip2', None)
    """
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    if head[1:4] == _SKIPPABLE and head[0] >> 4 == 5:
        return "zstd"
    if head.startswith(b"BZh") and head[4:10] in _BZIP2:
        return "bzip2"
    return None


def decompressed(source: Source, kind: str, url: str) -> Readable:
    """Give the stream that ``source`` is the compressed form of.

    ``kind`` is what `compression_of` says of its first bytes.

    >>> import io, zlib
    >>> source = Source(io.BytesIO(zlib.compress(b"tar", wbits=31)))
    >>> plain = decompressed(source, "gzip", "a.tar.gz")
    >>> buffer = bytearray(8)
    >>> plain.readinto(memoryview(buffer)), buffer[:3]
    (3, bytearray(b'tar'))

    Raises:
        ShardError: Later, by ``readinto``: the stream is damaged. The offset is
            that of the first byte that could not be unpacked.
        TruncatedShardError: Later: the stream ends early.
    """
    return _Checked(_OPENERS[kind](source), url, kind)


class Source(io.RawIOBase):
    """A stream as the decompressors want it: counted, and begun again if need be."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._again = b""
        self.num_bytes = 0
        """How many bytes of the stream were read."""

    def readinto(self, buffer: Any) -> int:
        if self._again:
            count = min(len(self._again), len(buffer))
            buffer[:count] = self._again[:count]
            self._again = self._again[count:]
            return count
        read: int | None = self._stream.readinto(buffer)
        if read is None:
            raise BlockingIOError("the stream would block, which is not supported")
        self.num_bytes += read
        return read

    def push_back(self, data: bytes) -> None:
        """Give ``data`` out again, before all that was not read yet."""
        self._again = data + self._again


class _Checked:
    """Puts url and offset to what goes wrong."""

    def __init__(self, stream: Readable, url: str, kind: str) -> None:
        self._readinto = stream.readinto
        self._url = url
        self._kind = kind
        self._offset = 0

    def readinto(self, buffer: memoryview) -> int:
        try:
            count = self._readinto(buffer)
        except EOFError as error:
            problem = f"the {self._kind} stream ends early"
            raise TruncatedShardError(self._url, problem, self._offset) from error
        except _damage() as error:
            problem = f"the {self._kind} stream is damaged: {error}"
            raise ShardError(self._url, problem, self._offset) from error
        self._offset += count
        return count


class _DamageError(ValueError):
    """A stream that is not what its first bytes say."""


def _damage() -> tuple[type[Exception], ...]:
    """What the codecs raise for damage."""
    import gzip

    import zstandard
    from isal import igzip_lib, isal_zlib

    of_isal: Any = (isal_zlib.error, igzip_lib.error)  # typed as instances
    return _DamageError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, *of_isal


# -- bzip2 and xz -----------------------------------------------------------


class _Stepwise:
    """Streams in a row, by a decompressor that gives out so much at a time."""

    def __init__(self, source: Source, make: Callable[[], Any], padding: int) -> None:
        self._source = source
        self._make = make
        self._padding = padding
        self._decompressor = make()
        self._input = b""

    def readinto(self, buffer: memoryview) -> int:
        while True:
            if self._decompressor.eof and not self._next_stream():
                return 0
            data = b""
            if self._decompressor.needs_input:
                data = self._input or self._source.read(_READ_BYTES) or b""
                self._input = b""
                if not data:
                    raise EOFError
            try:
                plain = self._decompressor.decompress(data, len(buffer))
            except (OSError, lzma.LZMAError) as error:
                raise _DamageError(str(error)) from error
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)

    def _next_stream(self) -> bool:
        """Go on to the next stream; False if there is none."""
        rest = self._decompressor.unused_data
        num_zeros = 0
        while True:
            stripped = rest.lstrip(b"\0") if self._padding else rest
            num_zeros += len(rest) - len(stripped)
            if stripped:
                break
            rest = self._source.read(_READ_BYTES) or b""
            if not rest:
                return self._check_padding(num_zeros)
        self._check_padding(num_zeros)
        self._decompressor = self._make()
        self._input = stripped
        return True

    def _check_padding(self, num_zeros: int) -> bool:
        if self._padding and num_zeros % self._padding:
            raise _DamageError(f"{num_zeros} bytes of padding after a stream")
        return False


def _open_bzip2(source: Source) -> Readable:
    return _Stepwise(source, bz2.BZ2Decompressor, 0)


def _open_xz(source: Source) -> Readable:
    def make() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    return _Stepwise(source, make, 4)


_XZ_MEMORY: Final = 256 << 20


# -- gzip -------------------------------------------------------------------


def _open_gzip(source: Source) -> Readable:
    from isal import igzip

    open_: Any = igzip.open  # has no types
    stream: Readable = open_(source, "rb")
    return stream


# -- zstd -------------------------------------------------------------------


def _open_zstd(source: Source) -> Readable:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    frames: Any = _ZstdFrames(source)
    stream = decompressor.stream_reader(frames, _READ_BYTES, read_across_frames=True)
    return _ZstdChecked(stream, frames)


_ZSTD_WINDOW: Final = 128 << 20


class _ZstdChecked:
    """zstandard takes a cut stream for a whole one; this does not."""

    def __init__(self, stream: Any, frames: _ZstdFrames) -> None:
        self._readinto = stream.readinto
        self._frames = frames

    def readinto(self, buffer: memoryview) -> int:
        count: int = self._readinto(buffer)
        if not count and not self._frames.are_whole:
            raise EOFError
        return count


class _ZstdFrames:
    """Follows the frames of a stream that passes through, block by block.

    A frame is a magic number, a header, blocks with three bytes of size each,
    and perhaps a checksum (RFC 8878).
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ahead = b""
        """The beginning of what is to be looked at, when it came in pieces."""
        self._skip = 0
        self._has_checksum = False
        self._look: Callable[[bytes], int] = self._frame

    @property
    def are_whole(self) -> bool:
        """Whether the stream could end here."""
        is_between = self._look == self._frame
        return is_between and not self._ahead and not self._skip

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size) or b""
        self._follow(data)
        return data

    def _follow(self, data: bytes) -> None:
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        data = self._ahead + data[self._skip :]
        self._skip = position = 0
        while position < len(data):
            # Fourteen bytes are the longest frame header.
            count = self._look(data[position : position + 18])
            if not count:
                break
            position += count
        self._ahead = data[position:]
        if position > len(data):
            self._skip = position - len(data)
            self._ahead = b""

    def _frame(self, head: bytes) -> int:
        """The length of a frame's header; 0 if there is too little of it."""
        if len(head) < 5:
            return 0
        if head[1:4] == _SKIPPABLE:
            if len(head) < 8:
                return 0
            return 8 + int(struct.unpack_from("<I", head, 4)[0])
        flags = head[4]
        is_single = flags >> 5 & 1
        size_bytes = (is_single, 2, 4, 8)[flags >> 6]
        dictionary_bytes = (0, 1, 2, 4)[flags & 3]
        self._has_checksum = bool(flags & 4)
        self._look = self._block
        return 5 + (1 - is_single) + dictionary_bytes + size_bytes

    def _block(self, head: bytes) -> int:
        """The length of a block with its header; 0 if there is too little of it."""
        if len(head) < 3:
            return 0
        word = int.from_bytes(head[:3], "little")
        is_last, kind, size = word & 1, word >> 1 & 3, word >> 3
        num_bytes = 3 + (1 if kind == 1 else size)
        if is_last:
            self._look = self._frame
            num_bytes += 4 if self._has_checksum else 0
        return num_bytes


_OPENERS: Final[dict[str, Callable[[Source], Readable]]] = {
    "bzip2": _open_bzip2,
    "gzip": _open_gzip,
    "xz": _open_xz,
    "zstd": _open_zstd,
}

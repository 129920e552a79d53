"""The part of a tar stream that is in memory: a window that moves forward.

Two kinds. A `StreamWindow` reads whatever has ``readinto`` and can only go on. A
`FileWindow` reads a regular file by ``pread``: it can hop over what nobody wants,
and takes a large payload straight into the bytes that the caller gets, one copy.

A window's memory is one anonymous mapping that is filled again and again (fresh
pages for every read would cost more than the read), and slices of it are bytes.
"""

from __future__ import annotations

import io
import mmap
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, BinaryIO, Final

from shardbuild.errors import TruncatedShardError
from shardbuild.shards.tarparse import BLOCK, padded
from shardbuild.storage.meter import current_meter

if TYPE_CHECKING:
    from shardbuild.shards.decompress import Readable

__all__ = ["WINDOW_BYTES", "BufferWindow", "FileWindow", "StreamWindow", "Window"]

WINDOW_BYTES: Final = 2 << 20

_AHEAD_BYTES: Final = 128 << 10
_FIRST_HOP_BYTES: Final = 4 << 10
_MAX_HOP_BYTES: Final = 64 << 10
_DIRECT_BYTES: Final = 64 << 10
_MAX_PREAD: Final = 1 << 30

Buffer = mmap.mmap | bytes | memoryview

_advise = getattr(os, "posix_fadvise", None)

_idle: list[mmap.mmap] = []
_MAX_IDLE: Final = 2


def _mapping() -> mmap.mmap:
    """Take an idle mapping, or make one: it is as long as a window."""
    try:
        return _idle.pop()
    except IndexError:
        return mmap.mmap(-1, WINDOW_BYTES)


class Window(ABC):
    """Bytes ``base`` to ``end`` of a tar stream, in ``buffer`` from 0.

    ``keep`` is the first byte that must stay when the window moves.
    """

    __slots__ = (
        "ahead",
        "at_end",
        "base",
        "buffer",
        "end",
        "keep",
        "member",
        "url",
    )

    buffer: Buffer
    """Slices of it are bytes, but for a `BufferWindow` on a memoryview."""

    def __init__(self, url: str, buffer: Buffer, start: int = 0) -> None:
        self.url = url
        self.buffer = buffer
        self.base = start
        self.end = start
        self.keep = start
        self.member = b""
        """The name of the member that is being read."""
        self.at_end = False
        self.ahead = WINDOW_BYTES
        """How much to have in memory when reading for something that is needed."""

    @abstractmethod
    def close(self) -> None:
        """Give the memory back; the stream belongs to who opened it."""
        ...

    @abstractmethod
    def fill(self, start: int, num_bytes: int = WINDOW_BYTES) -> None:
        """Move so that the window begins at ``start``, and read on.

        Afterwards it holds ``num_bytes``, or all that there is.
        """
        ...

    def has(self, start: int, num_bytes: int) -> bool:
        """Have these bytes in the window, if the stream has them."""
        stop = start + num_bytes
        if stop > self.end or start < self.base:
            keep = min(self.keep, start)
            self.fill(keep, min(max(stop - keep, self.ahead), WINDOW_BYTES))
        return stop <= self.end

    def payload(self, start: int, size: int) -> bytes:
        """Give a member's bytes; what lies before them may be forgotten.

        Raises:
            TruncatedShardError: The stream ends before they do.
        """
        self.keep = start
        if start + size > self.end:
            if size > _DIRECT_BYTES:
                return self._large_payload(start, size)
            if not self.has(start, size):
                raise self.truncated()
        position = start - self.base
        return bytes(self.buffer[position : position + size])

    def truncated(self, what: str | None = None) -> TruncatedShardError:
        """Make the error for a stream that ends in ``what``, or in ``member``."""
        what = what or f"member {self.member!r}"
        return TruncatedShardError(self.url, f"the shard ends in {what}", self.end)

    @abstractmethod
    def _large_payload(self, start: int, size: int) -> bytes:
        """Give a payload that is not wholly in the window, and may never be."""
        ...


class BufferWindow(Window):
    """A window that shows all there is: bytes in memory, not copied."""

    __slots__ = ()

    def __init__(self, data: bytes | memoryview, url: str) -> None:
        super().__init__(url, data)
        self.end = len(data)
        self.at_end = True

    def close(self) -> None:
        """Do nothing: the memory is not ours."""

    def fill(self, start: int, num_bytes: int = WINDOW_BYTES) -> None:
        """Do nothing: all is there."""

    def _large_payload(self, start: int, size: int) -> bytes:
        raise self.truncated()


class _MovingWindow(Window):
    """A window that moves over more than it can hold."""

    __slots__ = ("_memory",)

    def __init__(self, url: str, start: int) -> None:
        self._memory = _mapping()
        super().__init__(url, self._memory, start)

    def close(self) -> None:
        if len(_idle) < _MAX_IDLE:
            _idle.append(self._memory)

    def fill(self, start: int, num_bytes: int = WINDOW_BYTES) -> None:
        if start != self.base:
            self._move(start)
        view = memoryview(self._memory)
        while not self.at_end and self.end - self.base < num_bytes:
            count = self._read(view[self.end - self.base : num_bytes])
            self.at_end = not count
            self.end += count

    def _move(self, start: int) -> None:
        rest = self.end - start
        if start < self.base or rest < 0:
            self._jump(start)
            return
        self._memory.move(0, start - self.base, rest)
        self.base = start

    def _large_payload(self, start: int, size: int) -> bytes:
        # A header cannot ask for memory by a number: half of the data has to be
        # there before room is made for all of it, and then it is exactly that.
        whole = io.BytesIO()
        view = memoryview(self._memory)
        stop = start + size
        while start < stop:
            self.fill(start, min(stop - start, WINDOW_BYTES))
            count = min(self.end, stop) - start
            if not count:
                raise self.truncated()
            done = whole.tell()
            if done <= size // 2 < done + count:
                whole.seek(size - 1)
                whole.write(b"\0")
                whole.seek(done)
            whole.write(view[:count])
            start += count
        return whole.getvalue()

    @abstractmethod
    def _jump(self, start: int) -> None:
        """Begin the window where nothing was read yet."""
        ...

    @abstractmethod
    def _read(self, view: memoryview) -> int:
        """Read what comes after ``end``; 0 at the end of the stream."""
        ...


class StreamWindow(_MovingWindow):
    """A window on anything that has ``readinto``.

    ``start`` is the offset of the first byte that the stream gives.
    """

    __slots__ = ("_readinto",)

    def __init__(self, stream: Readable, url: str, start: int = 0) -> None:
        super().__init__(url, start)
        self._readinto = stream.readinto

    def _read(self, view: memoryview) -> int:
        return self._readinto(view)

    def _jump(self, start: int) -> None:
        view = memoryview(self._memory)
        while self.end < start:
            count = self._read(view[: min(start - self.end, WINDOW_BYTES)])
            if not count:
                self.at_end = True
                self.base = self.end
                raise self.truncated()
            self.end += count
        self.base = start


class FileWindow(_MovingWindow):
    """A window on a regular file.

    ``start`` is the offset of the byte that the file stands at.
    """

    __slots__ = ("_after", "_fd", "_meter", "_origin", "_size", "hopping")

    def __init__(self, stream: BinaryIO, url: str, start: int = 0) -> None:
        super().__init__(url, start)
        self._fd = stream.fileno()
        self._origin = stream.tell() - start
        self._size = max(os.fstat(self._fd).st_size - self._origin, 0)
        self._meter = current_meter()
        self.ahead = _AHEAD_BYTES
        self.hopping = False
        """Whether to read only headers and small data through the window."""
        self._after = 0

    @property
    def size(self) -> int:
        """How long the tar is."""
        return self._size

    def will_need(self, offset: int, num_bytes: int) -> None:
        """Have the system read ahead, so that small reads do not wait each."""
        if _advise is not None:
            _advise(self._fd, self._origin + offset, num_bytes, os.POSIX_FADV_WILLNEED)

    def read_at(self, offset: int, view: memoryview) -> int:
        """Read bytes beside the window; fewer at the end of the file."""
        count = os.preadv(self._fd, [view], self._origin + offset)
        self._meter.count_read(count)
        return count

    def bytes_at(self, offset: int, num_bytes: int) -> bytes:
        """Read bytes beside the window.

        Raises:
            TruncatedShardError: The file has become shorter.
        """
        data = os.pread(self._fd, num_bytes, self._origin + offset)
        self._meter.count_read(len(data))
        if len(data) < num_bytes:
            problem = "the shard has become shorter while it was read"
            raise TruncatedShardError(self.url, problem, offset + len(data))
        return data

    def hop(self, *, on: bool) -> None:
        """Say that most of what comes is large payloads, or no longer."""
        self.hopping = on
        self.ahead = _FIRST_HOP_BYTES if on else _AHEAD_BYTES

    def _read(self, view: memoryview) -> int:
        return self.read_at(self.end, view)

    def _jump(self, start: int) -> None:
        if start > self._size:
            self.end = self._size
            raise self.truncated()
        self.base = self.end = start
        self.at_end = False

    def _large_payload(self, start: int, size: int) -> bytes:
        if start + size > self._size:
            self.end = self._size
            raise self.truncated()
        if self.hopping:
            # What lay between two large payloads will do so again.
            between = min(max(start - self._after, BLOCK), _MAX_HOP_BYTES)
            self.ahead = between
            self._after = start + padded(size)
        if size <= _MAX_PREAD:
            data = os.pread(self._fd, size, self._origin + start)
            self._meter.count_read(len(data))
            if len(data) == size:
                return data
        # More than one pread gives, or the file has become shorter.
        return super()._large_payload(start, size)

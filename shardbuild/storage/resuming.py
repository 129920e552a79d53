"""Reading a file of a server that gives one stream, and going on where it broke.

For servers that are asked for a file from a place on, and not for ranges: ftp, sftp.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from typing import TYPE_CHECKING, Any, Protocol

from shardbuild.errors import StorageError
from shardbuild.storage.filesystems import is_permanent, store_error
from shardbuild.storage.meter import current_meter
from shardbuild.storage.retries import waits

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Remote", "ResumingReader"]

logger = logging.getLogger(__name__)


class Remote(Protocol):
    """A file on a server, which may have to be reached anew."""

    num_bytes: int | None
    """None when the server does not tell."""

    def open_at(self, position: int) -> Any:
        """The file from a place on: something with ``readinto`` and ``close``.

        An exception if it is another file now than it was at first.
        """
        ...

    def close(self) -> None:
        """Let go of the server."""
        ...


class ResumingReader(io.RawIOBase):
    """Reads a remote file forward; a connection that breaks is made again.

    Up to 5 times in a row, with growing waits, and always from the byte on that
    comes next; at first that is ``start``. An end before the file's size is no end.
    """

    def __init__(self, url: str, remote: Remote, start: int = 0) -> None:
        super().__init__()
        self.name = url
        self._meter = current_meter()
        self._remote = remote
        self._position = start
        self._waits: Iterator[float] = waits()
        self._file: Any = None
        try:
            self._file = remote.open_at(start)
        except Exception as error:
            remote.close()
            raise store_error(url, error) from error

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the front of ``buffer``; 0 only at the very end.

        Raises:
            StorageError: The server fails, also when asked again, or its file
                changed while it was read.
        """
        if self.closed:
            raise ValueError("I/O operation on closed file")
        while True:
            try:
                num_bytes = self._read_some(buffer)
            except Exception as error:  # noqa: BLE001 - what cannot pass is raised
                self._wait_after(error)
            else:
                return num_bytes

    def _read_some(self, buffer: Any) -> int:
        if self._file is None:
            self._file = self._remote.open_at(self._position)
        num_bytes = int(self._file.readinto(buffer))
        self._position += num_bytes
        self._meter.count_read(num_bytes)
        size = self._remote.num_bytes
        if num_bytes:
            self._waits = waits()
        elif len(buffer) and size not in (None, self._position):
            raise OSError(f"ended at byte {self._position} of {size}")
        return num_bytes

    def _wait_after(self, error: Exception) -> None:
        """Wait before the server is asked again, if that can help."""
        self._drop()
        wait = None if is_permanent(error) else next(self._waits, None)
        if wait is None:
            problem = store_error(self.name, error).problem
            problem = f"at byte {self._position}: {problem}"
            raise StorageError(self.name, problem) from error
        words = "%s: going on at byte %d in %.1f s after %r"
        logger.info(words, self.name, self._position, wait, error)
        threading.Event().wait(wait)

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):  # it is broken: how it ends is no news
                file.close()

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._drop()
            self._remote.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()

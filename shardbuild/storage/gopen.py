"""Open any url for reading or writing bytes."""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast, overload

from shardbuild.errors import GopenException, StorageError
from shardbuild.storage.filesystems import is_missing, store_error
from shardbuild.storage.meter import current_meter
from shardbuild.storage.publish import open_atomic
from shardbuild.storage.schemes import gopen_schemes, handler_of
from shardbuild.storage.urlparts import StorageOptions, local_path, protocol_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LocalReader", "gopen", "gopen_at", "gopen_schemes"]


@overload
def gopen(
    url: str,
    mode: str = "rb",
    bufsize: int = 0,
    *,
    storage_options: StorageOptions | None = None,
    allow_missing: Literal[False] = False,
) -> BinaryIO: ...


@overload
def gopen(
    url: str,
    mode: str = "rb",
    bufsize: int = 0,
    *,
    storage_options: StorageOptions | None = None,
    allow_missing: bool,
) -> BinaryIO | None: ...


def gopen(
    url: str,
    mode: str = "rb",
    bufsize: int = 0,
    *,
    storage_options: StorageOptions | None = None,
    allow_missing: bool = False,
) -> BinaryIO | None:
    """Open a url: a path, any ``protocol://`` of fsspec, ``pipe:command``, ``-``.

    Protocols that are in `gopen_schemes` are opened by the handlers there.

    Reading (``rb``) gives an unbuffered binary file: ``readinto`` may fill less
    than asked, and 0 bytes mean that all was read and the source is content. A
    ``bufsize`` puts a buffer of so many bytes before it, for small reads and lines.
    Objects of a store come by parallel ranges, retried, in at most 64 MiB. With
    ``allow_missing=True`` the answer is None for a file that is not there; that a
    command lacks what it should read, only its status can say.

    Writing (``wb``) publishes at ``close`` and only then: under an exception in
    a ``with`` block, by ``discard()``, or by being forgotten, nothing becomes
    visible. A command gets its end of input only when all was written.

    >>> with gopen("memory://doc/gopen.txt", "wb") as file:
    ...     _ = file.write(b"bytes")
    >>> gopen("memory://doc/gopen.txt").read()
    b'bytes'
    >>> gopen("pipe:echo hello; exit 3").read()
    Traceback (most recent call last):
    ...
    shardbuild.errors.PipeError: pipe:echo hello; exit 3: the command ended with \
exit status 3

    Raises:
        GopenException: There is no such file, or it cannot be opened.
        PipeError: The command failed; raised by reads, writes and ``close``.
        MissingExtraError: The store's package is not installed.
        ValueError: The mode is neither ``rb`` nor ``wb``.
    """
    if mode not in ("rb", "wb"):
        raise ValueError(f"expected mode 'rb' or 'wb', got mode={mode!r}")
    try:
        if mode == "wb":
            return _open_to_write(url, storage_options)
        opened = _open_to_read(url, storage_options)
    except StorageError as error:
        cause = error.__cause__
        if allow_missing and mode == "rb" and cause is not None and is_missing(cause):
            return None
        if isinstance(error, GopenException):
            raise
        raise GopenException(error.url, error.problem) from (cause or error)
    if bufsize > 0:
        return io.BufferedReader(cast("io.RawIOBase", opened), bufsize)
    return opened


def gopen_at(
    url: str,
    start: int,
    *,
    storage_options: StorageOptions | None = None,
    budget_bytes: int | None = None,
) -> BinaryIO:
    """Open a url for reading from byte ``start`` on.

    What lies before is not read of a local file, nor of a store that gives ranges;
    of anything else it is read and thrown away.

    >>> with gopen("memory://doc/gopen_at.txt", "wb") as file:
    ...     _ = file.write(b"some bytes")
    >>> gopen_at("memory://doc/gopen_at.txt", 5).read()
    b'bytes'

    Args:
        url: As of `gopen`.
        start: How many bytes are left out.
        storage_options: What to pass on to fsspec.
        budget_bytes: How much of an object of a store may be on its way or kept,
            instead of 64 MiB; not less than two blocks of 256 KiB.

    Raises:
        StorageError: As `gopen`, but for its name.
    """
    return _open_to_read(url, storage_options, start, budget_bytes)


def _open_by(handler: Callable[..., Any], url: str, mode: str) -> BinaryIO:
    """What a handler of the user's opens, its errors with the url."""
    try:
        return cast("BinaryIO", handler(url, mode))
    except OSError as error:
        raise store_error(url, error) from error


def _open_to_read(
    url: str,
    options: StorageOptions | None,
    start: int = 0,
    budget_bytes: int | None = None,
) -> BinaryIO:
    path = local_path(url)
    handler = handler_of(url)
    protocol = protocol_of(url)
    opened: Any
    if path is not None:
        opened = LocalReader(path, url)
        if opened.seekable():
            opened.seek(start)
            return cast("BinaryIO", opened)
    elif handler is not None:
        opened = _open_by(handler, url, "rb")
    elif protocol in (None, "pipe"):
        from shardbuild.storage.pipes import PipeReader, StdinReader

        opened = StdinReader() if protocol is None else PipeReader(url)
    else:
        from shardbuild.storage.ranges import open_store

        return cast("BinaryIO", open_store(url, options, start, budget_bytes))
    if start:
        from shardbuild.storage.ranges import skipped

        opened = skipped(opened, start)
    return cast("BinaryIO", opened)


def _open_to_write(url: str, options: StorageOptions | None) -> BinaryIO:
    handler = handler_of(url)
    if handler is not None:
        return _open_by(handler, url, "wb")
    protocol = protocol_of(url)
    opened: Any
    if protocol in (None, "pipe"):
        from shardbuild.storage.pipes import PipeWriter, StdoutWriter

        opened = StdoutWriter() if protocol is None else PipeWriter(url)
    else:
        opened = open_atomic(url, storage_options=options)
    return cast("BinaryIO", opened)


class LocalReader(io.FileIO):
    """A raw local file that counts its reads and names its url in errors."""

    def __init__(self, path: str, url: str) -> None:
        self._url = url
        self._meter = current_meter()
        try:
            super().__init__(path, "rb")
        except OSError as error:
            raise store_error(url, error) from error
        with contextlib.suppress(OSError, AttributeError):  # a fifo, or macOS
            os.posix_fadvise(self.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def readinto(self, buffer: Any) -> int:
        num_bytes = self._guarded(super().readinto, buffer)
        self._meter.count_read(num_bytes)
        return cast("int", num_bytes)

    def read(self, size: int | None = -1) -> bytes:
        data = self._guarded(super().read, size)
        self._meter.count_read(len(data))
        return cast("bytes", data)

    def readall(self) -> bytes:
        data = self._guarded(super().readall)
        self._meter.count_read(len(data))
        return cast("bytes", data)

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except OSError as error:
            raise store_error(self._url, error) from error

"""Nothing is visible before it is whole: files that appear at ``close``.

Local files are written under a temporary name in the same folder and renamed.
Objects of S3 and GCS are uploaded in parts and completed at ``close``; in other
stores a temporary object is moved to its name.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import re
import secrets
import stat
import weakref
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from shardbuild.errors import ShardbuildError, StorageError
from shardbuild.storage.filesystems import is_missing, store_error
from shardbuild.storage.meter import current_meter
from shardbuild.storage.urlparts import (
    StorageOptions,
    local_folder,
    local_path,
    protocol_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

__all__ = [
    "AtomicFile",
    "find_bytes",
    "open_atomic",
    "read_bytes",
    "remove_leftovers",
    "write_bytes",
]

_MAX_BUFFERS = 1024  # IOV_MAX of Linux
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp", re.DOTALL)
_ONE_STREAM = ("ftp", "ftps", "scp", "sftp", "ssh")
_MAX_NAME_BYTES = 200  # of the 255 of a file system, less what makes it temporary


def open_atomic(
    url: str, *, storage_options: StorageOptions | None = None, durable: bool = False
) -> AtomicFile:
    """Open a file or an object that appears, whole, when it is closed.

    Folders that lack are made. ``durable=True`` waits until a local file and its
    name are on the disk. A local path that is no file but, say, ``/dev/null`` or
    a fifo is written as it is.

    >>> with open_atomic("memory://doc/atomic.txt") as file:
    ...     _ = file.writev([b"all ", b"or nothing"])
    >>> read_bytes("memory://doc/atomic.txt")
    b'all or nothing'

    Raises:
        StorageError: It cannot be written there. Nothing is left behind.
    """
    path = local_path(url)
    if path is not None:
        if _is_special(path, url):
            return _SpecialFile(url, path)
        return _LocalFile(url, path, durable=durable)
    from shardbuild.storage.schemes import is_stream

    if is_stream(url):
        raise StorageError(url, "is a stream: it cannot be published at once")
    from shardbuild.storage.uploads import open_upload

    return open_upload(url, storage_options)


class AtomicFile(io.RawIOBase):
    """A file being written that nobody sees yet.

    ``close`` publishes it and ``discard`` forgets it; the first of the two
    counts. A ``with`` block that raises discards, and so does the end of a
    process or of the last reference.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.name = url
        self._meter = current_meter()
        self._position = 0
        self._pid = os.getpid()
        self._is_open = False

    def _opened(self) -> None:
        """From here on there is something to discard."""
        self._is_open = True
        _open_files.add(self)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        """Write all of a bytes-like object.

        Raises:
            StorageError: It could not be written; the file is discarded.
        """
        return self._guarded(self._write, data)

    def writev(self, buffers: Sequence[Any]) -> int:
        """Write several buffers of bytes, one after the other.

        Locally by one system call for each 1,024 of them.
        """
        return self._guarded(self._writev, buffers)

    def close(self) -> None:
        """Publish.

        Raises:
            StorageError: It could not be published; the file is discarded.
        """
        if self._is_open:
            self._guarded(self._publish)
            self._is_open = False
            super().close()

    def discard(self) -> None:
        """Leave nothing behind; does nothing once closed or discarded."""
        if self._is_open:
            self._is_open = False
            try:
                if self._pid == os.getpid():  # a forked child forgets its copy only
                    self._discard()
            finally:
                super().close()

    def _guarded(self, step: Any, *arguments: Any) -> int:
        if not self._is_open:
            raise ValueError("I/O operation on closed file")
        try:
            result: int = step(*arguments)
        except BaseException as error:
            self._discard_after(error)
            if isinstance(error, Exception) and not isinstance(error, ShardbuildError):
                raise store_error(self.name, error) from error
            raise
        return result

    def _discard_after(self, error: BaseException) -> None:
        try:
            self.discard()
        except Exception as another:  # noqa: BLE001 - told with the first error
            error.add_note(f"and it could not be discarded: {another}")

    @abstractmethod
    def _write(self, data: Any) -> int:
        """Take all of a bytes-like object."""

    def _writev(self, buffers: Sequence[Any]) -> int:
        return sum(self._write(buffer) for buffer in buffers)

    @abstractmethod
    def _publish(self) -> None:
        """Make what was taken visible, at once."""

    @abstractmethod
    def _discard(self) -> None:
        """Leave nothing of it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._discard_after(error)

    def __del__(self) -> None:
        if getattr(self, "_is_open", False):
            self.discard()


_open_files: weakref.WeakSet[AtomicFile] = weakref.WeakSet()


@atexit.register
def _discard_open_files() -> None:
    """Leave nothing of what a process had open when it ended."""
    for file in list(_open_files):
        file.discard()


class _LocalFile(AtomicFile):
    """A temporary file beside its place, renamed into it."""

    def __init__(self, url: str, path: str, *, durable: bool = False) -> None:
        super().__init__(url)
        self._path = path
        self._durable = durable
        folder = local_folder(path)
        name = temporary_name(os.path.basename(path))
        self._temporary = os.path.join(folder, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            os.makedirs(folder, exist_ok=True)
            self._fd = os.open(self._temporary, flags, 0o666)
        except OSError as error:
            raise store_error(url, error) from error
        self._opened()

    def fileno(self) -> int:
        return self._fd

    def _write(self, data: Any) -> int:
        num_bytes = os.write(self._fd, data)
        self._meter.count_write(num_bytes)
        self._position += num_bytes
        with memoryview(data) as view:
            if num_bytes != view.nbytes:
                num_bytes += self._write_rest((view,), num_bytes)
        return num_bytes

    def _writev(self, buffers: Sequence[Any]) -> int:
        total = 0
        for first in range(0, len(buffers), _MAX_BUFFERS):
            some = buffers[first : first + _MAX_BUFFERS]
            num_bytes = os.writev(self._fd, some)
            self._meter.count_write(num_bytes)
            self._position += num_bytes
            if num_bytes != sum(map(len, some)):
                num_bytes += self._write_rest(some, num_bytes)
            total += num_bytes
        return total

    def _write_rest(self, buffers: Sequence[Any], done: int) -> int:
        """Write what a write left over: the disk is full, or a signal came."""
        written = 0
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            skip = min(done, len(view))
            done -= skip
            while skip < len(view):
                num_bytes = os.write(self._fd, view[skip:])
                self._meter.count_write(num_bytes)
                self._position += num_bytes
                skip += num_bytes
                written += num_bytes
        return written

    def _publish(self) -> None:
        if self._durable:
            os.fsync(self._fd)
        fd, self._fd = self._fd, -1
        os.close(fd)
        os.replace(self._temporary, self._path)
        if self._durable:
            _sync_folder(local_folder(self._path))

    def _discard(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)


class _SpecialFile(AtomicFile):
    """A device, a fifo, a socket: there is nothing to rename."""

    def __init__(self, url: str, path: str) -> None:
        super().__init__(url)
        try:
            self._file = io.FileIO(path, "wb")
        except OSError as error:
            raise store_error(url, error) from error
        self._opened()

    def fileno(self) -> int:
        return self._file.fileno()

    def _write(self, data: Any) -> int:
        with memoryview(data) as given, given.cast("B") as view:
            done = 0
            while done < len(view):
                done += self._file.write(view[done:])
        self._meter.count_write(done)
        self._position += done
        return done

    def _publish(self) -> None:
        self._file.close()

    def _discard(self) -> None:
        self._file.close()


def _is_special(path: str, url: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise store_error(url, error) from error
    if stat.S_ISDIR(mode):
        raise StorageError(url, "is a folder")
    return not stat.S_ISREG(mode)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def temporary_name(name: str) -> str:
    """A name that no glob for ``name`` matches, for a file not whole yet."""
    short = os.fsencode(name)[:_MAX_NAME_BYTES].decode("utf-8", "ignore")
    return f".{short}.{secrets.token_hex(8)}.tmp"


def final_name(name: str) -> str | None:
    """The name that a temporary file was to get; None for any other file.

    >>> final_name(temporary_name("train-000000.tar"))
    'train-000000.tar'
    >>> final_name("train-000000.tar"), final_name(".notes.tmp")
    (None, None)
    """
    match = _TEMPORARY.fullmatch(name)
    return match[1] if match else None


def write_bytes(
    url: str, data: Any, *, storage_options: StorageOptions | None = None
) -> None:
    """Publish a small document at once.

    >>> write_bytes("memory://doc/small.json", b"{}")
    """
    with open_atomic(url, storage_options=storage_options) as file:
        file.write(data)


def read_bytes(url: str, *, storage_options: StorageOptions | None = None) -> bytes:
    """All bytes of a url; of a store's object by a single request.

    Raises:
        StorageError: There is no such file, or it cannot be read.
    """
    from shardbuild.storage.schemes import is_stream
    from shardbuild.storage.urlparts import is_remote

    # Of a server of ftp fsspec says that it has no file, whatever went wrong.
    is_one_stream = is_stream(url) or protocol_of(url) in _ONE_STREAM
    if is_remote(url) and not is_one_stream:
        from shardbuild.storage.sources import open_source

        source = open_source(url, storage_options)
        try:
            return source.fetch_all()
        finally:
            source.count(current_meter())
    from shardbuild.storage.gopen import gopen

    with gopen(url) as file:
        return file.read()


def find_bytes(
    url: str, *, storage_options: StorageOptions | None = None
) -> bytes | None:
    """All bytes of a url, or None if there is no such file, by a single request.

    >>> write_bytes("memory://doc/found.txt", b"here")
    >>> find_bytes("memory://doc/found.txt"), find_bytes("memory://doc/lost.txt")
    (b'here', None)

    Raises:
        StorageError: It cannot be read, or the store cannot be asked.
    """
    try:
        return read_bytes(url, storage_options=storage_options)
    except StorageError as error:
        if error.__cause__ is not None and is_missing(error.__cause__):
            return None
        raise


def remove_leftovers(
    url_of_folder: str,
    is_ours: Callable[[str], bool],
    *,
    storage_options: StorageOptions | None = None,
) -> None:
    """Delete what killed writers left in a folder.

    Temporary files, and on S3 pending uploads, of names that ``is_ours`` says yes
    to. Call it only while nobody writes such names there.
    """
    folder = local_path(url_of_folder)
    if folder is None:
        from shardbuild.storage.uploads import remove_remote_leftovers

        remove_remote_leftovers(url_of_folder, is_ours, storage_options)
        return
    try:
        names = os.listdir(folder or ".")
        for name in names:
            whole = final_name(name)
            if whole is not None and is_ours(whole):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, name))
    except FileNotFoundError:
        return
    except OSError as error:
        raise store_error(url_of_folder, error) from error

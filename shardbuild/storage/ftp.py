"""``ftp://`` and ``ftps://``: one stream for each file, in and out.

fsspec's own file of ftp asks for each 64 KiB anew; here its file system only
connects, lists and tells sizes.
"""

from __future__ import annotations

import contextlib
import ftplib
import re
import ssl
from typing import TYPE_CHECKING, Any

from fsspec.implementations.ftp import FTPFileSystem

from shardbuild.errors import StorageError
from shardbuild.storage.filesystems import store_error
from shardbuild.storage.publish import AtomicFile, temporary_name
from shardbuild.storage.resuming import ResumingReader

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

__all__ = ["FtpUpload", "SecureFTPFileSystem", "open_ftp"]

_DENIED = re.compile(r"denied|permission|permitted|privilege", re.IGNORECASE)
_NO_FILE = re.compile(r"is a directory|not a (regular|plain)", re.IGNORECASE)


def open_ftp(url: str, fs: Any, path: str, start: int = 0) -> ResumingReader:
    """Open a file of a server of ftp for reading forward from byte ``start`` on.

    Raises:
        StorageError: There is no such file, or it cannot be reached.
    """
    return ResumingReader(url, _FtpRemote(url, fs, path), start)


class _FtpRemote:
    """See `resuming.Remote`."""

    def __init__(self, url: str, fs: Any, path: str) -> None:
        self.num_bytes: int | None = None
        self._url = url
        self._fs = fs
        self._path = path
        self._mark: tuple[int | None, str | None] | None = None
        self._is_fresh = True

    def open_at(self, position: int) -> _FtpStream:
        with _plainly(self._url):
            if not self._is_fresh:
                self._fs.ftp.close()
                self._fs._connect()
            self._is_fresh = False
            ftp: ftplib.FTP = self._fs.ftp
            ftp.voidcmd("TYPE I")
            size = self._told(ftp, f"SIZE {self._path}")
            self.num_bytes = int(size) if size and size.isdigit() else None
            mark = (self.num_bytes, self._told(ftp, f"MDTM {self._path}"))
            if self._mark not in (None, mark):
                raise StorageError(self._url, "changed while it was read")
            self._mark = mark
            data = ftp.transfercmd(f"RETR {self._path}", position or None)
            return _FtpStream(self._url, ftp, data)

    def _told(self, ftp: ftplib.FTP, command: str) -> str | None:
        """The answer to a question that not every server knows."""
        try:
            return ftp.sendcmd(command)[3:].strip()
        except ftplib.error_perm:
            return None

    def close(self) -> None:
        self._fs.ftp.close()


class _FtpStream:
    """The connection that a file comes by, and the server's word at its end."""

    def __init__(self, url: str, ftp: ftplib.FTP, data: socket.socket) -> None:
        self._url = url
        self._ftp = ftp
        self._data = data
        self._is_ended = False

    def readinto(self, buffer: Any) -> int:
        if self._is_ended:
            return 0
        num_bytes = self._data.recv_into(buffer)
        if not num_bytes and len(buffer):
            self._is_ended = True
            self._data.close()
            with _plainly(self._url):
                self._ftp.voidresp()
        return num_bytes

    def close(self) -> None:
        self._data.close()


@contextlib.contextmanager
def _plainly(url: str) -> Iterator[None]:
    """The answers of a server as errors of which others know what they mean."""
    try:
        yield
    except ftplib.error_perm as error:
        text = str(error)
        if _DENIED.search(text):
            raise PermissionError(text) from error
        if text.startswith("550") and not _NO_FILE.search(text):
            raise FileNotFoundError(url) from error
        raise StorageError(url, text) from error
    except (ftplib.Error, EOFError) as error:
        raise OSError(f"the server of ftp: {error}") from error


class FtpUpload(AtomicFile):
    """Sent under a temporary name by one stream, and renamed."""

    def __init__(self, url: str, fs: Any, path: str) -> None:
        super().__init__(url)
        self._fs = fs
        self._path = path
        folder, slash, name = path.rpartition("/")
        self._temporary = f"{folder}{slash}{temporary_name(name)}"
        try:
            if folder:
                fs.makedirs(folder, exist_ok=True)
            with _plainly(url):
                fs.ftp.voidcmd("TYPE I")
                self._data: socket.socket = fs.ftp.transfercmd(
                    f"STOR {self._temporary}"
                )
        except Exception as error:
            fs.ftp.close()
            raise store_error(url, error) from error
        self._opened()

    def _write(self, data: Any) -> int:
        with memoryview(data) as view:
            self._data.sendall(view)
            self._position += view.nbytes
            self._meter.count_write(view.nbytes)
            return view.nbytes

    def _publish(self) -> None:
        with _plainly(self.name):
            self._end_of_data()
            self._fs.ftp.voidresp()
            with contextlib.suppress(ftplib.error_perm):  # it cannot tell
                size = self._fs.ftp.size(self._temporary)
                if size not in (None, self._position):
                    problem = f"the server kept {size} of {self._position} bytes"
                    raise StorageError(self.name, problem)
            self._fs.ftp.rename(self._temporary, self._path)
        self._fs.ftp.close()

    def _end_of_data(self) -> None:
        if isinstance(self._data, ssl.SSLSocket):
            self._data.unwrap()
        self._data.close()

    def _discard(self) -> None:
        self._data.close()
        try:
            self._fs.ftp.close()
            self._fs._connect()  # what the old connection waits for is not to be known
            with _plainly(self.name):
                self._fs.ftp.delete(self._temporary)
        except FileNotFoundError:
            return
        except Exception as error:
            raise store_error(self.name, error) from error
        finally:
            self._fs.ftp.close()


class SecureFTPFileSystem(FTPFileSystem):  # type: ignore[misc]
    """Ftp through TLS, with a certificate that is looked at.

    From the first byte on, at port 990; with ``explicit=True`` after asking for it
    (``AUTH TLS``), at port 21. ``ssl_context`` replaces the system's certificates.
    """

    protocol = "ftps"

    def __init__(
        self,
        host: str,
        port: int | None = None,
        *,
        explicit: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        **options: Any,
    ) -> None:
        self._is_explicit = explicit
        self._context = ssl_context or ssl.create_default_context()
        super().__init__(host, port or (21 if explicit else 990), **options)

    def _connect(self) -> None:
        kind = ftplib.FTP_TLS if self._is_explicit else _ImplicitTls
        self.ftp = kind(
            context=self._context, timeout=self.timeout, encoding=self.encoding
        )
        self.ftp.connect(self.host, self.port)
        self.ftp.login(*self.cred)
        self.ftp.prot_p()


class _ImplicitTls(ftplib.FTP_TLS):
    """Speaks TLS before the server has said a word."""

    _socket: socket.socket | None = None

    @property
    def sock(self) -> socket.socket | None:
        return self._socket

    @sock.setter
    def sock(self, value: socket.socket | None) -> None:
        if value is not None and not isinstance(value, ssl.SSLSocket):
            value = self.context.wrap_socket(value, server_hostname=self.host)
        self._socket = value

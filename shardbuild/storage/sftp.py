"""``sftp://``, ``ssh://`` and ``scp://``: files of a server of ssh.

All three are the same here: a path from the server's root, by its sftp.
"""

from __future__ import annotations

import os
from typing import Any

import paramiko  # type: ignore[import-untyped]
from fsspec.implementations.sftp import SFTPFileSystem

from shardbuild.errors import StorageError
from shardbuild.storage.resuming import ResumingReader

__all__ = ["KnownHosts", "SCPFileSystem", "open_sftp"]

_READ_BYTES = 1 << 20


class SCPFileSystem(SFTPFileSystem):  # type: ignore[misc]
    """The file system of sftp, for those who write ``scp://``."""

    protocol = "scp"


class KnownHosts(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    """Trusts the servers in ``~/.ssh/known_hosts``, as ``ssh`` does, and no other."""

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        known = paramiko.HostKeys()
        path = os.path.expanduser("~/.ssh/known_hosts")
        if os.path.exists(path):
            known.load(path)
        if not known.check(hostname, key):
            problem = f"the key of {hostname!r} is not in ~/.ssh/known_hosts"
            raise PermissionError(problem)


def open_sftp(url: str, fs: Any, path: str, start: int = 0) -> ResumingReader:
    """Open a file of a server of ssh for reading forward from byte ``start`` on.

    Raises:
        StorageError: There is no such file, or it cannot be reached.
    """
    return ResumingReader(url, _SftpRemote(url, fs, path), start)


class _SftpRemote:
    """See `resuming.Remote`."""

    def __init__(self, url: str, fs: Any, path: str) -> None:
        self.num_bytes: int | None = None
        self._url = url
        self._fs = fs
        self._path = path
        self._mark: tuple[int | None, int | None] | None = None

    def open_at(self, position: int) -> _SftpStream:
        # fsspec shares one connection among all who ask for the same server.
        transport = self._fs.client.get_transport()
        if transport is None or not transport.is_active():
            self._fs._connect()
        facts = self._fs.ftp.stat(self._path)
        mark = (facts.st_size, facts.st_mtime)
        if self._mark not in (None, mark):
            raise StorageError(self._url, "changed while it was read")
        self._mark = mark
        self.num_bytes = facts.st_size
        file = self._fs.ftp.open(self._path, "rb")
        file.seek(position)
        return _SftpStream(file)

    def close(self) -> None:
        """The connection stays, for whoever asks next."""


class _SftpStream:
    """A file of paramiko's, which has no ``readinto`` that fills much at once."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), _READ_BYTES))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()

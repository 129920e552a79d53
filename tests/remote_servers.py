"""Servers of ftp and ssh for tests, in threads, over one folder each.

Their class attributes are their faults: so many of the next reads break off.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import socket
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Iterator

USER, PASSWORD = "user", "password"  # of servers on loopback only
CUT_AFTER = 100_000


@dataclass
class RemoteServer:
    """A running server, its folder, and what was asked of it."""

    folder: Path
    port: int = 0
    cut: int = 0
    """So many of the next readings are cut, with the whole connection."""
    starts: list[int] = field(default_factory=list)
    """Where each reading began."""
    certificate: str = ""

    def url(self, protocol: str, name: str) -> str:
        return f"{protocol}://{USER}:{PASSWORD}@localhost:{self.port}/{name}"


@contextlib.contextmanager
def ftp_server(
    folder: Path, *, tls: str = "", may_write: bool = True
) -> Iterator[RemoteServer]:
    """Ftp; with ``tls`` "explicit" or "implicit"."""
    with warnings.catch_warnings():
        # It imports asyncore, which Python 3.11 announces the end of.
        warnings.simplefilter("ignore", DeprecationWarning)
        from pyftpdlib import handlers  # type: ignore[import-untyped]
        from pyftpdlib.authorizers import (  # type: ignore[import-untyped]
            DummyAuthorizer,
        )
        from pyftpdlib.ioloop import IOLoop  # type: ignore[import-untyped]
        from pyftpdlib.servers import FTPServer  # type: ignore[import-untyped]

    place = RemoteServer(folder)
    base = handlers.TLS_FTPHandler if tls else handlers.FTPHandler
    base_data = handlers.TLS_DTPHandler if tls else handlers.DTPHandler

    class Data(base_data):  # type: ignore[misc, valid-type]
        def send(self, data: bytes) -> int:
            sent: int = super().send(data)
            if place.cut and self.tot_bytes_sent > CUT_AFTER:
                place.cut -= 1
                self.cmd_channel.close()
                self.close()
            return sent

    class Handler(base):  # type: ignore[misc, valid-type]
        dtp_handler = Data
        use_sendfile = False
        auth_failed_timeout = 0
        banner = "tests"

        def ftp_RETR(self, file: str) -> Any:  # noqa: N802
            place.starts.append(self._restart_position)
            return super().ftp_RETR(file)

        def handle(self) -> None:
            if tls == "implicit":
                self.secure_connection(self.ssl_context)
            super().handle()

    perm = "elradfmwMT" if may_write else "elr"
    Handler.authorizer = DummyAuthorizer()
    Handler.authorizer.add_user(USER, PASSWORD, str(folder), perm=perm)
    if tls:
        place.certificate = str(folder.parent / "certificate.pem")
        write_certificate(Path(place.certificate))
        Handler.certfile = place.certificate
    loop = IOLoop()
    server = FTPServer(("127.0.0.1", 0), Handler, ioloop=loop)
    place.port = server.address[1]
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            server.serve_forever(timeout=0.01, blocking=False, handle_exit=False)
        server.close_all()

    with running(serve, stop):
        yield place


@contextlib.contextmanager
def running(serve: Any, stop: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def write_certificate(path: Path) -> None:
    """A key and the certificate of localhost by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    local = ipaddress.ip_address("127.0.0.1")
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(local)]
    )
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    data = key.private_bytes(pem, form, none) + certificate.public_bytes(pem)
    path.write_bytes(data)


class _Login(paramiko.ServerInterface):
    def check_auth_password(self, username: str, password: str) -> int:
        known = (username, password) == (USER, PASSWORD)
        return int(paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)


class _Handle(paramiko.SFTPHandle):
    """An open file that may cut the connection in the middle."""

    place: RemoteServer
    transport: Any
    sent = 0

    def read(self, offset: int, length: int) -> Any:
        if not self.sent:
            self.place.starts.append(offset)
        self.sent += length
        if self.place.cut and self.sent > CUT_AFTER:
            self.place.cut -= 1
            self.transport.close()
        return super().read(offset, length)


class _Files(paramiko.SFTPServerInterface):
    """The files of a folder."""

    def __init__(self, server: Any, place: RemoteServer, transport: Any) -> None:
        super().__init__(server)
        self.place = place
        self.transport = transport

    def _do(self, action: Any, *names: str) -> Any:
        paths = [self.place.folder / name.lstrip("/") for name in names]
        try:
            return action(*paths)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def stat(self, path: str) -> Any:
        return self._do(lambda p: paramiko.SFTPAttributes.from_stat(p.stat()), path)

    lstat = stat

    def open(self, path: str, flags: int, attr: Any) -> Any:
        def action(place: Path) -> Any:
            fd = os.open(place, flags, 0o666)
            handle = _Handle(flags)
            handle.place, handle.transport = self.place, self.transport
            handle.filename = str(place)
            mode = "wb" if flags & os.O_WRONLY else "rb"
            handle.readfile = handle.writefile = os.fdopen(fd, mode)
            return handle

        return self._do(action, path)

    def posix_rename(self, oldpath: str, newpath: str) -> Any:
        return self._ok(lambda a, b: a.replace(b), oldpath, newpath)

    def remove(self, path: str) -> Any:
        return self._ok(lambda p: p.unlink(), path)

    def mkdir(self, path: str, attr: Any) -> Any:
        return self._ok(lambda p: p.mkdir(), path)

    def _ok(self, action: Any, *names: str) -> Any:
        answer = self._do(action, *names)
        return answer if isinstance(answer, int) else paramiko.SFTP_OK


@contextlib.contextmanager
def sftp_server(folder: Path, key: paramiko.PKey) -> Iterator[RemoteServer]:
    """Ssh with nothing but sftp."""
    place = RemoteServer(folder)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.01)
    place.port = listener.getsockname()[1]
    stop = threading.Event()
    transports = []

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                transport = paramiko.Transport(connection)
                transport.add_server_key(key)
                transport.set_subsystem_handler(
                    "sftp", paramiko.SFTPServer, _Files, place, transport
                )
                transports.append(transport)
                with contextlib.suppress(paramiko.SSHException, EOFError):
                    transport.start_server(server=_Login())
        for transport in transports:
            transport.close()
        listener.close()

    with running(serve, stop):
        yield place

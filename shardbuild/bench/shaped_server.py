"""An object server as slow as a far one: so long to answer, so fast a connection.

Speaks as much of S3 as a reader needs: HEAD and GET of an object, with ranges, with no
signatures checked. Runs in a process of its own, so that its work is nobody's CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Shape", "main", "shaped_server"]

PIECE = 1 << 17

_STATUS = {200: "OK", 206: "Partial Content", 404: "Not Found", 416: "Bad Range"}


@dataclass(frozen=True, slots=True)
class Shape:
    """How slow the server is."""

    latency_seconds: float = 0.020
    """Before the first byte of each answer."""
    bytes_per_second: float = 90e6
    """Of each connection."""


@contextlib.contextmanager
def shaped_server(folder: Path, shape: Shape) -> Iterator[str]:
    """Serve a folder's files and yield the server's URL; stops at the end.

    >>> import tempfile, urllib.request
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.bin").write_bytes(b"0123456789")
    ...     with shaped_server(Path(folder), Shape(0.0, 1e9)) as url:
    ...         ranged = {"Range": "bytes=2-4"}
    ...         request = urllib.request.Request(f"{url}/bucket/a.bin", headers=ranged)
    ...         with urllib.request.urlopen(request) as answer:
    ...             answer.read()
    b'234'
    """
    arguments = [folder, shape.latency_seconds, shape.bytes_per_second]
    server = subprocess.Popen(
        [sys.executable, "-m", __name__, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            # It goes when its input ends: also if we are killed.
            server.stdin.close()
            server.wait()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    start: int = 0
    stop: int = 0
    size: int = 0

    def head(self) -> bytes:
        lines = [
            f"HTTP/1.1 {self.status} {_STATUS[self.status]}",
            f"Content-Length: {self.stop - self.start}",
            "Content-Type: application/octet-stream",
            "Accept-Ranges: bytes",
            f'ETag: "{self.size:032x}"',
            "Last-Modified: Sun, 01 Nov 2026 00:00:00 GMT",
        ]
        if self.status == 206:
            lines.append(
                f"Content-Range: bytes {self.start}-{self.stop - 1}/{self.size}"
            )
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _answer(size: int | None, wanted: str | None) -> _Answer:
    """Tell which bytes of an object are asked for.

    >>> _answer(10, "bytes=-3")
    _Answer(status=206, start=7, stop=10, size=10)
    >>> _answer(10, "bytes=8-99").stop, _answer(10, None).status
    (10, 200)
    >>> _answer(10, "bytes=10-").status, _answer(None, None).status
    (416, 404)
    """
    if size is None:
        return _Answer(404)
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if match is None or not any(match.groups()):
        return _Answer(200, 0, size, size)
    first, last = match.groups()
    if not first:
        return _Answer(206, max(0, size - int(last)), size, size)
    stop = min(size, int(last) + 1) if last else size
    if int(first) >= stop:
        return _Answer(416, size=size)
    return _Answer(206, int(first), stop, size)


class _Server:
    """Serves files by the last part of the path: any bucket holds them."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.shape = shape
        self.objects = {
            path.name: memoryview(path.read_bytes())
            for path in folder.iterdir()
            if path.is_file()
        }

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # They hang up, or we are told to stop.
        ends = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*ends):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self.respond(head.decode("latin-1"), writer)
        writer.close()

    async def respond(self, head: str, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.split(" ", 2)
        name = target.partition("?")[0].rpartition("/")[2]
        whole = self.objects.get(name)
        wanted = re.search(r"(?im)^range:\s*(\S+)", head)
        size = None if whole is None else len(whole)
        answer = _answer(size, wanted and wanted[1])
        await asyncio.sleep(self.shape.latency_seconds)
        writer.write(answer.head())
        if whole is not None and method == "GET":
            await self.send(whole[answer.start : answer.stop], writer)
        await writer.drain()

    async def send(self, content: memoryview, writer: asyncio.StreamWriter) -> None:
        """Send at the shape's rate: never ahead of the clock."""
        clock = asyncio.get_running_loop()
        began = clock.time()
        for start in range(0, len(content), PIECE):
            ahead = start / self.shape.bytes_per_second - (clock.time() - began)
            if ahead > 0:
                await asyncio.sleep(ahead)
            writer.write(content[start : start + PIECE])
            await writer.drain()


async def _serve(folder: Path, shape: Shape) -> None:
    server = await asyncio.start_server(_Server(folder, shape).serve, "127.0.0.1", 0)
    async with server:
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        server.close()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve a folder until the standard input ends; the first line out is the port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("latency_seconds", type=float)
    parser.add_argument("bytes_per_second", type=float)
    args = parser.parse_args(argv)
    shape = Shape(args.latency_seconds, args.bytes_per_second)
    asyncio.run(_serve(args.folder, shape))


if __name__ == "__main__":
    main()

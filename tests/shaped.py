"""A small object server with a chosen latency, bandwidth and choice of faults.

Speaks enough HTTP for plain downloads and enough S3 for reading, putting and
multipart uploads. Each connection is as slow as asked for; connections do not
slow each other. Run as a script it serves until it is killed; ``GET /_set?...``
changes its ways while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import re
import sys
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

_PIECE = 256 << 10


@dataclass
class Ways:
    """How the server answers, changed through ``/_set``."""

    latency: float = 0.0
    """Seconds before the first byte of an answer."""
    rate: float = 0.0
    """Bytes a second and connection; 0 is as fast as can be."""
    ranges: int = 1
    """Whether a range is answered with a range."""
    sized: int = 1
    """Whether the length of an answer is told."""
    fail: int = 0
    """So many of the next reads get ``status`` instead of data."""
    status: int = 503
    cut: int = 0
    """So many of the next reads break off in the middle."""
    short: int = 0
    """So many of the next ranges are answered a byte short, and say so."""
    counts: dict[str, int] = field(default_factory=dict)


class Server:
    """Objects in memory, by path."""

    def __init__(self) -> None:
        self.ways = Ways()
        self.objects: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.numbers = itertools.count(1)
        self.active = 0
        self.peak = 0

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        gone = (ConnectionError, asyncio.IncompleteReadError)
        with contextlib.closing(writer), contextlib.suppress(*gone):
            while await self.answer_one(reader, writer):
                pass

    async def answer_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        line = await reader.readline()
        if not line:
            return False
        method, target, _ = line.decode().split(" ")
        headers: dict[str, str] = {}
        while (line := await reader.readline()).strip():
            name, _, value = line.decode().partition(":")
            headers[name.strip().lower()] = value.strip()
        self.active += 1
        try:
            return await self.answer(reader, writer, method, target, headers)
        finally:
            self.active -= 1

    async def answer(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        target: str,
        headers: dict[str, str],
    ) -> bool:
        self.peak = max(self.peak, self.active)
        body = await self.read_body(reader, writer, headers)
        split = urlsplit(target)
        path, query = unquote(split.path), dict(parse_qsl(split.query, True))
        await asyncio.sleep(self.ways.latency)
        self.ways.counts[method] = self.ways.counts.get(method, 0) + 1
        if path == "/_set":
            counts = repr({**self.ways.counts, "peak": self.peak})
            self.set(query)
            self.peak = 0
            return await self.send(writer, 200, counts.encode())
        if method in ("GET", "HEAD"):
            return await self.give(writer, method, path, headers)
        return await self.take(writer, method, path, query, body)

    async def read_body(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        headers: dict[str, str],
    ) -> bytes:
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            pieces = []
            while size := int((await reader.readline()).split(b";")[0], 16):
                pieces.append(await reader.readexactly(size))
                await reader.readline()
            await reader.readline()
            return b"".join(pieces)
        data = bytearray()
        started = asyncio.get_running_loop().time()
        left = int(headers.get("content-length", 0))
        while left:
            piece = await reader.read(min(left, _PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(bytes(data), left)
            data += piece
            left -= len(piece)
            await self.pace(started, len(data))
        if "aws-chunked" in headers.get("content-encoding", ""):
            return _without_aws_chunks(bytes(data))
        return bytes(data)

    async def pace(self, started: float, done: int) -> None:
        if self.ways.rate:
            ahead = started + done / self.ways.rate - asyncio.get_running_loop().time()
            if ahead > 0:
                await asyncio.sleep(ahead)

    def set(self, query: dict[str, str]) -> None:
        for name, value in query.items():
            kind = type(getattr(self.ways, name))
            setattr(self.ways, name, kind(value))
        self.ways.counts = {}

    def keep(self, path: str, body: bytes) -> None:
        self.objects[path] = body
        self.etags[path] = _etag(body)

    async def give(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: Any
    ) -> bool:
        data = self.objects.get(path)
        if data is None:
            return await self.send(writer, 404, _error("NoSuchKey"), method=method)
        etag = self.etags[path]
        if headers.get("if-match", etag) != etag:
            return await self.send(writer, 412, _error("PreconditionFailed"))
        if method == "GET" and self.ways.fail:
            self.ways.fail -= 1
            return await self.send(writer, self.ways.status, _error("SlowDown"))
        answer = {"ETag": etag, "Content-Type": "application/octet-stream"}
        status, view = 200, memoryview(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if asked and self.ways.ranges:
            start = int(asked[1])
            stop = min(int(asked[2] or len(data)) + 1, len(data))
            if start >= len(data):
                return await self.send(writer, 416, _error("InvalidRange"))
            if self.ways.short:
                self.ways.short -= 1
                stop -= 1
            status, view = 206, view[start:stop]
            answer["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return await self.send(writer, status, view, method=method, more=answer)

    async def take(
        self,
        writer: asyncio.StreamWriter,
        method: str,
        path: str,
        query: dict[str, str],
        body: bytes,
    ) -> bool:
        if method == "POST" and "uploads" in query:
            number = str(next(self.numbers))
            self.uploads[number] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{number}</UploadId>"
            text += "</InitiateMultipartUploadResult>"
            return await self.send(writer, 200, text.encode())
        upload = query.get("uploadId", "")
        if method == "PUT" and upload:
            self.uploads[upload][int(query["partNumber"])] = body
        elif method == "PUT":
            self.keep(path, body)
        elif method == "POST" and upload:
            parts = self.uploads.pop(upload)
            self.keep(path, b"".join(parts[number] for number in sorted(parts)))
            text = "<CompleteMultipartUploadResult><ETag>x</ETag>"
            text += "</CompleteMultipartUploadResult>"
            return await self.send(writer, 200, text.encode())
        elif method == "DELETE":
            self.uploads.pop(upload, None)
            if not upload:
                self.objects.pop(path, None)
            return await self.send(writer, 204, b"")
        return await self.send(writer, 200, b"", more={"ETag": _etag(body)})

    async def send(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        body: bytes | memoryview,
        *,
        method: str = "GET",
        more: dict[str, str] | None = None,
    ) -> bool:
        headers = dict(more or {})
        if self.ways.sized or status >= 300:
            headers["Content-Length"] = str(len(body))
        else:
            headers["Connection"] = "close"
        text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {status} -\r\n{text}\r\n".encode())
        if method != "HEAD":
            stop = len(body)
            if self.ways.cut and status in (200, 206) and more and stop:
                self.ways.cut -= 1
                stop //= 2
            await self.send_paced(writer, memoryview(body)[:stop])
            if stop != len(body):
                writer.transport.abort()
                return False
        await writer.drain()
        return "Connection" not in headers

    async def send_paced(self, writer: asyncio.StreamWriter, body: memoryview) -> None:
        started = asyncio.get_running_loop().time()
        for start in range(0, len(body), _PIECE):
            writer.write(body[start : start + _PIECE])
            await writer.drain()
            await self.pace(started, min(start + _PIECE, len(body)))


def _etag(data: bytes) -> str:
    return f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"'


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


def _without_aws_chunks(data: bytes) -> bytes:
    pieces: list[bytes] = []
    at = 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end].split(b";")[0], 16)
        if not size:
            return b"".join(pieces)
        pieces.append(data[end + 2 : end + 2 + size])
        at = end + 4 + size


async def main(port: int) -> None:
    server = await asyncio.start_server(
        Server().serve, "127.0.0.1", port, limit=1 << 20
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

"""Bytes on their way into a file, in whole chunks at multiples of a chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from hashlib import _Hash

__all__ = ["CHUNK_BYTES", "ChunkWriter", "join_short"]

CHUNK_BYTES: Final = 1 << 19
"""Written at once: still in the processor's cache then, where it has been hashed."""


class ChunkWriter:
    """Cuts what it is given into chunks of ``chunk_bytes``, but for the last one.

    The page cache holds a file in pieces as large as what was written at once, if that
    began at a multiple of its size; it finds and reads large pieces faster than pages.

    Args:
        write: takes the buffers of one chunk, and all of their bytes.
        digest: is given all bytes as well.
        chunk_bytes: how long a chunk is.

    >>> chunks = []
    >>> writer = ChunkWriter(lambda some: chunks.append(b"".join(some)), chunk_bytes=4)
    >>> writer.put([b"abc", b"defghij"])
    >>> chunks, writer.room
    ([b'abcd', b'efgh'], 2)
    >>> writer.finish()
    >>> chunks[2:], writer.num_bytes
    ([b'ij'], 10)
    """

    def __init__(
        self,
        write: Callable[[Sequence[Any]], object],
        digest: _Hash | None = None,
        *,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._write = write
        self._digest = digest
        self._chunk_bytes = chunk_bytes
        self._held: list[bytes] = []
        self.room = chunk_bytes
        """Bytes after which the next chunk is whole."""
        self.num_bytes = 0
        """Taken so far."""

    def put(self, buffers: Sequence[Any]) -> None:
        """Write all whole chunks; the rest is copied: buffers may be used again."""
        pieces: list[Any] = self._held
        num_old = len(pieces)
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            while len(view):
                piece, view = view[: self.room], view[self.room :]
                if self._digest is not None:
                    self._digest.update(piece)
                pieces.append(piece)
                self.num_bytes += len(piece)
                self.room -= len(piece)
                if not self.room:
                    self._write(pieces)
                    pieces, num_old, self.room = [], 0, self._chunk_bytes
        self._held = [*pieces[:num_old], *map(bytes, pieces[num_old:])]

    def finish(self) -> None:
        """Write what is left."""
        if self._held:
            self._write(self._held)
            self._held = []


def join_short(parts: list[bytes], num_bytes: int) -> list[bytes]:
    """Join ``num_bytes`` of parts if that is about a chunk: to write many is slower.

    What is much longer stays as it is, so that no copy of it is held.

    >>> join_short([b"a", b"", b"bc"], 3)
    [b'abc']
    """
    return [b"".join(parts)] if num_bytes < 2 * CHUNK_BYTES else parts

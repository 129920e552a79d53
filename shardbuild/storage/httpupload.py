"""Writing to a server of http: one ``PUT``, as it comes."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import FIRST_COMPLETED, wait
from typing import TYPE_CHECKING, Any

from shardbuild.errors import StorageError
from shardbuild.storage.publish import AtomicFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from concurrent.futures import Future

__all__ = ["HttpUpload"]

_PIECE_BYTES = 8 << 20
_PIECES_AHEAD = 2


class HttpUpload(AtomicFile):
    """What is small is sent with its size, at the end; what is not, in chunks.

    A server that follows the rules keeps nothing of a request that breaks off: that
    is how what is discarded is taken back.
    """

    def __init__(self, url: str, fs: Any, path: str) -> None:
        super().__init__(url)
        self._fs = fs
        self._path = path
        self._piece = bytearray()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES_AHEAD)
        self._answer: Future[None] | None = None
        self._opened()

    def _write(self, data: Any) -> int:
        with memoryview(data) as given, given.cast("B") as view:
            self._piece += view
            self._position += len(view)
            if len(self._piece) >= _PIECE_BYTES:
                if self._answer is None:
                    self._answer = self._submit(self._put(self._pieces()))
                self._send(self._take_piece())
            return len(view)

    def _take_piece(self) -> bytes:
        piece = bytes(self._piece)
        self._piece.clear()
        self._meter.count_write(len(piece))
        return piece

    def _submit(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._fs.loop)

    def _send(self, piece: bytes | None) -> None:
        """Hand a piece to the request, if it still goes on."""
        taken: Future[None] = self._submit(self._queue.put(piece))
        answer = self._answer or taken
        wait((taken, answer), return_when=FIRST_COMPLETED)
        if not taken.done():
            taken.cancel()
            answer.result()
            raise StorageError(self.name, "the server answered before the end")

    async def _pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self._queue.get()) is not None:
            yield piece

    async def _put(self, body: Any) -> None:
        session = await self._fs.set_session()
        where = self._fs.encode_url(self._path)
        async with session.put(where, data=body, **self._fs.kwargs) as answer:
            self._fs._raise_not_found_for_status(answer, self._path)

    def _publish(self) -> None:
        if self._answer is None:
            body = io.BytesIO(self._take_piece())
            self._answer = self._submit(self._put(body))
        else:
            if self._piece:
                self._send(self._take_piece())
            self._send(None)
        self._answer.result()
        self._fs.invalidate_cache()

    def _discard(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.cancel()

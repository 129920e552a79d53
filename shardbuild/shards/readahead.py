"""A stream that is read by a thread of its own, a little before it is needed.

Unpacking needs no Python, so one core can unpack while another cuts samples.
"""

from __future__ import annotations

from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shardbuild.shards.decompress import Readable

__all__ = ["ReadAhead"]

# A piece is unpacked without Python's lock being asked for, so it should take as
# long as cutting the samples of the piece before it.
_PIECE_BYTES: Final = 1 << 20
_NUM_PIECES: Final = 3


class ReadAhead:
    """The same bytes and the same errors as ``stream``, of which no read may hang.

    >>> import io
    >>> with ReadAhead(io.BytesIO(b"tar")) as stream:
    ...     buffer = bytearray(8)
    ...     stream.readinto(memoryview(buffer)), buffer[:3], stream.readinto(buffer)
    (3, bytearray(b'tar'), 0)
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._free: SimpleQueue[memoryview | None] = SimpleQueue()
        self._filled: SimpleQueue[tuple[memoryview, int, BaseException | None]]
        self._filled = SimpleQueue()
        self._piece = memoryview(b"")
        self._position = self._end = 0
        self._error: BaseException | None = None
        self._thread: Thread | None = None

    def readinto(self, buffer: memoryview) -> int:
        """Fill some of a buffer; 0 at the end.

        Raises:
            Exception: What the stream raises, after all that was read before.
        """
        if self._position == self._end and not self._next_piece():
            return 0
        count = min(len(buffer), self._end - self._position)
        stop = self._position + count
        buffer[:count] = self._piece[self._position : stop]
        self._position = stop
        return count

    def _next_piece(self) -> bool:
        if self._error is not None:
            raise self._error
        if self._thread is None:
            for _ in range(_NUM_PIECES):
                self._free.put(memoryview(bytearray(_PIECE_BYTES)))
            self._thread = Thread(target=self._run, name="read ahead", daemon=True)
            self._thread.start()
        else:
            self._free.put(self._piece)
        self._piece, self._end, self._error = self._filled.get()
        self._position = 0
        if not self._end and self._error is not None:
            raise self._error
        return self._end > 0

    def _run(self) -> None:
        """Fill pieces until the stream ends, or nobody wants any more."""
        while (piece := self._free.get()) is not None:
            count = 0
            error: BaseException | None = None
            try:
                while count < len(piece) and (
                    read := self._stream.readinto(piece[count:])
                ):
                    count += read
            except BaseException as problem:  # noqa: BLE001 - raised in readinto
                error = problem
            self._filled.put((piece, count, error))

    def close(self) -> None:
        """End the thread; closing twice is safe."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._free.put(None)
            thread.join()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

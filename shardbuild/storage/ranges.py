"""Reading an object of a store from its beginning to its end, fast.

One connection to a store is slow, many are not: blocks of 4 MiB are fetched
ahead, sixteen at once, and handed out in order. The budget bounds what is in
flight and kept, whatever the size of the object.
"""

from __future__ import annotations

import io
from collections import deque
from typing import TYPE_CHECKING, Any

from shardbuild.errors import ShardbuildError, StorageError
from shardbuild.storage.filesystems import (
    filesystem_of,
    is_async,
    is_cache,
    protocol_of_filesystem,
    store_error,
)
from shardbuild.storage.meter import current_meter
from shardbuild.storage.sources import Pieces, Source, open_source

if TYPE_CHECKING:
    from concurrent.futures import Future

    from shardbuild.storage.urlparts import StorageOptions

__all__ = ["BLOCK_BYTES", "BUDGET_BYTES", "StoreReader", "StreamReader", "open_store"]

BLOCK_BYTES = 4 << 20
BUDGET_BYTES = 64 << 20
_MIN_BLOCK_BYTES = 256 << 10


def open_store(
    url: str,
    options: StorageOptions | None,
    start: int = 0,
    budget_bytes: int | None = None,
) -> io.RawIOBase:
    """Open an object of a store for reading forward, from byte ``start`` on.

    What lies before is read only where there are no ranges.

    Raises:
        StorageError: There is no such object, or it cannot be reached.
    """
    fs, path = filesystem_of(url, options)
    protocol = protocol_of_filesystem(fs)
    if protocol in ("ftp", "ftps"):
        from shardbuild.storage.ftp import open_ftp

        return open_ftp(url, fs, path, start)
    if protocol in ("scp", "sftp", "ssh"):
        from shardbuild.storage.sftp import open_sftp

        return open_sftp(url, fs, path, start)
    # fsspec's memory files share one position among all who read them
    if protocol != "memory" and not is_async(fs):
        return skipped(StreamReader(url, fs, path), start)
    source = open_source(url, options)
    # Besides the size, the first block comes; or a byte, where that is not wanted.
    num_bytes, first = source.begin(1 if start else _block_bytes(budget_bytes))
    if num_bytes is None:
        return skipped(StreamReader(url, fs, path), start)
    if start:
        return StoreReader(source, num_bytes, None, start, budget_bytes)
    return StoreReader(source, num_bytes, first, 0, budget_bytes)


def _block_bytes(budget_bytes: int | None) -> int:
    """How much is asked for at once: at least two blocks are in the budget."""
    if budget_bytes is None:
        return BLOCK_BYTES
    return min(BLOCK_BYTES, max(_MIN_BLOCK_BYTES, budget_bytes // 2))


def skipped(stream: io.RawIOBase, num_bytes: int) -> io.RawIOBase:
    """A stream that is only read forward, after its first bytes."""
    view = memoryview(bytearray(min(num_bytes, _MIN_BLOCK_BYTES)))
    try:
        while num_bytes:
            count = stream.readinto(view[:num_bytes])
            if not count:
                break  # whoever reads on finds its end
            num_bytes -= count
    except BaseException:
        stream.close()
        raise
    return stream


class StoreReader(io.RawIOBase):
    """Reads a source of ``num_bytes`` by parallel ranges, in order.

    ``first`` are the bytes of its first block, if they are on their way.
    """

    def __init__(
        self,
        source: Source,
        num_bytes: int,
        first: Future[Pieces] | None = None,
        start: int = 0,
        budget_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self.name = source.url
        self._source = source
        self._num_bytes = num_bytes
        self._meter = current_meter()
        self._block_bytes = _block_bytes(budget_bytes)
        num_blocks = (budget_bytes or BUDGET_BYTES) // self._block_bytes
        self._window = max(1, min(num_blocks, source.num_parallel))
        self._ahead = deque([] if first is None else [first])
        self._asked = start if first is None else min(self._block_bytes, num_bytes)
        self._block: deque[bytes] = deque()
        self._taken = 0  # of the block's first piece
        self._position = start

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the front of ``buffer``; 0 only at the very end.

        Raises:
            StorageError: The store fails, also after the retries, or its
                object changed while it was read.
        """
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if not self._block and not self._next_block():
            return 0
        filled = 0
        with memoryview(buffer) as view:
            while self._block and filled < len(view):
                filled += self._take(view[filled:])
        self._position += filled
        return filled

    def _take(self, view: memoryview) -> int:
        """Fill the front of a view from the block's first piece."""
        piece = memoryview(self._block[0])[self._taken :]
        num_bytes = min(len(piece), len(view))
        view[:num_bytes] = piece[:num_bytes]
        self._taken += num_bytes
        if num_bytes == len(piece):
            self._block.popleft()
            self._taken = 0
        return num_bytes

    def readall(self) -> bytes:
        """All that is left, without the small steps of the base class."""
        pieces: list[bytes] = []
        while self._block or self._next_block():
            pieces.append(self._block.popleft()[self._taken :])
            self._taken = 0
            self._position += len(pieces[-1])
        return b"".join(pieces)

    def _next_block(self) -> bool:
        """Wait for the next block; False at the end."""
        self._ask()
        if not self._ahead:
            return False
        self._source.check_process()
        future = self._ahead.popleft()
        try:
            self._block.extend(piece for piece in future.result() if piece)
        except ShardbuildError:
            raise
        except Exception as error:
            raise store_error(self.name, error) from error
        self._source.count(self._meter)
        self._ask()
        return True

    def _ask(self) -> None:
        """Keep as many blocks on their way as the budget allows."""
        while self._asked < self._num_bytes and len(self._ahead) < self._window:
            stop = min(self._asked + self._block_bytes, self._num_bytes)
            self._ahead.append(self._source.start(self._asked, stop))
            self._asked = stop

    def _forget(self) -> None:
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._asked = self._num_bytes

    def close(self) -> None:
        if not self.closed:
            self._forget()
            self._source.count(self._meter)
            self._block.clear()
            super().close()


class StreamReader(io.RawIOBase):
    """Any file object of fsspec, with our errors, our counts, and a size check."""

    def __init__(self, url: str, fs: Any, path: str) -> None:
        super().__init__()
        self.name = url
        self._meter = current_meter()
        self._position = 0
        self._fs = fs  # an archive's closes when it is forgotten
        self._file: Any = None
        try:
            options = {"block_size": 0} if "http" in fs.protocol else {}
            self._file = fs.open(path, "rb", **options)
            # A cache that was killed while it made a copy gives the torso out.
            size = fs.info(path).get("size") if is_cache(fs) else None
        except Exception as error:
            raise store_error(url, error) from error
        size = getattr(self._file, "size", size)
        self._num_bytes = size if isinstance(size, int) else None

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the front of ``buffer``; 0 only at the very end."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        try:
            data = self._file.read(len(buffer))
        except Exception as error:
            problem = store_error(self.name, error).problem
            problem = f"at byte {self._position}: {problem}"
            raise StorageError(self.name, problem) from error
        num_bytes = len(data)
        buffer[:num_bytes] = data
        self._position += num_bytes
        self._meter.count_read(num_bytes)
        if not num_bytes and len(buffer):
            self._check_end()
        return num_bytes

    def _check_end(self) -> None:
        if self._num_bytes is not None and self._position != self._num_bytes:
            problem = f"ended at byte {self._position} of {self._num_bytes}"
            raise StorageError(self.name, problem)

    def close(self) -> None:
        if not self.closed:
            if self._file is not None:
                self._file.close()
            super().close()

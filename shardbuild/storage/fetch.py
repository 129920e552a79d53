"""Many ranges of one file or object at once."""

from __future__ import annotations

import os
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardbuild.errors import ShardbuildError, StorageError
from shardbuild.storage.filesystems import store_error
from shardbuild.storage.meter import current_meter
from shardbuild.storage.schemes import is_stream
from shardbuild.storage.urlparts import StorageOptions, local_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from shardbuild.storage.meter import Meter
    from shardbuild.storage.sources import Pieces, Source
    from shardbuild.storage.stores import UrlFacts

__all__ = ["RangeSource", "read_many", "read_range"]

_MAX_GAP = 64 << 10
_MAX_VIEWS = 1024  # IOV_MAX of Linux


class RangeSource:
    """Reads given ranges of a url into given buffers.

    Local ranges that touch are one ``preadv``. Ranges of a store that are at
    most ``max_gap`` bytes apart are one request; requests run in parallel under
    a budget of 64 MiB, and each answer's length is checked. Good in threads and,
    opened anew, after a fork.

    >>> from shardbuild.storage import write_bytes
    >>> write_bytes("memory://doc/ranges.bin", bytes(range(10)))
    >>> first, second = bytearray(2), bytearray(3)
    >>> with RangeSource("memory://doc/ranges.bin") as source:
    ...     source.read_into([7, 0], [memoryview(first), memoryview(second)])
    >>> first.hex(), second.hex()
    ('0708', '000102')
    """

    def __init__(
        self,
        url: str,
        storage_options: StorageOptions | None = None,
        *,
        max_gap: int = _MAX_GAP,
    ) -> None:
        if is_stream(url):
            raise StorageError(url, "is a stream: it has no ranges")
        self.url = url
        self._options = storage_options
        self._max_gap = max_gap
        self._meter = current_meter()
        self._fd = -1
        self._source: Source | None = None
        path = local_path(url)
        if path is not None:
            try:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise store_error(url, error) from error
        else:
            from shardbuild.storage.sources import open_source

            self._source = open_source(url, storage_options)

    def read_into(self, offsets: Sequence[int], views: Sequence[memoryview]) -> None:
        """Fill each view with the bytes that start at its offset.

        Raises:
            StorageError: A range could not be read whole; names its offset.
        """
        if self._source is not None:
            read_many([(self, offsets, views)])
        elif self._fd >= 0:
            self._read_local(offsets, views)
        else:
            raise ValueError("I/O operation on closed source")

    def look(self) -> UrlFacts:
        """Size and version of the file; of a store's no other version is read later.

        Raises:
            StorageError: There is no such file.
        """
        from shardbuild.storage.stores import stat_url

        if self._source is None:
            return stat_url(self.url)
        self._source.check_process()
        facts = self._source.look()
        self._source.count(self._meter)
        return facts

    def _read_local(self, offsets: Sequence[int], views: Sequence[memoryview]) -> None:
        """Read ranges that follow one another together; each call is felt here."""
        fd, preadv = self._fd, os.preadv
        num_bytes = num_requests = 0
        places = zip([*offsets, -1], [*views, memoryview(b"")], strict=True)
        start, view = next(places)
        run, end = [view], start + len(view)
        try:
            for offset, view in places:
                if offset == end and len(run) < _MAX_VIEWS:
                    run.append(view)
                    end += len(view)
                    continue
                got = preadv(fd, run, start)
                num_bytes += got
                num_requests += 1
                if start + got < end:
                    self._read_rest(start, end, run, got)
                start, run, end = offset, [view], offset + len(view)
        except OSError as error:
            problem = f"at byte {start}: {error.strerror}"
            raise StorageError(self.url, problem) from error
        finally:
            self._meter.count_read(num_bytes, num_requests)

    def _read_rest(
        self, start: int, stop: int, views: list[memoryview], got: int
    ) -> None:
        """Go on after a read that gave fewer bytes than were asked for."""
        at = start
        while at + got < stop:
            if not got:
                raise StorageError(self.url, f"ends at byte {at}, before {stop}")
            at += got
            views = _after(views, got)
            got = os.preadv(self._fd, views, at)
            self._meter.count_read(got)

    def close(self) -> None:
        """Let go of the file; closing twice is safe."""
        fd, source = self._fd, self._source
        self._fd, self._source = -1, None
        if source is not None:
            source.close()
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> RangeSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_source"):
            self.close()


def read_many(
    jobs: Iterable[tuple[RangeSource, Sequence[int], Sequence[memoryview]]],
) -> None:
    """`RangeSource.read_into` of several sources, one after the other.

    Those of stores are not waited for one by one: what all of them are asked for
    shares the budget.

    >>> from shardbuild.storage import write_bytes
    >>> write_bytes("memory://doc/many.bin", bytes(range(10)))
    >>> first, second = bytearray(2), bytearray(3)
    >>> with RangeSource("memory://doc/many.bin") as one:
    ...     read_many(
    ...         [(one, [7], [memoryview(first)]), (one, [0], [memoryview(second)])]
    ...     )
    >>> first.hex(), second.hex()
    ('0708', '000102')

    Raises:
        StorageError: A range could not be read whole; names its offset.
    """
    waiting = _Waiting()
    try:
        for source, offsets, views in jobs:
            remote = source._source
            if remote is None:
                source.read_into(offsets, views)
                continue
            remote.check_process()
            for request in _requests(offsets, views, source._max_gap):
                waiting.add(source, remote, request)
        waiting.collect_all()
    finally:
        waiting.end()


class _Waiting:
    """Requests that stores have not answered yet."""

    def __init__(self) -> None:
        self._under_way: dict[Future[Pieces], tuple[str, _Request]] = {}
        self._num_bytes = 0
        self._asked: dict[Source, Meter] = {}

    def add(self, source: RangeSource, remote: Source, request: _Request) -> None:
        """Ask for one more, as soon as the budget allows."""
        from shardbuild.storage.ranges import BUDGET_BYTES

        num_bytes = request.stop - request.start
        while self._under_way and (
            len(self._under_way) >= remote.num_parallel
            or self._num_bytes + num_bytes > BUDGET_BYTES
        ):
            self._collect()
        self._asked[remote] = source._meter
        self._num_bytes += num_bytes
        future = remote.start(request.start, request.stop)
        self._under_way[future] = source.url, request

    def collect_all(self) -> None:
        while self._under_way:
            self._collect()

    def _collect(self) -> None:
        done, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
        for future in done:
            url, request = self._under_way.pop(future)
            self._num_bytes -= request.stop - request.start
            try:
                pieces = future.result()
            except ShardbuildError:
                raise
            except Exception as error:
                raise store_error(url, error) from error
            request.hand_out(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def end(self) -> None:
        for future in self._under_way:
            future.cancel()
        for remote, meter in self._asked.items():
            remote.count(meter)


@dataclass(slots=True)
class _Request:
    """One range to ask for, and the views that it fills."""

    start: int
    stop: int
    pieces: list[tuple[int, memoryview]] = field(default_factory=list)

    def hand_out(self, data: bytes) -> None:
        answer = memoryview(data)
        for offset, view in self.pieces:
            at = offset - self.start
            view[:] = answer[at : at + len(view)]


def _requests(
    offsets: Sequence[int], views: Sequence[memoryview], max_gap: int
) -> Iterator[_Request]:
    """Ranges in order of offset: near ones together, large ones in blocks."""
    current: _Request | None = None
    for offset, view in _pieces(offsets, views):
        stop = offset + len(view)
        if current is not None and _fits(current, offset, stop, max_gap):
            current.stop = max(current.stop, stop)
        else:
            if current is not None:
                yield current
            current = _Request(offset, stop)
        current.pieces.append((offset, view))
    if current is not None:
        yield current


def _fits(request: _Request, offset: int, stop: int, max_gap: int) -> bool:
    from shardbuild.storage.ranges import BLOCK_BYTES

    return offset - request.stop <= max_gap and stop - request.start <= BLOCK_BYTES


def _pieces(
    offsets: Sequence[int], views: Sequence[memoryview]
) -> list[tuple[int, memoryview]]:
    """The ranges cut into blocks, in order of offset; ranges may overlap."""
    from shardbuild.storage.ranges import BLOCK_BYTES

    pieces = [
        (offset + first, view[first : first + BLOCK_BYTES])
        for offset, view in zip(offsets, views, strict=True)
        for first in range(0, len(view), BLOCK_BYTES)
    ]
    return sorted(pieces, key=lambda piece: piece[0])


def _after(views: list[memoryview], done: int) -> list[memoryview]:
    """What is left to fill of some views once ``done`` bytes are there."""
    left = []
    for view in views:
        skip = min(done, len(view))
        done -= skip
        if skip < len(view):
            left.append(view[skip:])
    return left


def read_range(
    url: str, start: int, stop: int, *, storage_options: StorageOptions | None = None
) -> bytes:
    """The bytes of a url from ``start`` up to, not including, ``stop``.

    >>> from shardbuild.storage import write_bytes
    >>> write_bytes("memory://doc/range.txt", b"0123456789")
    >>> read_range("memory://doc/range.txt", 2, 5)
    b'234'

    Raises:
        StorageError: The file ends before ``stop``, or cannot be read.
    """
    buffer = bytearray(max(0, stop - start))
    if buffer:
        with RangeSource(url, storage_options) as source:
            source.read_into([start], [memoryview(buffer)])
    return bytes(buffer)

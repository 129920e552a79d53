"""One object of a store, read by ranges: what S3, GCS, http and others differ in.

A source asks for one range at a time; how many are asked at once, and what is
kept, is decided in ``ranges``. The first answer pins the object's version, so
that bytes of two versions are never mixed.

What comes is handed on in the pieces in which it came: to join 4 MiB anew for each
range costs more than all the rest of the way.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from shardbuild.errors import ShardbuildError, StorageError
from shardbuild.storage.filesystems import (
    filesystem_of,
    is_async,
    is_permanent,
    protocol_of_filesystem,
    status_of,
    store_error,
)
from shardbuild.storage.retries import retried
from shardbuild.storage.stores import facts_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shardbuild.storage.meter import Meter
    from shardbuild.storage.stores import UrlFacts
    from shardbuild.storage.urlparts import StorageOptions

    # The size, and an opened answer whose body is still to be read.
    _Beginning = tuple[int | None, Any]

__all__ = ["NoRangesError", "Pieces", "Source", "num_bytes_of", "open_source"]

Pieces = list[bytes]
"""Bytes in the pieces in which they came, in order."""

_PIECE_BYTES = 1 << 20
_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416


class NoRangesError(StorageError):
    """The server answers a range with the whole object."""


class Source:
    """An object of any store whose fsspec file system has ``_cat_file``."""

    num_parallel = 16

    def __init__(self, url: str, fs: Any, path: str) -> None:
        self.url = url
        self._num_requests = 0
        self._num_fetched = 0
        self._fs = fs
        self._path = path
        self._pid = os.getpid()

    def begin(self, stop: int) -> tuple[int | None, Future[Pieces] | None]:
        """The object's size, and its bytes up to ``stop`` if they are on their way.

        Where the answer to a first range tells the size, that is all one
        request. The size is None when the server tells none, or no ranges.
        """
        size, opened = self._wait(self._submit(self._begin(stop)))
        if opened is None:
            return size, None
        first = self._submit(self._first(min(stop, size), opened))
        # Nobody else lets go of the connection when this is never read.
        loop = self._fs.loop
        first.add_done_callback(lambda _: loop.call_soon_threadsafe(opened.close))
        return size, first

    def look(self) -> UrlFacts:
        """Size and version; from now on no other version is read."""
        info = self._wait(self._submit(self._informed()))
        self._size_in(info)
        self._pin(info)
        return facts_of(self.url, info)

    async def _informed(self) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            self._num_requests += 1
            info: dict[str, Any] = await self._fs._info(self._path)
            return info

        self._fs.invalidate_cache()
        return await retried(self.url, ask)

    def _pin(self, info: dict[str, Any]) -> None:
        """Remember the version that ``info`` tells of."""

    def start(self, start: int, stop: int) -> Future[Pieces]:
        """Begin to fetch a range; its answer is never shorter or longer."""
        return self._submit(self._fetch(start, stop))

    def fetch_all(self) -> bytes:
        """The whole object by one request."""
        return b"".join(self._wait(self._submit(self._counted(self._get_all, ""))))

    def count(self, meter: Meter) -> None:
        """Tell a meter what was moved since this was last called."""
        num_bytes, num_requests = self._num_fetched, self._num_requests
        self._num_fetched -= num_bytes
        self._num_requests -= num_requests
        meter.count_read(num_bytes, num_requests)

    def close(self) -> None:
        """Let go of what is open; asking again opens it again."""

    def check_process(self) -> None:
        """Refuse to wait for a loop that runs in our parent process only."""
        if self._pid != os.getpid():
            raise StorageError(self.url, "was opened before a fork: open it again")

    def _submit(self, coroutine: Any) -> Future[Any]:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self._fs.loop)
        return future

    def _wait(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except BaseException as error:
            future.cancel()
            if isinstance(error, ShardbuildError) or not isinstance(error, Exception):
                raise
            raise store_error(self.url, error) from error

    async def _fetch(self, start: int, stop: int) -> Pieces:
        async def get() -> Pieces:
            pieces = await self._get(start, stop)
            if num_bytes_of(pieces) != stop - start:
                told = f"{num_bytes_of(pieces)} of {stop - start} bytes"
                raise OSError(f"the store sent {told}")
            return pieces

        return await self._counted(get, f"at byte {start}: ")

    async def _counted(
        self, get: Callable[[], Awaitable[Pieces]], where: str
    ) -> Pieces:
        async def counted() -> Pieces:
            self._num_requests += 1
            pieces = await get()
            self._num_fetched += num_bytes_of(pieces)
            return pieces

        try:
            return await retried(self.url, counted)
        except Exception as error:
            if isinstance(error, NoRangesError):
                raise
            raise StorageError(
                self.url, where + store_error(self.url, error).problem
            ) from error

    async def _begin(self, stop: int) -> _Beginning:
        return await self._look(), None

    async def _look(self) -> int | None:
        self._fs.invalidate_cache()
        info = await self._fs._info(self._path)
        return self._size_in(info)

    async def _first(self, stop: int, opened: Any) -> Pieces:
        """The body of the first answer; fetched anew when it breaks off."""
        try:
            pieces = await _read_body(opened)
        except Exception as error:
            if is_permanent(error):
                raise
            pieces = []
        num_bytes = num_bytes_of(pieces)
        self._num_fetched += num_bytes
        return pieces if num_bytes == stop else await self._fetch(0, stop)

    def _size_in(self, info: dict[str, Any]) -> int | None:
        if info.get("type") == "directory":
            raise StorageError(self.url, "is a folder")
        size = info.get("size")
        return None if size is None else int(size)

    async def _get(self, start: int, stop: int) -> Pieces:
        return [await self._fs._cat_file(self._path, start=start, end=stop)]

    async def _get_all(self) -> Pieces:
        return [await self._fs._cat_file(self._path)]


class _S3Source(Source):
    """Pins the ETag (and the version, when the url names one)."""

    def __init__(self, url: str, fs: Any, path: str) -> None:
        super().__init__(url, fs, path)
        bucket, key, version = fs.split_path(path)
        self._object = {"Bucket": bucket, "Key": key}
        if version:
            self._object["VersionId"] = version
        self._etag: str | None = None

    def _pin(self, info: dict[str, Any]) -> None:
        self._etag = info.get("ETag")

    async def _begin(self, stop: int) -> _Beginning:
        async def ask() -> dict[str, Any]:
            self._num_requests += 1
            return await self._ask(Range=f"bytes=0-{stop - 1}")

        try:
            answer = await retried(self.url, ask)
        except OSError as error:
            if status_of(error) == _RANGE_NOT_SATISFIABLE:
                return 0, None
            raise
        size = _size_of_range(answer.get("ContentRange"))
        body = answer["Body"]
        if size is None:
            body.close()
            return None, None
        return size, body

    async def _get(self, start: int, stop: int) -> Pieces:
        answer = await self._ask(Range=f"bytes={start}-{stop - 1}")
        return await _read_body(answer["Body"])

    async def _get_all(self) -> Pieces:
        return await _read_body((await self._ask())["Body"])

    async def _ask(self, **more: str) -> dict[str, Any]:
        if self._etag:
            more["IfMatch"] = self._etag
        answer: dict[str, Any] = await self._fs._call_s3(
            "get_object", **self._object, **more
        )
        self._etag = self._etag or answer.get("ETag")
        return answer


class _GcsSource(Source):
    """Pins the generation."""

    _generation: str | None = None

    def _pin(self, info: dict[str, Any]) -> None:
        self._generation = info.get("generation")

    async def _look(self) -> int | None:
        self._fs.invalidate_cache()
        self._num_requests += 1
        info = await self._fs._info(self._path)
        self._generation = info.get("generation")
        return self._size_in(info)

    async def _get(self, start: int, stop: int) -> Pieces:
        return await self._call({"Range": f"bytes={start}-{stop - 1}"})

    async def _get_all(self) -> Pieces:
        return await self._call({})

    async def _call(self, headers: dict[str, str]) -> Pieces:
        where = self._fs.url(self._path, generation=self._generation)
        answer, data = await self._fs._call("GET", where, headers=headers)
        self._generation = self._generation or answer.get("x-goog-generation")
        return [data]


class _HttpSource(Source):
    """Pins a strong ETag; knows a server that ignores ranges."""

    num_parallel = 8
    _etag: str | None = None

    def _pin(self, info: dict[str, Any]) -> None:
        etag = str(info.get("ETag") or "W/")
        self._etag = None if etag.startswith("W/") else etag

    async def _begin(self, stop: int) -> _Beginning:
        async def ask() -> Any:
            self._num_requests += 1
            return await self._ask(0, stop)

        try:
            answer = await retried(self.url, ask)
        except NoRangesError:
            return None, None
        except Exception as error:
            if status_of(error) == _RANGE_NOT_SATISFIABLE:
                return 0, None
            raise
        size = _size_of_range(answer.headers.get("Content-Range"))
        if size is None:
            answer.close()
            return None, None
        return size, answer

    async def _get(self, start: int, stop: int) -> Pieces:
        return await _read_body(await self._ask(start, stop))

    async def _ask(self, start: int, stop: int) -> Any:
        headers = dict(self._fs.kwargs.get("headers", {}))
        headers["Range"] = f"bytes={start}-{stop - 1}"
        headers["Accept-Encoding"] = "identity"
        if self._etag:
            headers["If-Match"] = self._etag
        options = {**self._fs.kwargs, "headers": headers}
        session = await self._fs.set_session()
        answer = await session.get(self._fs.encode_url(self._path), **options)
        if answer.status != _PARTIAL_CONTENT:
            answer.close()
            self._fs._raise_not_found_for_status(answer, self._path)
            raise NoRangesError(self.url, "the server does not answer ranges")
        etag = answer.headers.get("ETag", "W/")
        if not etag.startswith("W/"):
            self._etag = self._etag or etag
        return answer


async def _read_body(answer: Any) -> Pieces:
    """What is left of an answer of aiohttp's, or of aiobotocore's around it."""
    try:
        if hasattr(answer, "iter_chunks"):
            return [piece async for piece in answer.iter_chunks(_PIECE_BYTES)]
        return [piece async for piece in answer.content.iter_any()]
    finally:
        answer.close()


def num_bytes_of(pieces: Pieces) -> int:
    """The length of what came in pieces."""
    return sum(map(len, pieces))


def _size_of_range(content_range: str | None) -> int | None:
    """The whole size that the header of a partial answer tells.

    >>> _size_of_range("bytes 0-9/25"), _size_of_range("bytes 0-9/*")
    (25, None)
    """
    size = (content_range or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


class _OrdinarySource(Source):
    """A store whose file system is not asynchronous: one range at a time."""

    num_parallel = 1

    def __init__(self, url: str, fs: Any, path: str) -> None:
        super().__init__(url, fs, path)
        self._lock = threading.Lock()
        self._file: Any = None

    def begin(self, stop: int) -> tuple[int | None, Future[Pieces] | None]:
        try:
            return self._size_in(self._fs.info(self._path)), None
        except Exception as error:
            raise store_error(self.url, error) from error

    def look(self) -> UrlFacts:
        try:
            self._fs.invalidate_cache()
            info = self._fs.info(self._path)
            self._size_in(info)
        except Exception as error:
            raise store_error(self.url, error) from error
        return facts_of(self.url, info)

    def start(self, start: int, stop: int) -> Future[Pieces]:
        future: Future[Pieces] = Future()
        self._num_requests += 1
        try:
            with self._lock:
                data = self._read(start, stop)
            self._num_fetched += len(data)
        except Exception as error:  # noqa: BLE001 - told when the future is asked
            future.set_exception(store_error(self.url, error))
            return future
        if len(data) == stop - start:
            future.set_result([data])
        else:
            problem = f"at byte {start}: got {len(data)} of {stop - start} bytes"
            future.set_exception(StorageError(self.url, problem))
        return future

    def _read(self, start: int, stop: int) -> bytes:
        # fsspec's memory files share one position among all who read them
        if protocol_of_filesystem(self._fs) == "memory":
            return cast("bytes", self._fs.cat_file(self._path, start, stop))
        if self._file is None:
            self._file = self._fs.open(self._path, "rb")
        self._file.seek(start)
        return cast("bytes", self._file.read(stop - start))

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def fetch_all(self) -> bytes:
        self._num_requests += 1
        try:
            data: bytes = self._fs.cat_file(self._path)
        except Exception as error:
            raise store_error(self.url, error) from error
        self._num_fetched += len(data)
        return data


_SOURCES: dict[str, type[Source]] = {
    "gcs": _GcsSource,
    "gs": _GcsSource,
    "http": _HttpSource,
    "https": _HttpSource,
    "s3": _S3Source,
    "s3a": _S3Source,
}


def open_source(url: str, options: StorageOptions | None = None) -> Source:
    """The source for a url of a store; nothing is asked of the store yet."""
    fs, path = filesystem_of(url, options)
    if not is_async(fs):
        return _OrdinarySource(url, fs, path)
    return _SOURCES.get(protocol_of_filesystem(fs), Source)(url, fs, path)

"""Uploads to Google's storage: one request, or one resumable upload."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from shardbuild.errors import StorageError
from shardbuild.storage.filesystems import store_error
from shardbuild.storage.multipart import PartedUpload
from shardbuild.storage.retries import retried

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["GcsUpload", "is_zonal"]

_TYPE = {"Content-Type": "application/octet-stream"}


def is_zonal(fs: Any, path: str) -> bool:
    """Whether a bucket takes uploads by gRPC only, which gcsfs does."""
    if not hasattr(fs, "_is_zonal_bucket"):
        return False
    from fsspec.asyn import sync

    try:
        return bool(sync(fs.loop, fs._is_zonal_bucket, fs.split_path(path)[0]))
    except Exception as error:
        raise store_error(f"gs://{path}", error) from error


def _kept_bytes(answered_range: str | None) -> int:
    """How much of an upload the store says that it keeps.

    >>> _kept_bytes("bytes=0-262143"), _kept_bytes(None)
    (262144, 0)
    """
    last = (answered_range or "").rpartition("-")[2]
    return int(last) + 1 if last.isdigit() else 0


class GcsUpload(PartedUpload):
    """Parts sent one after the other, finished at ``close``.

    While a part travels the next one is filled.
    """

    def __init__(self, url: str, fs: Any, path: str) -> None:
        super().__init__(url, fs)
        bucket, key, _ = fs.split_path(path)
        if not bucket or not key:
            raise StorageError(url, "names no object")
        self._requests = _GcsRequests(url, fs, bucket, key)
        self._location: str | None = None
        self._offset = 0
        self._in_flight: Future[None] | None = None
        self._opened()

    def _send(self, part: bytes, *, is_last: bool = False) -> None:
        if self._location is None:
            self._location = self._submit(self._requests.begin()).result()
        if self._in_flight is not None:
            self._in_flight.result()
        start, self._offset = self._offset, self._offset + len(part)
        total = self._offset if is_last else None
        sent = self._requests.send(self._location, start, part, total)
        self._in_flight = self._submit(sent)

    def _publish(self) -> None:
        if self._location is None:
            self._submit(self._requests.put(self._take_part())).result()
        else:
            self._send(self._take_part(), is_last=True)
            if self._in_flight is not None:
                self._in_flight.result()
        self._fs.invalidate_cache()

    def _discard(self) -> None:
        if self._in_flight is not None:
            self._in_flight.cancel()
        if self._location is not None:
            self._run_to_discard(self._requests.abort(self._location))


class _GcsRequests:
    """The requests of one upload; knows nothing of the file that sends them."""

    def __init__(self, url: str, fs: Any, bucket: str, key: str) -> None:
        self._url = url
        self._fs = fs
        self._target = f"/upload/storage/v1/b/{quote(bucket)}/o?name={quote(key, '')}"

    async def put(self, data: bytes) -> None:
        """Send an object that fits in one request."""
        await self._ask("POST", self._target, _TYPE, data, uploadType="media")

    async def begin(self) -> str:
        """The location of a new upload."""
        headers = {"X-Upload-Content-Type": _TYPE["Content-Type"]}
        _, answer = await self._ask(
            "POST", self._target, headers, uploadType="resumable"
        )
        return str(answer["Location"])

    async def send(
        self, location: str, start: int, part: bytes, total: int | None
    ) -> None:
        """Send a part; what the store did not keep of it is sent again.

        Bytes that it has already it passes over, so asking again is safe.
        """
        done = 0
        while True:
            rest = part[done:]
            where = f"{start + done}-{start + len(part) - 1}" if rest else "*"
            size = "*" if total is None else str(total)
            headers = {**_TYPE, "Content-Range": f"bytes {where}/{size}"}
            status, answer = await self._ask("PUT", location, headers, rest)
            if status in (200, 201):
                return
            kept = _kept_bytes(answer.get("Range")) - start
            if kept == len(part) and total is None:
                return
            if kept <= done:
                problem = f"the store keeps no byte from {start + done} on"
                raise StorageError(self._url, problem)
            done = kept

    async def abort(self, location: str) -> None:
        """Give an upload up; one that is unknown is given up already."""
        try:
            await self._ask("DELETE", location, {})
        except FileNotFoundError:
            return

    async def _ask(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes = b"",
        **parameters: str,
    ) -> tuple[int, Any]:
        where = target if "://" in target else f"{self._fs._location}{target}"

        async def ask() -> tuple[int, Any]:
            status, answer, _, _ = await self._fs._request(
                method, where, headers=headers, data=io.BytesIO(body), **parameters
            )
            return status, answer

        return await retried(self._url, ask)

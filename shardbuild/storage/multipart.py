"""Uploads in parts that travel while the next one is filled: S3's."""

from __future__ import annotations

import asyncio
import io
from abc import abstractmethod
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from shardbuild.errors import StorageError
from shardbuild.storage.filesystems import is_on_loop
from shardbuild.storage.publish import AtomicFile
from shardbuild.storage.retries import retried

__all__ = ["PART_BYTES", "PartedUpload", "S3Upload"]

PART_BYTES = 8 << 20
_MAX_IN_FLIGHT = 6
_PARTS_OF_ONE_SIZE = 1000  # then twice as large: 10,000 parts reach 5 TiB
_DISCARD_SECONDS = 60.0


class PartedUpload(AtomicFile):
    """Fills parts and gives each on when it is full and more comes.

    So what fits in one part is a single request at ``close``.
    """

    def __init__(self, url: str, fs: Any) -> None:
        super().__init__(url)
        self._fs = fs
        self._part = io.BytesIO()

    def _write(self, data: Any) -> int:
        with memoryview(data) as given, given.cast("B") as view:
            start = 0
            while start < len(view):
                if self._part.tell() >= self._part_bytes():
                    self._send(self._take_part())
                room = self._part_bytes() - self._part.tell()
                start += self._part.write(view[start : start + room])
            self._position += len(view)
            return len(view)

    def _take_part(self) -> bytes:
        part, self._part = self._part.getvalue(), io.BytesIO()
        self._meter.count_write(len(part))
        return part

    def _part_bytes(self) -> int:
        return PART_BYTES

    @abstractmethod
    def _send(self, part: bytes) -> None:
        """Put a full part on its way."""

    def _submit(self, coroutine: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._fs.loop)

    def _run_to_discard(self, coroutine: Any) -> None:
        self._part = io.BytesIO()
        done = self._submit(coroutine)
        if not is_on_loop(self._fs):  # the collector may call us there
            done.result(_DISCARD_SECONDS)


class S3Upload(PartedUpload):
    """A multipart upload, completed at ``close``; six parts travel at once."""

    def __init__(self, url: str, fs: Any, path: str) -> None:
        super().__init__(url, fs)
        bucket, key, _ = fs.split_path(path)
        if not bucket or not key:
            raise StorageError(url, "names no object")
        self._requests = _S3Requests(url, fs, {"Bucket": bucket, "Key": key})
        self._upload_id: str | None = None
        self._num_parts = 0
        self._in_flight: set[Future[dict[str, Any]]] = set()
        self._done: list[dict[str, Any]] = []
        self._opened()

    def _part_bytes(self) -> int:
        if self._fs.fixed_upload_size:
            return 8 * PART_BYTES
        return PART_BYTES << min(self._num_parts // _PARTS_OF_ONE_SIZE, 9)

    def _send(self, part: bytes) -> None:
        if self._upload_id is None:
            answer = self._submit(self._requests.ask("create_multipart_upload"))
            self._upload_id = answer.result()["UploadId"]
        while len(self._in_flight) >= self._max_in_flight():
            self._collect()
        self._num_parts += 1
        sent = self._requests.send_part(self._upload_id, self._num_parts, part)
        self._in_flight.add(self._submit(sent))

    def _max_in_flight(self) -> int:
        return max(1, _MAX_IN_FLIGHT * PART_BYTES // self._part_bytes())

    def _collect(self) -> None:
        """Wait for at least one part; raise the error of one that failed."""
        done, self._in_flight = wait(self._in_flight, return_when=FIRST_COMPLETED)
        self._done += [future.result() for future in done]

    def _publish(self) -> None:
        if self._upload_id is None:
            put = self._requests.ask("put_object", body=self._take_part())
            self._submit(put).result()
        else:
            self._send(self._take_part())
            while self._in_flight:
                self._collect()
            parts = sorted(self._done, key=lambda part: int(part["PartNumber"]))
            completed = self._requests.complete(self._upload_id, parts, self._position)
            self._submit(completed).result()
        self._fs.invalidate_cache()

    def _discard(self) -> None:
        if self._upload_id is not None:
            for future in self._in_flight:
                future.cancel()
            self._run_to_discard(self._requests.abort(self._upload_id))


class _S3Requests:
    """The requests of one upload; knows nothing of the file that sends them.

    So a file that is forgotten is collected, and discarded, at once, and not
    when the last of its parts has arrived.
    """

    def __init__(self, url: str, fs: Any, target: dict[str, str]) -> None:
        self._url = url
        self._fs = fs
        self._target = target

    async def ask(
        self, method: str, *, body: bytes | None = None, **arguments: Any
    ) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            if body is not None:  # a file: aiohttp sends it piece by piece
                arguments["Body"] = io.BytesIO(body)
            answer: dict[str, Any] = await self._fs._call_s3(
                method, **self._target, **arguments
            )
            return answer

        return await retried(self._url, ask)

    async def send_part(
        self, upload_id: str, number: int, body: bytes
    ) -> dict[str, Any]:
        answer = await self.ask(
            "upload_part", PartNumber=number, UploadId=upload_id, body=body
        )
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        if "ChecksumSHA256" in answer:
            part["ChecksumSHA256"] = answer["ChecksumSHA256"]
        return part

    async def complete(
        self, upload_id: str, parts: list[dict[str, Any]], num_bytes: int
    ) -> dict[str, Any]:
        try:
            return await self.ask(
                "complete_multipart_upload",
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )
        except FileNotFoundError:
            # The answer was lost and asked for again: the upload is gone because
            # it is complete. The object must be what we sent: so many bytes, and
            # an ETag that tells so many parts.
            answer = await self.ask("head_object")
            etag = str(answer.get("ETag", "")).strip('"')
            if answer["ContentLength"] == num_bytes and etag.endswith(f"-{len(parts)}"):
                return answer
            raise

    async def abort(self, upload_id: str) -> dict[str, Any]:
        try:
            return await self.ask("abort_multipart_upload", UploadId=upload_id)
        except FileNotFoundError:
            return {}  # it is complete, or aborted already

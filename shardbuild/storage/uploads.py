"""Publishing into stores: S3 by parts, others as fsspec can."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from shardbuild.errors import StorageError
from shardbuild.storage.filesystems import (
    filesystem_of,
    is_on_loop,
    protocol_of_filesystem,
    store_error,
    without_caches,
)
from shardbuild.storage.publish import AtomicFile, is_temporary, temporary_name
from shardbuild.storage.retries import retried
from shardbuild.storage.urlparts import StorageOptions, join_url, split_url

__all__ = ["open_upload", "remove_remote_leftovers"]

PART_BYTES = 8 << 20
_MAX_IN_FLIGHT = 6
_PARTS_OF_ONE_SIZE = 1000  # then twice as large: 10,000 parts reach 5 TiB
_ABORT_SECONDS = 60.0
_ARCHIVES = frozenset(("zip", "tar", "libarchive", "reference", "git", "github"))


def open_upload(url: str, options: StorageOptions | None) -> AtomicFile:
    """Open an object of a store; see ``publish.open_atomic``."""
    target, options = without_caches(url, options)
    fs, path = filesystem_of(target, options)
    protocol = protocol_of_filesystem(fs)
    if protocol in _ARCHIVES:
        raise StorageError(url, "a member of an archive cannot be published at once")
    if protocol == "memory":
        return _MemoryUpload(url, fs, path)
    if protocol in ("s3", "s3a"):
        return _S3Upload(url, fs, path)
    if protocol in ("gs", "gcs"):
        return _UncommittedUpload(url, fs, path)
    return _MovedUpload(url, fs, path)


class _MemoryUpload(AtomicFile):
    """Kept here until it is put under its name in one step."""

    def __init__(self, url: str, fs: Any, path: str) -> None:
        super().__init__(url)
        self._fs = fs
        self._path = path
        self._data = bytearray()
        self._opened()

    def _write(self, data: Any) -> int:
        with memoryview(data) as view:
            self._data += view.cast("B")
            self._position += view.nbytes
            return view.nbytes

    def _publish(self) -> None:
        self._fs.pipe_file(self._path, bytes(self._data))
        self._meter.count_write(self._position)

    def _discard(self) -> None:
        self._data.clear()


class _S3Upload(AtomicFile):
    """Parts on their way while the next is filled; completed at ``close``.

    What fits in one part is put by a single request.
    """

    def __init__(self, url: str, fs: Any, path: str) -> None:
        super().__init__(url)
        bucket, key, _ = fs.split_path(path)
        if not bucket or not key:
            raise StorageError(url, "names no object")
        self._fs = fs
        self._requests = _S3Requests(url, fs, {"Bucket": bucket, "Key": key})
        self._upload_id: str | None = None
        self._part = io.BytesIO()
        self._num_parts = 0
        self._in_flight: set[Future[dict[str, Any]]] = set()
        self._done: list[dict[str, Any]] = []
        self._opened()

    def _write(self, data: Any) -> int:
        with memoryview(data) as given, given.cast("B") as view:
            start = 0
            while start < len(view):
                if self._part.tell() >= self._part_bytes():
                    self._send()
                room = self._part_bytes() - self._part.tell()
                start += self._part.write(view[start : start + room])
            self._position += len(view)
            return len(view)

    def _part_bytes(self) -> int:
        if self._fs.fixed_upload_size:
            return PART_BYTES
        return PART_BYTES << min(self._num_parts // _PARTS_OF_ONE_SIZE, 9)

    def _send(self) -> None:
        if self._upload_id is None:
            answer = self._submit(self._requests.ask("create_multipart_upload"))
            self._upload_id = answer.result()["UploadId"]
        while len(self._in_flight) >= self._max_in_flight():
            self._collect()
        part, self._part = self._part.getvalue(), io.BytesIO()
        self._num_parts += 1
        sent = self._requests.send_part(self._upload_id, self._num_parts, part)
        self._in_flight.add(self._submit(sent))
        self._meter.count_write(len(part))

    def _max_in_flight(self) -> int:
        return max(1, _MAX_IN_FLIGHT * PART_BYTES // self._part_bytes())

    def _collect(self) -> None:
        """Wait for at least one part; raise the error of one that failed."""
        done, self._in_flight = wait(self._in_flight, return_when=FIRST_COMPLETED)
        self._done += [future.result() for future in done]

    def _submit(self, coroutine: Any) -> Future[dict[str, Any]]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._fs.loop)

    def _publish(self) -> None:
        if self._upload_id is None:
            put = self._requests.ask("put_object", body=self._part.getvalue())
            self._submit(put).result()
            self._meter.count_write(self._position)
        else:
            self._send()
            while self._in_flight:
                self._collect()
            parts = sorted(self._done, key=lambda part: int(part["PartNumber"]))
            completed = self._requests.complete(self._upload_id, parts, self._position)
            self._submit(completed).result()
        self._part = io.BytesIO()
        self._fs.invalidate_cache()

    def _discard(self) -> None:
        self._part = io.BytesIO()
        if self._upload_id is None:
            return
        for future in self._in_flight:
            future.cancel()
        aborted = self._submit(self._requests.abort(self._upload_id))
        if not is_on_loop(self._fs):  # the collector may call us there
            aborted.result(_ABORT_SECONDS)


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


class _UncommittedUpload(AtomicFile):
    """A file of fsspec's that waits for ``commit`` (GCS: one resumable upload)."""

    def __init__(self, url: str, fs: Any, path: str) -> None:
        super().__init__(url)
        self._fs = fs
        try:
            self._file = fs.open(path, "wb", block_size=PART_BYTES, autocommit=False)
        except Exception as error:
            raise store_error(url, error) from error
        self._sent = 0
        self._opened()

    def _write(self, data: Any) -> int:
        with memoryview(data) as view:
            self._file.write(view)
            self._position += view.nbytes
            if self._position - self._sent >= PART_BYTES:
                self._count()
            return view.nbytes

    def _count(self) -> None:
        self._meter.count_write(self._position - self._sent)
        self._sent = self._position

    def _publish(self) -> None:
        self._file.close()
        self._file.commit()
        self._count()
        self._fs.invalidate_cache()

    def _discard(self) -> None:
        try:
            self._file.discard()
        except Exception as error:
            raise store_error(self.name, error) from error
        finally:
            self._file.closed = True


class _MovedUpload(AtomicFile):
    """A temporary object that is moved to its name."""

    def __init__(self, url: str, fs: Any, path: str) -> None:
        super().__init__(url)
        self._fs = fs
        self._path = path
        folder, slash, name = path.rpartition("/")
        self._temporary = f"{folder}{slash}{temporary_name(name)}"
        try:
            if folder:
                fs.makedirs(folder, exist_ok=True)
            self._file = fs.open(self._temporary, "wb")
        except NotImplementedError as error:
            raise StorageError(url, "this store cannot be written to") from error
        except Exception as error:
            raise store_error(url, error) from error
        self._opened()

    def _write(self, data: Any) -> int:
        with memoryview(data) as view:
            self._file.write(view)
            self._position += view.nbytes
            self._meter.count_write(view.nbytes)
            return view.nbytes

    def _publish(self) -> None:
        self._file.close()
        self._fs.mv(self._temporary, self._path)
        self._fs.invalidate_cache()

    def _discard(self) -> None:
        try:
            self._file.close()
            if self._fs.exists(self._temporary):
                self._fs.rm(self._temporary)
        except Exception as error:
            raise store_error(self.name, error) from error


def remove_remote_leftovers(
    url: str, name_prefix: str, options: StorageOptions | None
) -> None:
    """See ``publish.remove_leftovers``."""
    folder, options = without_caches(url, options)
    fs, path = filesystem_of(folder, options)
    protocol = protocol_of_filesystem(fs)
    try:
        if protocol in ("s3", "s3a"):
            _abort_uploads(fs, path, name_prefix)
        elif protocol not in ("gs", "gcs", "memory"):
            _remove_temporaries(fs, path, name_prefix)
    except FileNotFoundError:
        return  # no such folder: nothing was left in it
    except Exception as error:
        raise store_error(join_url(url, name_prefix), error) from error


def _abort_uploads(fs: Any, path: str, name_prefix: str) -> None:
    bucket, key, _ = fs.split_path(path)
    folder = f"{key.rstrip('/')}/" if key.rstrip("/") else ""
    prefix = folder + name_prefix
    marker: dict[str, str] = {}
    while True:
        page = fs.call_s3(
            "list_multipart_uploads", Bucket=bucket, Prefix=prefix, **marker
        )
        for upload in page.get("Uploads", []):
            name = upload["Key"][len(folder) :]
            if upload["Key"].startswith(prefix) and "/" not in name:
                fs.call_s3(
                    "abort_multipart_upload",
                    Bucket=bucket,
                    Key=upload["Key"],
                    UploadId=upload["UploadId"],
                )
        if not page.get("IsTruncated"):
            return
        marker = {
            "KeyMarker": page["NextKeyMarker"],
            "UploadIdMarker": page["NextUploadIdMarker"],
        }


def _remove_temporaries(fs: Any, path: str, name_prefix: str) -> None:
    fs.invalidate_cache()
    for name in fs.ls(path, detail=False):
        if is_temporary(split_url(name)[1], name_prefix):
            fs.rm(name)

"""Publishing into stores: S3 and GCS by parts, others as fsspec can."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from shardbuild.errors import StorageError
from shardbuild.storage.filesystems import (
    filesystem_of,
    protocol_of_filesystem,
    store_error,
    without_caches,
)
from shardbuild.storage.multipart import PART_BYTES, S3Upload
from shardbuild.storage.publish import AtomicFile, final_name, temporary_name
from shardbuild.storage.resumable import GcsUpload, is_zonal
from shardbuild.storage.urlparts import StorageOptions, split_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["abort_upload", "open_upload", "pending_uploads", "remove_remote_leftovers"]

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
        return S3Upload(url, fs, path)
    if protocol in ("gs", "gcs"):
        kind = _UncommittedUpload if is_zonal(fs, path) else GcsUpload
        return kind(url, fs, path)
    if protocol in ("ftp", "ftps"):
        from shardbuild.storage.ftp import FtpUpload

        return FtpUpload(url, fs, path)
    if protocol in ("http", "https"):
        from shardbuild.storage.httpupload import HttpUpload

        return HttpUpload(url, fs, path)
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


class _UncommittedUpload(AtomicFile):
    """A file of fsspec's that waits for ``commit``: zonal buckets of GCS."""

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
        _move(self._fs, self._temporary, self._path)
        self._fs.invalidate_cache()

    def _discard(self) -> None:
        try:
            self._file.close()
            if self._fs.exists(self._temporary):
                self._fs.rm_file(self._temporary)
        except Exception as error:
            raise store_error(self.name, error) from error


def _move(fs: Any, source: str, target: str) -> None:
    """Move one object: by the store's own way, or else by a copy.

    fsspec's general ``mv`` would take ``[``, ``?`` and ``*`` in a name as a glob.
    """
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    if type(fs).mv in (AbstractFileSystem.mv, AsyncFileSystem.mv):
        fs.cp_file(source, target)
        fs.rm_file(source)
    else:
        fs.mv(source, target)


def remove_remote_leftovers(
    url: str, is_ours: Callable[[str], bool], options: StorageOptions | None
) -> None:
    """See ``publish.remove_leftovers``."""
    folder, options = without_caches(url, options)
    fs, path = filesystem_of(folder, options)
    protocol = protocol_of_filesystem(fs)
    try:
        if protocol in ("s3", "s3a"):
            _abort_uploads(fs, path, is_ours)
        elif protocol not in ("gs", "gcs", "memory"):
            _remove_temporaries(fs, path, is_ours)
    except FileNotFoundError:
        return  # no such folder: nothing was left in it
    except Exception as error:
        raise store_error(url, error) from error


def _abort_uploads(fs: Any, path: str, is_ours: Callable[[str], bool]) -> None:
    """Abort the uploads of names directly inside a folder."""
    bucket, key, _ = fs.split_path(path)
    folder = f"{key.rstrip('/')}/" if key.rstrip("/") else ""
    for upload in list(pending_uploads(fs, bucket, folder)):
        name = upload["Key"][len(folder) :]
        if "/" not in name and is_ours(name):
            abort_upload(fs, bucket, upload)


def pending_uploads(fs: Any, bucket: str, prefix: str) -> Iterator[dict[str, str]]:
    """The uploads of S3 that nobody has completed, of keys with this prefix."""
    marker: dict[str, str] = {}
    while True:
        page = fs.call_s3(
            "list_multipart_uploads", Bucket=bucket, Prefix=prefix, **marker
        )
        for upload in page.get("Uploads", []):
            if upload["Key"].startswith(prefix):
                yield upload
        if not page.get("IsTruncated"):
            return
        marker = {
            "KeyMarker": page["NextKeyMarker"],
            "UploadIdMarker": page["NextUploadIdMarker"],
        }


def abort_upload(fs: Any, bucket: str, upload: Mapping[str, str]) -> None:
    """Abort an upload; one that has gone by now is no error."""
    with contextlib.suppress(FileNotFoundError):
        fs.call_s3(
            "abort_multipart_upload",
            Bucket=bucket,
            Key=upload["Key"],
            UploadId=upload["UploadId"],
        )


def _remove_temporaries(fs: Any, path: str, is_ours: Callable[[str], bool]) -> None:
    fs.invalidate_cache()
    for name in fs.ls(path, detail=False):
        whole = final_name(split_url(name)[1])
        if whole is not None and is_ours(whole):
            fs.rm_file(name)

"""What is there: sizes, fingerprints, names; and taking it away."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardbuild.errors import StorageError
from shardbuild.storage.filesystems import (
    filesystem_of,
    is_async,
    is_missing,
    protocol_of_filesystem,
    store_error,
    without_caches,
)
from shardbuild.storage.parallel import map_parallel
from shardbuild.storage.schemes import is_stream
from shardbuild.storage.urlparts import StorageOptions, local_path, protocol_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "UrlFacts",
    "exists",
    "facts_of",
    "free_bytes",
    "list_names",
    "remove",
    "remove_tree",
    "stat_url",
    "stat_urls",
]

_STAT_THREADS = 32
_DELETED_AT_ONCE = 1000  # keys in one request of S3


@dataclass(frozen=True, slots=True)
class UrlFacts:
    """What is known of a url without reading it."""

    url: str
    num_bytes: int | None
    """None for a stream, and where a server does not tell."""
    fingerprint: str
    """Differs when the content does: size and time, or the store's own mark."""


def stat_url(url: str, storage_options: StorageOptions | None = None) -> UrlFacts:
    """Size and fingerprint of a url; never from a cached listing.

    >>> from shardbuild.storage import write_bytes
    >>> write_bytes("memory://doc/facts.txt", b"12345")
    >>> stat_url("memory://doc/facts.txt").num_bytes
    5

    Raises:
        StorageError: There is no such file.
    """
    if is_stream(url):
        return UrlFacts(url, None, "stream")
    path = local_path(url)
    if path is not None:
        return _local_facts(url, path)
    info = _info(url, storage_options)
    if info.get("type") == "directory":
        raise StorageError(url, "is a folder")
    return facts_of(url, info)


def stat_urls(
    urls: Sequence[str], storage_options: StorageOptions | None = None
) -> list[UrlFacts]:
    """``stat_url`` of many urls, in order; stores are asked 32 times at once."""
    from concurrent.futures import ThreadPoolExecutor

    remote = [url for url in urls if not _is_near(url)]
    if len(remote) <= 1:
        return [stat_url(url, storage_options) for url in urls]
    with ThreadPoolExecutor(min(_STAT_THREADS, len(remote))) as pool:
        futures = [
            pool.submit(copy_context().run, stat_url, url, storage_options)
            for url in remote
        ]
        try:
            far = {url: f.result() for url, f in zip(remote, futures, strict=True)}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [far[url] if url in far else stat_url(url) for url in urls]


def _is_near(url: str) -> bool:
    return protocol_of(url) in (None, "pipe", "file", "memory")


def _local_facts(url: str, path: str) -> UrlFacts:
    import stat

    try:
        facts = os.stat(path)
    except OSError as error:
        raise store_error(url, error) from error
    if stat.S_ISDIR(facts.st_mode):
        raise StorageError(url, "is a folder")
    if not stat.S_ISREG(facts.st_mode):
        return UrlFacts(url, None, "stream")
    return UrlFacts(url, facts.st_size, f"{facts.st_size}-{facts.st_mtime_ns}")


def _info(url: str, options: StorageOptions | None) -> dict[str, Any]:
    fs, path = filesystem_of(*without_caches(url, options))
    try:
        fs.invalidate_cache()
        info: dict[str, Any] = fs.info(path)
    except Exception as error:
        raise store_error(url, error) from error
    return info


_MARKS = ("generation", "ETag", "etag", "md5Hash", "Content-MD5", "Digest", "CRC")
_TIMES = (
    *("LastModified", "Last-Modified", "mtime", "modify", "modified", "created"),
    "date_time",
)


def facts_of(url: str, info: dict[str, Any]) -> UrlFacts:
    """What a file system's ``info`` tells of a url."""
    size = info.get("size")
    num_bytes = None if size is None else int(size)
    marks = (info[name] for name in _MARKS + _TIMES if info.get(name))
    mark = str(next(marks, "unmarked")).strip('"')
    return UrlFacts(url, num_bytes, f"{num_bytes}-{mark}")


def exists(url: str, storage_options: StorageOptions | None = None) -> bool:
    """Whether there is such a file or folder.

    Raises:
        StorageError: The store cannot be asked: that is no "no".
    """
    path = local_path(url)
    if path is not None:
        return os.path.exists(path)
    if is_stream(url):
        return True
    try:
        _info(url, storage_options)
    except StorageError as error:
        if error.__cause__ is not None and is_missing(error.__cause__):
            return False
        raise
    return True


def list_names(
    folder_url: str, storage_options: StorageOptions | None = None
) -> list[str]:
    """Sorted names directly inside a folder; none if there is no such folder.

    >>> from shardbuild.storage import write_bytes
    >>> write_bytes("memory://doc/names/a.txt", b"")
    >>> list_names("memory://doc/names"), list_names("memory://doc/nothing")
    (['a.txt'], [])
    """
    path = local_path(folder_url)
    try:
        if path is not None:
            return sorted(os.listdir(path or "."))
        fs, path = filesystem_of(*without_caches(folder_url, storage_options))
        fs.invalidate_cache()
        found = fs.ls(path, detail=False)
    except Exception as error:
        if is_missing(error):
            return []
        raise store_error(folder_url, error) from error
    folder = path.strip("/")
    inside = (name for name in found if name.strip("/") != folder)
    return sorted(name.rstrip("/").rpartition("/")[2] for name in inside)


def remove(url: str, storage_options: StorageOptions | None = None) -> None:
    """Delete one file; a missing one is no error."""
    path = local_path(url)
    try:
        if path is not None:
            os.unlink(path)
            return
        fs, path = filesystem_of(*without_caches(url, storage_options))
        fs.rm_file(path)
    except Exception as error:
        if not is_missing(error):
            raise store_error(url, error) from error


def remove_tree(folder_url: str, storage_options: StorageOptions | None = None) -> None:
    """Delete a folder with all that is in it; a missing one is no error.

    On S3 the pending uploads into it are aborted. Call it only while nobody writes
    there.

    Raises:
        StorageError: Something is left, or the url names a whole bucket or disk.
    """
    path = local_path(folder_url)
    if path is not None:
        _remove_local_tree(folder_url, path)
        return
    fs, path = filesystem_of(*without_caches(folder_url, storage_options))
    protocol = protocol_of_filesystem(fs)
    in_bucket = protocol in ("s3", "s3a", "gs", "gcs")
    if not path.strip("/") or (in_bucket and "/" not in path.strip("/")):
        raise StorageError(folder_url, "is no folder that may be removed")
    try:
        fs.invalidate_cache()
        if protocol in ("s3", "s3a"):
            _remove_s3_tree(fs, path)
        else:
            _remove_any_tree(fs, path)
    except Exception as error:
        if not is_missing(error):
            raise store_error(folder_url, error) from error


def _remove_local_tree(url: str, path: str) -> None:
    import shutil

    if os.path.realpath(path) == "/" or not path:
        raise StorageError(url, "is no folder that may be removed")
    files = (
        os.path.join(folder, name)
        for folder, _, names in os.walk(path)
        for name in names
    )
    try:
        # Freeing what large files hold takes time, and more than one can be freed.
        deque(map_parallel(_unlink, files, num_parallel=4), maxlen=0)
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise store_error(url, error) from error


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _remove_s3_tree(fs: Any, path: str) -> None:
    """Delete every key under the folder, what is on its way there, and its markers.

    Ours because s3fs does not look at the errors of a bulk delete, and because
    SeaweedFS keeps empty folders until their markers are deleted, inner ones first.
    """
    from shardbuild.storage.uploads import abort_upload, pending_uploads

    bucket, key, _ = fs.split_path(path)
    prefix = key.rstrip("/") + "/"
    for upload in list(pending_uploads(fs, bucket, prefix)):
        abort_upload(fs, bucket, upload)
    token: dict[str, str] = {}
    folders: set[str] = set()
    while True:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **token)
        keys = [item["Key"] for item in page.get("Contents", [])]
        folders.update(_folders_below(prefix, keys))
        _delete_keys(fs, bucket, keys)
        if not page.get("IsTruncated"):
            break
        token = {"ContinuationToken": page["NextContinuationToken"]}
    inner_first = sorted(folders, key=lambda folder: -folder.count("/"))
    _delete_keys(fs, bucket, [*inner_first, prefix])
    fs.invalidate_cache()


def _folders_below(prefix: str, keys: list[str]) -> set[str]:
    """The folders, seen as keys, that hold some keys below a prefix.

    >>> sorted(_folders_below("t/", ["t/a", "t/b/c", "t/b/d/e"]))
    ['t/b/', 't/b/d/']
    """
    found: set[str] = set()
    for key in keys:
        folder = key.rpartition("/")[0] + "/"
        while len(folder) > len(prefix) and folder not in found:
            found.add(folder)
            folder = folder[:-1].rpartition("/")[0] + "/"
    return found


def _delete_keys(fs: Any, bucket: str, keys: list[str]) -> None:
    for first in range(0, len(keys), _DELETED_AT_ONCE):
        some = [{"Key": key} for key in keys[first : first + _DELETED_AT_ONCE]]
        wanted = {"Objects": some, "Quiet": True}
        answer = fs.call_s3("delete_objects", Bucket=bucket, Delete=wanted)
        for error in answer.get("Errors", []):
            problem = f"{error.get('Key')!r} was not deleted: {error.get('Message')}"
            raise OSError(problem)


def _remove_any_tree(fs: Any, path: str) -> None:
    """Delete files, then folders from the innermost out.

    Not ``fs.rm``: it takes ``[``, ``?`` and ``*`` in a name as a glob.
    """
    found = fs.find(path, withdirs=True, detail=True)
    folders = {name for name, info in found.items() if info["type"] == "directory"}
    files = [name for name in found if name not in folders]
    if is_async(fs):
        from fsspec.asyn import sync

        sync(fs.loop, _remove_files, fs, files)
    else:
        for name in files:
            fs.rm_file(name)
    for name in sorted(folders | {path}, key=len, reverse=True):
        with contextlib.suppress(FileNotFoundError, NotImplementedError):
            fs.rmdir(name)


async def _remove_files(fs: Any, names: list[str]) -> None:
    import asyncio

    for first in range(0, len(names), _STAT_THREADS):
        some = names[first : first + _STAT_THREADS]
        await asyncio.gather(*(fs._rm_file(name) for name in some))


def free_bytes(url: str) -> int | None:
    """Free space on the local disk that holds a url; None for a store.

    The url need not exist yet: its nearest folder that does counts.
    """
    path = local_path(url)
    if path is None:
        return None
    folder = os.path.abspath(path)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize

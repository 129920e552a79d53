"""Copies of shards on a local disk, shared by all processes that want them.

A copy is named by the sha256 of the whole url and of its source's fingerprint (the
store's mark, or size and time), so that two urls never share a copy and a source
that changes gets a new one. The name holds the size too, and a copy of another size
is never served. While a copy is made it has a temporary name, and one process has
the claim to make it; both end with that process, also by ``kill -9``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import logging
import os
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from shardbuild.errors import StorageError
from shardbuild.storage.cachefolder import Copy, evict, hold_room, remove_torso
from shardbuild.storage.claims import claim_file
from shardbuild.storage.filesystems import is_missing, store_error
from shardbuild.storage.gopen import LocalReader, gopen
from shardbuild.storage.publish import final_name, open_atomic
from shardbuild.storage.stores import UrlFacts, stat_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from shardbuild.storage.claims import Claim
    from shardbuild.storage.publish import AtomicFile
    from shardbuild.storage.urlparts import StorageOptions

__all__ = ["CacheStream", "ShardCache", "cache_shards", "guess_shard", "shard_uuid"]

logger = logging.getLogger(__name__)

_UNSIZED = "unsized"
_COPY = re.compile(rf"([0-9a-f]{{64}})-(\d+|{_UNSIZED})-.*")
_DRAIN_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
_MAX_LABEL = 80


def guess_shard(path: str) -> str:
    """The file's own name in a url, or in the last word of a command.

    >>> guess_shard("http://h/d/x.tar"), guess_shard("pipe:gsutil cat gs://b/x.tar")
    ('x.tar', 'x.tar')
    """
    words = path.split()
    return words[-1].rpartition("/")[2] if words else ""


def shard_uuid(path: str) -> str:
    """A name for a url that looks like no other's.

    >>> shard_uuid("http://h/d/x.tar")
    '07ce1746-ef1a-3e52-9d69-321412d3f287'
    """
    return str(uuid.uuid3(uuid.NAMESPACE_URL, path))


class CacheStream(io.RawIOBase):
    """Reads a stream, and keeps a copy of it if it is read to its end.

    The copy appears under its name, whole, when the stream ends well, or when the
    ``num_bytes`` that it has were read. ``close`` reads on if little is left, and
    with ``complete=True`` however much is. What is not whole is forgotten, and so
    is a copy that cannot be written: reading goes on without it.

    >>> import io, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with CacheStream(f"{folder}/x.tar", io.BytesIO(b"bytes")) as stream:
    ...         data = stream.read()
    ...     data, os.listdir(folder)
    (b'bytes', ['x.tar'])
    """

    def __init__(
        self,
        fname: str,
        stream: Any,
        verbose: bool = False,  # noqa: FBT001, FBT002  # as it always was
        *,
        num_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self.name = fname
        self._stream = stream
        self._level = logging.INFO if verbose else logging.DEBUG
        self._num_bytes = num_bytes
        self._position = 0
        self._copy: AtomicFile | None = None
        self._copy = open_atomic(fname, durable=True)
        if num_bytes:
            with contextlib.suppress(OSError):  # its place is counted from now on
                os.truncate(self._copy.fileno(), num_bytes)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the front of ``buffer``; 0 only at the end of the stream."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        with memoryview(buffer) as given, given.cast("B") as view:
            num_bytes = int(self._stream.readinto(view) or 0)
            self._position += num_bytes
            if num_bytes:
                self._keep(view[:num_bytes])
            elif len(view):
                self._publish()
        return num_bytes

    def _keep(self, data: memoryview) -> None:
        if self._copy is None:
            return
        if self._num_bytes is not None and self._position > self._num_bytes:
            self._give_up(f"it has more than {self._num_bytes} bytes")
            return
        try:
            self._copy.write(data)
        except StorageError as error:
            self._give_up(error.problem)

    def _publish(self) -> None:
        """Show the copy, now that all was read."""
        if self._copy is None:
            return
        if self._num_bytes is not None and self._position != self._num_bytes:
            self._give_up(f"it ended at byte {self._position} of {self._num_bytes}")
        elif not self._is_good():
            self._give_up("its source has changed, or there is no room")
        else:
            copy, self._copy = self._copy, None
            try:
                copy.close()
            except StorageError as error:
                logger.warning("%s: no copy was kept: %s", self.name, error.problem)
            else:
                self._published()

    def _is_good(self) -> bool:
        """Whether what was read may be shown."""
        return True

    def _published(self) -> None:
        """The copy is there, whole."""
        logger.log(self._level, "%s: %d bytes", self.name, self._position)

    def _give_up(self, problem: str) -> None:
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.discard()
            logger.warning("%s: no copy was kept: %s", self.name, problem)

    def close(self, complete: bool = False) -> None:  # noqa: FBT001, FBT002  # as it was
        """Close the stream; ``complete=True`` reads what is left of it first.

        Raises:
            StorageError: What was left could not be read.
        """
        if self.closed:
            return
        try:
            if self._copy is not None:
                self._read_rest(complete=complete)
        finally:
            copy, self._copy = self._copy, None
            if copy is not None:
                copy.discard()
            super().close()
            self._stream.close()

    def _read_rest(self, *, complete: bool) -> None:
        """Read to the end where that is asked for, or near."""
        left = self._num_bytes
        if left is not None:
            left -= self._position
        if not complete and (left is None or left > _DRAIN_BYTES):
            return
        buffer = bytearray(_PIECE_BYTES)
        try:
            while self._copy is not None and self.readinto(buffer):
                pass
        except StorageError as error:
            if complete:
                raise
            self._give_up(error.problem)  # nobody had asked for these bytes

    def discard(self) -> None:
        """Close the stream and keep no copy."""
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.discard()
        self.close()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        if hasattr(self, "_copy") and not self.closed:
            self.discard()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file in the folder: a copy, or one that is being made."""

    path: str
    digest: str
    num_bytes: int
    used: int
    is_whole: bool


class ShardCache:
    """A folder of copies of shards that many processes share.

    ``open`` gives a copy, if there is a whole one of the source as it is now. Else
    one process reads the source and makes the copy by the way, and the others read
    the source; with ``wait=True`` they wait for a copy that is made at once.

    All files in the folder together take at most ``cache_size`` bytes: the copies
    that were not used for the longest time go first, never one that is open. What
    does not fit is read from its source. A copy of a stream without a size finds
    its place when it is whole.

    >>> import tempfile
    >>> from shardbuild.storage import write_bytes
    >>> write_bytes("memory://doc/cached.tar", b"bytes")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = ShardCache(folder)
    ...     first = cache.open("memory://doc/cached.tar").read()
    ...     first, cache.has("memory://doc/cached.tar")
    (b'bytes', True)
    """

    def __init__(
        self,
        cache_dir: str = "./data",
        cache_size: float = 1e15,
        *,
        cache_name: Callable[[str], str] = guess_shard,
        wait: bool = False,
        verbose: bool = False,
        storage_options: StorageOptions | None = None,
    ) -> None:
        self.cache_dir = cache_dir
        self.cache_size = int(cache_size)
        self._cache_name = cache_name
        self._wait = wait
        self.verbose = verbose
        self._options = storage_options
        self._swept_by = -1

    def open(self, url: str) -> BinaryIO:
        """Open a shard for reading: its copy, or its source.

        Raises:
            StorageError: The source cannot be asked, or cannot be read; or nothing
                can be written into the cache's folder.
        """
        if url == "-":
            return gopen(url)
        self._sweep()
        facts = stat_url(url, self._options)
        digest = _digest_of(facts)
        copy = self._find(facts, digest)
        if copy is not None:
            return copy
        claim = claim_file(self._claim_path(digest), wait=self._wait)
        if claim is None:
            return gopen(url, storage_options=self._options)
        try:
            # Who had the claim before may have made it.
            opened = self._find(facts, digest) or self._begin(facts, digest, claim)
        except BaseException:
            claim.release()
            raise
        if not isinstance(opened, _ClaimedStream):
            claim.release()
        elif self._wait:
            opened.close(complete=True)
            copy = self._find(facts, digest)
            return copy or gopen(url, storage_options=self._options)
        return cast("BinaryIO", opened)

    def has(self, url: str) -> bool:
        """Whether there is a whole copy of a source as it is now."""
        facts = stat_url(url, self._options)
        copy = self._find(facts, _digest_of(facts))
        if copy is None:
            return False
        copy.close()
        return True

    def _begin(
        self, facts: UrlFacts, digest: str, claim: Claim
    ) -> _ClaimedStream | BinaryIO:
        """Open the source, and begin to copy it if there is room."""
        source = gopen(facts.url, storage_options=self._options)
        try:
            with hold_room(self.cache_dir):
                if self.make_room(facts.num_bytes or 0):
                    path = self._path(facts.url, digest, facts.num_bytes)
                    return _ClaimedStream(self, path, source, facts, claim)
        except BaseException:
            source.close()
            raise
        return source

    def _claim_path(self, digest: str) -> str:
        return os.path.join(self.cache_dir, f".{digest}.claim")

    def _path(self, url: str, digest: str, num_bytes: int | None) -> str:
        label = re.split(r"[?#]", self._cache_name(url))[0]
        label = re.sub(r"[^A-Za-z0-9._-]", "_", label)[-_MAX_LABEL:]
        size = _UNSIZED if num_bytes is None else str(num_bytes)
        return os.path.join(self.cache_dir, f"{digest}-{size}-{label}")

    def _find(self, facts: UrlFacts, digest: str) -> BinaryIO | None:
        """Open the whole copy, if there is one, and mark it as used."""
        if facts.num_bytes is not None:
            path = self._path(facts.url, digest, facts.num_bytes)
            return self._open_copy(path, facts.num_bytes)
        for entry in self._entries():
            if entry.is_whole and entry.digest == digest:
                size = os.path.basename(entry.path).split("-")[1]
                return self._open_copy(entry.path, int(size))
        return None

    def _open_copy(self, path: str, num_bytes: int) -> BinaryIO | None:
        try:
            file = LocalReader(path, path)
        except StorageError as error:
            if error.__cause__ is not None and is_missing(error.__cause__):
                return None
            raise
        if os.fstat(file.fileno()).st_size != num_bytes:
            file.close()
            logger.warning("%s: a copy of another size was removed", path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return None
        with contextlib.suppress(OSError):  # another user's, or no such locks
            fcntl.flock(file.fileno(), fcntl.LOCK_SH)  # in use: it stays
            os.utime(file.fileno())
        return cast("BinaryIO", file)

    def make_room(self, num_bytes: int) -> bool:
        """Remove what was used longest ago until so much fits; False if it cannot."""
        if num_bytes > self.cache_size:
            return False
        entries = [entry for entry in self._entries() if not self._is_torso(entry)]
        copies = (
            Copy(entry.path, entry.num_bytes, entry.used)
            for entry in entries
            if entry.is_whole
        )
        excess = sum(entry.num_bytes for entry in entries) + num_bytes - self.cache_size
        return evict(copies, excess, _remove_unused) >= excess

    def _entries(self) -> list[_Entry]:
        """The copies that are there, and those that are being made."""
        found = []
        try:
            with os.scandir(self.cache_dir) as files:
                for file in files:
                    with contextlib.suppress(FileNotFoundError):
                        found.append(_entry_of(file))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise store_error(self.cache_dir, error) from error
        return [entry for entry in found if entry is not None]

    def _is_torso(self, entry: _Entry) -> bool:
        """Whether a dead process was making this; then it is removed."""
        if entry.is_whole:
            return False
        return remove_torso(entry.path, self._claim_path(entry.digest))

    def _sweep(self) -> None:
        """Once a process, remove what dead ones were making."""
        if self._swept_by != os.getpid():
            self._swept_by = os.getpid()
            for entry in self._entries():
                self._is_torso(entry)

    def is_good(self, facts: UrlFacts, position: int) -> bool:
        """Whether so many bytes are all of a source, and may stay."""
        try:
            if stat_url(facts.url, self._options) != facts:
                return False
        except StorageError:
            return False
        if facts.num_bytes is not None:
            return position == facts.num_bytes
        with hold_room(self.cache_dir):
            return self.make_room(0)


class _ClaimedStream(CacheStream):
    """A copy in the making, and the claim to make it."""

    def __init__(
        self,
        cache: ShardCache,
        path: str,
        source: BinaryIO,
        facts: UrlFacts,
        claim: Claim,
    ) -> None:
        self._claim = claim
        self._cache = cache
        self._facts = facts
        super().__init__(path, source, cache.verbose, num_bytes=facts.num_bytes)

    def _keep(self, data: memoryview) -> None:
        if self._position > self._cache.cache_size:
            self._give_up("it is larger than the cache")
        super()._keep(data)

    def _is_good(self) -> bool:
        return self._cache.is_good(self._facts, self._position)

    def _published(self) -> None:
        """Give a copy of a stream that had no size its name, now that it has one."""
        super()._published()
        if self._facts.num_bytes is None:
            sized = f"-{self._position}-".join(self.name.split(f"-{_UNSIZED}-", 1))
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.name, sized)

    def close(self, complete: bool = False) -> None:  # noqa: FBT001, FBT002
        try:
            super().close(complete)
        finally:
            self._claim.release()


def _digest_of(facts: UrlFacts) -> str:
    return hashlib.sha256(f"{facts.url}\0{facts.fingerprint}".encode()).hexdigest()


def _entry_of(file: os.DirEntry[str]) -> _Entry | None:
    """What a file in the folder is; None for one that is not ours."""
    final = final_name(file.name)
    match = _COPY.fullmatch(final or file.name)
    if match is None:
        return None
    facts = file.stat()
    is_whole = final is None and match[2] != _UNSIZED
    return _Entry(file.path, match[1], facts.st_size, facts.st_mtime_ns, is_whole)


def _remove_unused(path: str) -> bool:
    """Remove a copy that nobody has open; whether it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    else:
        return True
    finally:
        os.close(fd)


def cache_shards(  # noqa: PLR0913  # as it always was
    urls: Iterable[str | dict[str, Any]],
    cache_dir: str = "./data",
    cache_size: float = 1e15,
    cache_name: Callable[[str], str] = guess_shard,
    verbose: bool = False,  # noqa: FBT001, FBT002  # as it always was
    *,
    wait: bool = False,
    storage_options: StorageOptions | None = None,
) -> Iterator[dict[str, Any]]:
    """Each url with its shard, open: a copy from the cache's folder, or its source.

    What comes is ``{"url": ..., "stream": ...}``, and so may what is given be: other
    entries stay. A stream is closed when the next one is asked for. `ShardCache`
    tells what the folder is; ``cache_name`` makes the part of a copy's name that
    people read.

    >>> import tempfile
    >>> from shardbuild.storage import write_bytes
    >>> write_bytes("memory://doc/shards-0.tar", b"bytes")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for shard in cache_shards(["memory://doc/shards-0.tar"], folder):
    ...         shard["url"], shard["stream"].read()
    ('memory://doc/shards-0.tar', b'bytes')

    Raises:
        StorageError: A source cannot be asked, or cannot be read.
    """
    cache = ShardCache(
        cache_dir,
        cache_size,
        cache_name=cache_name,
        wait=wait,
        verbose=verbose,
        storage_options=storage_options,
    )
    for given in urls:
        shard: dict[str, Any]
        shard = {"url": given} if isinstance(given, str) else dict(given)
        if "stream" in shard:
            shard["stream"].close()
        with cache.open(shard["url"]) as stream:
            yield {**shard, "stream": stream}

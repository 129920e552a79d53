"""Parts of objects of stores on a local disk, shared by all processes that want them.

A part is a file named by the sha256 of the url, of the object's version and of its
number, so that a new version has new parts. While it is made it is in the folder
``making`` under a claim; both end with the process that makes it, also by
``kill -9``, and the file is moved to its name when it is whole.

How full the folder is stands in one small file. Whoever makes a part first adds its
bytes to that number, so that it is never too small; where it is too large, because a
process was killed, it is set right when the folder is next looked through. That is
only when it is full, and then a sixteenth more is removed than has to be.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from shardbuild.errors import StorageError, UsageError
from shardbuild.storage.cachefolder import Copy, evict, hold_room, remove_torso
from shardbuild.storage.claims import claim_file
from shardbuild.storage.fetch import read_many
from shardbuild.storage.filesystems import store_error
from shardbuild.storage.ranges import BUDGET_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shardbuild.storage.claims import Claim
    from shardbuild.storage.fetch import RangeSource

__all__ = ["PartCache", "Wanted"]

logger = logging.getLogger(__name__)

_MAKING = "making"
_USAGE = ".usage"
_DIGITS = 20


class Wanted(NamedTuple):
    """Ranges of one version of one object, and where their bytes go."""

    source: RangeSource
    version: str
    num_bytes: int
    """Of the whole object."""
    offsets: list[int]
    views: list[memoryview]


class _Part(NamedTuple):
    """A part that is wanted, and which of its bytes go where."""

    source: RangeSource
    name: str
    start: int
    stop: int
    pieces: list[tuple[int, memoryview]]


class PartCache:
    """A folder of parts of objects, at most ``max_bytes`` together.

    A part is fetched whole by the one process that claims it, and read from the folder
    by all others; those used longest ago go first. What does not fit is read from the
    store, no more of it than is wanted. Any number of processes and threads share a
    folder; all should give the same ``max_bytes``.

    >>> import tempfile
    >>> from shardbuild.storage import RangeSource, write_bytes
    >>> write_bytes("memory://doc/parts.bin", b"0123456789")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = PartCache(folder, 1 << 20, part_bytes=4)
    ...     data = bytearray(3)
    ...     with RangeSource("memory://doc/parts.bin") as source:
    ...         wanted = Wanted(source, "1", 10, [3], [memoryview(data)])
    ...         cache.read([wanted])
    ...     bytes(data), cache.num_bytes
    (b'345', 8)

    Raises:
        UsageError: A size is not positive.
    """

    def __init__(self, folder: str, max_bytes: float, part_bytes: int = 1 << 20):
        if max_bytes < 1 or part_bytes < 1:
            problem = f"max_bytes is {max_bytes}, part_bytes {part_bytes}"
            raise UsageError(folder, f"{problem}: both have to be positive")
        self.folder = folder
        self.max_bytes = int(max_bytes)
        self.part_bytes = part_bytes
        self._swept_by = -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_swept_by": -1}

    def read(self, wanted: Iterable[Wanted]) -> None:
        """Fill views with the ranges that are wanted.

        Raises:
            StorageError: A store cannot be read, or the folder cannot be written to.
        """
        parts = self._parts(wanted)
        try:
            self._sweep()
            missing = [part for part in parts if not self._serve(part)]
            while missing:
                missing = self._fill(missing)
        except OSError as error:
            raise store_error(self.folder, error) from error

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts that are whole."""
        return sum(copy.num_bytes for copy in self._copies())

    def _parts(self, wanted: Iterable[Wanted]) -> list[_Part]:
        parts: dict[str, _Part] = {}
        size = self.part_bytes
        for source, version, num_bytes, offsets, views in wanted:
            names: dict[int, str] = {}
            for offset, view in zip(offsets, views, strict=True):
                if offset + len(view) > num_bytes:
                    problem = f"ends at byte {num_bytes}, before {offset + len(view)}"
                    raise StorageError(source.url, problem)
                if not len(view):
                    continue
                for number in range(offset // size, -(-(offset + len(view)) // size)):
                    if number not in names:
                        names[number] = self._name(source.url, version, number)
                    start = number * size
                    part = parts.setdefault(
                        names[number],
                        _Part(
                            source,
                            names[number],
                            start,
                            min(start + size, num_bytes),
                            [],
                        ),
                    )
                    first = max(start, offset)
                    stop = min(part.stop, offset + len(view))
                    piece = view[first - offset : stop - offset]
                    part.pieces.append((first - start, piece))
        return list(parts.values())

    def _name(self, url: str, version: str, number: int) -> str:
        about = f"{url}\0{version}\0{self.part_bytes}\0{number}"
        return hashlib.sha256(about.encode()).hexdigest()

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name[:2], name[2:])

    def _made_path(self, name: str) -> str:
        return os.path.join(self.folder, _MAKING, name)

    # -- what is there ----------------------------------------------------------

    def _serve(self, part: _Part) -> bool:
        """Fill a part's pieces from its file; False if there is none that is whole."""
        path = self._path(part.name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if os.fstat(fd).st_size != part.stop - part.start:
                logger.warning("%s: a part of another size was removed", path)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                return False
            for offset, view in part.pieces:
                if os.preadv(fd, [view], offset) != len(view):
                    return False
            with contextlib.suppress(OSError):  # another user's
                os.utime(fd)
        finally:
            os.close(fd)
        return True

    # -- what is not ------------------------------------------------------------

    def _fill(self, missing: Sequence[_Part]) -> list[_Part]:
        """Make parts that nobody makes, as many as the budget allows; what is left.

        Nobody waits while holding a claim, so that two never wait for each other.
        """
        claims: dict[str, Claim] = {}
        mine: list[_Part] = []
        theirs: list[_Part] = []
        left: list[_Part] = []
        num_bytes = 0
        try:
            for part in missing:
                size = part.stop - part.start
                if mine and num_bytes + size > BUDGET_BYTES:
                    left.append(part)
                    continue
                claim = claim_file(self._made_path(part.name) + ".claim")
                if claim is None:
                    theirs.append(part)
                    continue
                claims[part.name] = claim
                if self._serve(part):  # by who had the claim before
                    claims.pop(part.name).release()
                    continue
                mine.append(part)
                num_bytes += size
            self._make(mine, claims)
        finally:
            for name, claim in claims.items():
                _remove(self._made_path(name))
                claim.release()
        if theirs and not mine:
            with claim_file(self._made_path(theirs[0].name) + ".claim", wait=True) or (
                contextlib.nullcontext()
            ):
                pass  # whoever made it has ended, well or not
        return [part for part in theirs if not self._serve(part)] + left

    def _make(self, parts: Sequence[_Part], claims: dict[str, Claim]) -> None:
        """Fetch parts, hand out their pieces, and keep those that there is room for."""
        fits = self._reserve(parts)
        kept = [part for part, is_kept in zip(parts, fits, strict=True) if is_kept]
        buffers = [bytearray(part.stop - part.start) for part in kept]
        jobs = [
            (part.source, [part.start], [memoryview(buffer)])
            for part, buffer in zip(kept, buffers, strict=True)
        ]
        for part, is_kept in zip(parts, fits, strict=True):
            if not is_kept:
                claims.pop(part.name).release()
                starts = [part.start + offset for offset, _ in part.pieces]
                jobs.append((part.source, starts, [view for _, view in part.pieces]))
        read_many(jobs)
        for part, buffer in zip(kept, buffers, strict=True):
            for offset, view in part.pieces:
                view[:] = buffer[offset : offset + len(view)]
            self._write(part, buffer)
            claims.pop(part.name).release()

    def _write(self, part: _Part, data: bytearray) -> None:
        """Show a part, whole; what cannot be written is only not kept."""
        made, path = self._made_path(part.name), self._path(part.name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(made, "wb") as file:
                file.write(data)
                file.flush()
                os.fdatasync(file.fileno())
            os.replace(made, path)
        except OSError as error:
            logger.warning("%s: no part was kept: %s", path, error)
            with contextlib.suppress(OSError):
                os.unlink(made)

    # -- room -------------------------------------------------------------------

    def _reserve(self, parts: Sequence[_Part]) -> list[bool]:
        """Take room for parts that are claimed; which of them fit."""
        if not parts:
            return []
        with hold_room(self.folder):
            used = self._usage()
            fits = []
            for part in parts:
                size = part.stop - part.start
                if used + size > self.max_bytes and size <= self.max_bytes:
                    used = self._made_room(size)
                fits.append(used + size <= self.max_bytes)
                if fits[-1]:
                    used += size
                    _touch(self._made_path(part.name))  # counted from now on
            self._set_usage(used)
        return fits

    def _made_room(self, size: int) -> int:
        """Remove what was used longest ago; how full the folder is then."""
        used = self._num_making() * self.part_bytes
        copies = list(self._copies())
        used += sum(copy.num_bytes for copy in copies)
        excess = used + size - self.max_bytes + self.max_bytes // 16
        return used - evict(copies, excess, _remove)

    def _num_making(self) -> int:
        """How many parts living processes are making; leftovers are removed."""
        folder = os.path.join(self.folder, _MAKING)
        try:
            names = set(os.listdir(folder))
        except FileNotFoundError:
            return 0
        num_making = 0
        for name in sorted({name.removesuffix(".claim") for name in names}):
            path = os.path.join(folder, name)
            is_living = not remove_torso(path, path + ".claim")
            num_making += is_living and name in names
        return num_making

    def _usage(self) -> int:
        """How full the folder is, or was believed to be."""
        try:
            with open(os.path.join(self.folder, _USAGE), "rb") as file:
                return int(file.read(_DIGITS + 1))
        except (FileNotFoundError, ValueError):  # it was never written whole
            used = self._num_making() * self.part_bytes
            return used + self.num_bytes

    def _set_usage(self, used: int) -> None:
        path = os.path.join(self.folder, _USAGE)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.pwrite(fd, b"%0*d" % (_DIGITS, used), 0)
        finally:
            os.close(fd)

    def _copies(self) -> Iterator[Copy]:
        """The parts that are there, whole."""
        for folder in _folders(self.folder):
            with os.scandir(folder) as files:
                for file in files:
                    with contextlib.suppress(FileNotFoundError):
                        facts = file.stat()
                        yield Copy(file.path, facts.st_size, facts.st_mtime_ns)

    def _sweep(self) -> None:
        """Once a process, remove what dead ones were making."""
        if self._swept_by != os.getpid():
            self._swept_by = os.getpid()
            self._num_making()


def _folders(folder: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    return [os.path.join(folder, name) for name in names if len(name) == 2]


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))


def _remove(path: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return True

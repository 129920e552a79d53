"""Which keys come twice, in any number of shards, in bounded memory.

Every key is put, with its place, into one of 64 parts by a few bits of its CRC;
equal keys meet in one part. What memory does not hold goes to files, and a part
that is too large to be looked at whole is split by the next bits. The keys
themselves are compared: nothing is found that is not so.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from shardbuild.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Duplicate", "UniqueKeys"]

_BITS = 6
_PARTS = 1 << _BITS
_HEAD = struct.Struct("<III")
_LEVELS = 32 // _BITS
# A key looked at takes so many times the bytes that its record takes.
_EXPANSION = 8


class Duplicate(NamedTuple):
    """A key that comes again."""

    shard: int
    position: int
    """Of the sample in the shard."""
    key: str
    first_shard: int
    """Where it came first."""
    first_position: int


class UniqueKeys:
    """Collects the keys of shards; then tells which came twice.

    >>> with UniqueKeys(memory_bytes=1 << 20) as keys:
    ...     keys.add(0, ["a", "b"])
    ...     keys.add(1, ["c", "a"])
    ...     [tuple(twice) for twice in keys.duplicates()]
    [(1, 1, 'a', 0, 0)]
    """

    def __init__(self, memory_bytes: int) -> None:
        self._buffer_bytes = memory_bytes // 4
        self._part_bytes = memory_bytes // (2 * _EXPANSION)
        self._parts = [bytearray() for _ in range(_PARTS)]
        self._held = 0
        self._folder: Path | None = None

    def __enter__(self) -> UniqueKeys:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the files."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def add(self, shard: int, keys: Iterable[str]) -> None:
        """Collect the keys of a shard, in their order in it.

        Raises:
            StorageError: the files cannot be written.
        """
        parts, pack, held = self._parts, _HEAD.pack, self._held
        for position, key in enumerate(keys):
            raw = key.encode()
            record = pack(len(raw), shard, position) + raw
            parts[crc32(raw) % _PARTS] += record
            held += len(record)
            if held > self._buffer_bytes:
                self._spill()
                held = 0
        self._held = held

    def duplicates(self) -> Iterator[Duplicate]:
        """Every key that comes again, part by part, each time it does.

        Raises:
            StorageError: the files cannot be written or read.
        """
        if self._folder is None:
            for part in self._parts:
                yield from _found_in(part)
            return
        self._spill()
        for number in range(_PARTS):
            yield from self._found_in_file(self._folder / f"{number}", level=1)

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="shardbuild-keys-"))
        _append(self._folder, "", self._parts)

    def _found_in_file(self, path: Path, level: int) -> Iterator[Duplicate]:
        if not path.exists():
            return
        if path.stat().st_size <= self._part_bytes or level == _LEVELS:
            yield from _found_in(path.read_bytes())
            return
        self._split(path, level)
        for number in range(_PARTS):
            yield from self._found_in_file(
                path.with_name(f"{path.name}-{number}"), level + 1
            )

    def _split(self, path: Path, level: int) -> None:
        """Move the records of a file into files of its own, by the next bits."""
        parts = [bytearray() for _ in range(_PARTS)]
        held = 0
        with path.open("rb") as file:
            while head := file.read(_HEAD.size):
                raw = file.read(_HEAD.unpack(head)[0])
                parts[(crc32(raw) >> level * _BITS) % _PARTS] += head + raw
                held += len(head) + len(raw)
                if held > self._buffer_bytes:
                    _append(path.parent, f"{path.name}-", parts)
                    held = 0
        _append(path.parent, f"{path.name}-", parts)
        path.unlink()


def _append(folder: Path, prefix: str, parts: list[bytearray]) -> None:
    """Write what each part holds to the end of its file."""
    try:
        for number, part in enumerate(parts):
            if part:
                with (folder / f"{prefix}{number}").open("ab") as file:
                    file.write(part)
                part.clear()
    except OSError as problem:
        words = f"keys cannot be kept here while they are compared: {problem}"
        raise StorageError(str(folder), words) from problem


def _found_in(part: bytes | bytearray) -> Iterator[Duplicate]:
    seen: dict[bytes, tuple[int, int]] = {}
    at, view = 0, memoryview(part)
    while at < len(part):
        length, shard, position = _HEAD.unpack_from(part, at)
        at += _HEAD.size + length
        raw = bytes(view[at - length : at])
        first = seen.setdefault(raw, (shard, position))
        if first != (shard, position):
            yield Duplicate(shard, position, raw.decode(), *first)

"""Samples out of shards, and where in a shard they lie.

A shard is a tar, plain or compressed by gzip, bzip2, xz or zstd, whatever its name
says. Only whole samples come out: a sample is known to be whole when a member with
another key follows it, or the two end blocks of the archive do. What is damaged or
doubtful raises `ShardError` with the url and the offset in the tar; nothing is
skipped in silence.

- Archives that were joined (``cat a.tar b.tar``) are read one after the other:
  after its end blocks nothing but zeros, or a valid header, may follow.
- Links, folders, devices and files that belong to no sample are skipped and
  counted in `ReadFacts`.
- Sparse members are refused, and names that are not UTF-8.
- A key that comes again after other samples is refused: members of one sample
  that are not adjacent would make two samples that both lack some.
"""

from __future__ import annotations

import dataclasses
import io
import os
import stat
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, cast

from shardbuild.shards.decompress import Source, compression_of, decompressed
from shardbuild.shards.readahead import ReadAhead
from shardbuild.shards.readfacts import ReadFacts
from shardbuild.shards.readindexed import read_at, read_indexed
from shardbuild.shards.readruns import ShardReading
from shardbuild.shards.readwindow import (
    WINDOW_BYTES,
    BufferWindow,
    FileWindow,
    StreamWindow,
    Window,
)
from shardbuild.shards.tarparse import BLOCK, is_header
from shardbuild.storage.filesystems import store_error
from shardbuild.storage.gopen import gopen

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from shardbuild.errors import ShardError
    from shardbuild.shards.decompress import Readable
    from shardbuild.shards.index import ShardIndex
    from shardbuild.shards.readruns import Lot
    from shardbuild.shards.samples import KeyRule, Sample
    from shardbuild.storage.urlparts import StorageOptions

__all__ = [
    "ReadFacts",
    "read_at",
    "read_fragment",
    "read_indexed",
    "read_lots",
    "read_samples",
    "read_stream",
    "scan_fragment",
    "scan_shard",
    "scan_stream",
    "storage_errors",
    "window_on",
]


def read_samples(
    url: str,
    *,
    storage_options: StorageOptions | None = None,
    key_rule: KeyRule = "first-dot",
    facts: ReadFacts | None = None,
) -> Samples:
    """Read a shard front to back: ``__key__`` and fields of bytes for each sample.

    Nothing is opened before the first sample is asked for; what is open is closed
    after the last, and by ``close()`` if the rest is not wanted. Memory is bounded
    by the largest sample and a few MiB.

    >>> import io, tarfile, tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".tar") as file:
    ...     with tarfile.open(file.name, "w") as tar:
    ...         for name in ("7.cls", "7.txt", "README"):
    ...             member = tarfile.TarInfo(name)
    ...             member.size = 3
    ...             tar.addfile(member, io.BytesIO(b"cat"))
    ...     facts = ReadFacts()
    ...     list(read_samples(file.name, facts=facts)), facts.skipped
    ([{'__key__': '7', 'cls': b'cat', 'txt': b'cat'}], Counter({'no extension': 1}))

    Args:
        url: Where the shard is: anything that `gopen` opens.
        storage_options: What to pass on to fsspec.
        key_rule: Where the key of a name ends.
        facts: To be filled in with what is noted on the way.

    Raises:
        ShardError: The shard is damaged, or its samples are not whole.
        TruncatedShardError: It ends before its end blocks.
        StorageError: It cannot be read.
    """

    def parts() -> Generator[Iterable[Sample]]:
        with gopen(url, storage_options=storage_options) as stream:
            yield from _parts_of(stream, url, key_rule, facts)

    return Samples(parts())


class Samples:
    """An iterator of samples that can be closed before its end."""

    __slots__ = ("_parts", "_samples")

    def __init__(self, parts: Generator[Iterable[Sample]]) -> None:
        self._parts = parts
        self._samples = chain.from_iterable(parts)

    def __iter__(self) -> Iterator[Sample]:
        return self._samples

    def __next__(self) -> Sample:
        return next(self._samples)

    def close(self) -> None:
        """Close the shard."""
        self._parts.close()


def read_stream(
    stream: Readable | BinaryIO,
    url: str,
    *,
    key_rule: KeyRule = "first-dot",
    facts: ReadFacts | None = None,
) -> Iterator[Sample]:
    """Read a shard from an open stream, as `read_samples` does from a url.

    All that is asked of it is ``readinto``, which may fill less than asked. It is
    not closed. ``url`` is for messages only.

    >>> list(read_stream(io.BytesIO(bytes(1024)), "nothing.tar"))
    []

    Raises:
        ShardError: As `read_samples`.
    """
    return chain.from_iterable(_parts_of(stream, url, key_rule, facts))


def read_lots(
    stream: Readable | BinaryIO,
    url: str,
    *,
    start: int = 0,
    key_rule: KeyRule = "first-dot",
    facts: ReadFacts | None = None,
    on_index: Callable[[ShardIndex], None] | None = None,
) -> Generator[Lot]:
    """Read a shard from an open stream, some samples at a time, and where they lie.

    >>> import tarfile
    >>> member = tarfile.TarInfo("7.txt").tobuf(tarfile.USTAR_FORMAT)
    >>> lots = read_lots(io.BytesIO(member + bytes(1024)), "a.tar")
    >>> [(list(lot.samples), lot.heads) for lot in lots]
    [([{'__key__': '7', 'txt': b''}], [0])]

    Args:
        stream: All that is asked of it is ``readinto``. It is not closed.
        url: For messages.
        start: Where in the tar the stream stands: where a sample's first header
            begins. It is not compressed, if that is not 0.
        key_rule: Where the key of a name ends.
        facts: To be filled in with what is noted on the way.
        on_index: Called at the end with the shard's index, which says nothing of
            its form (``canonical``); not if ``start`` is not 0.

    Raises:
        ShardError: As `read_samples`, but for keys that came before ``start``.
    """
    from shardbuild.shards.scanindex import IndexColumns

    facts = ReadFacts() if facts is None else facts
    columns = None if start or on_index is None else IndexColumns()
    with (
        storage_errors(url),
        window_on(stream, url, facts, start) as (window, counted),
        _reading(window, key_rule, facts) as reading,
    ):
        yield from reading.lots(columns)
    if on_index and columns:
        index = columns.finish(facts.num_bytes, canonical=False)
        on_index(_of_file(index, counted))


def read_fragment(
    buffer: bytes | memoryview, url: str, *, key_rule: KeyRule = "first-dot"
) -> Iterator[Sample]:
    """Read whole samples' members from memory, without end blocks after them.

    >>> import tarfile
    >>> member = tarfile.TarInfo("7.txt").tobuf(tarfile.USTAR_FORMAT)
    >>> list(read_fragment(member, "a.tar"))
    [{'__key__': '7', 'txt': b''}]

    Raises:
        ShardError: As `read_samples`; offsets count from the fragment's start.
    """

    def parts() -> Iterator[Iterable[Sample]]:
        window: Window
        if isinstance(buffer, bytes) or len(buffer) <= WINDOW_BYTES:
            window = BufferWindow(bytes(buffer), url)
        else:
            window = StreamWindow(_Memory(buffer), url)
        with _reading(window, key_rule, ReadFacts(), is_fragment=True) as reading:
            yield from reading.samples()

    return chain.from_iterable(parts())


def scan_shard(
    url: str,
    *,
    storage_options: StorageOptions | None = None,
    key_rule: KeyRule = "first-dot",
    facts: ReadFacts | None = None,
    on_damage: Callable[[ShardError], None] | None = None,
) -> ShardIndex:
    """Make the index of a shard by one pass over it, with all checks of reading.

    Of local shards with large members only the headers are read. ``on_damage`` is
    told of damage, and the index ends before it; without it, damage is raised.

    Raises:
        ShardError: As `read_samples`.
        StorageError: It cannot be read.
    """
    with gopen(url, storage_options=storage_options) as stream:
        return scan_stream(
            stream, url, key_rule=key_rule, facts=facts, on_damage=on_damage
        )


def scan_stream(
    stream: Readable | BinaryIO,
    url: str,
    *,
    key_rule: KeyRule = "first-dot",
    facts: ReadFacts | None = None,
    on_damage: Callable[[ShardError], None] | None = None,
) -> ShardIndex:
    """Make the index of a shard from an open binary file, as `scan_shard` does.

    Raises:
        ShardError: As `read_samples`.
    """
    facts = ReadFacts() if facts is None else facts
    with (
        storage_errors(url),
        window_on(stream, url, facts) as (window, counted),
        _reading(window, key_rule, facts) as reading,
    ):
        index = reading.index(on_damage)
    return _of_file(index, counted)


def _of_file(index: ShardIndex, counted: Source | None) -> ShardIndex:
    """The index of a shard, with its size on storage if it is compressed."""
    if counted is None:
        return index
    return dataclasses.replace(index, file_bytes=counted.num_bytes)


def scan_fragment(
    buffer: bytes | memoryview, url: str, *, key_rule: KeyRule = "first-dot"
) -> ShardIndex:
    """Make the index of whole samples' members in memory, without end blocks.

    Raises:
        ShardError: As `read_fragment`.
    """
    window = BufferWindow(buffer, url)
    facts = ReadFacts(num_bytes=len(buffer))
    with _reading(window, key_rule, facts, is_fragment=True) as reading:
        return reading.index()


# -- what is read from ------------------------------------------------------


def _parts_of(
    stream: Readable | BinaryIO, url: str, key_rule: KeyRule, facts: ReadFacts | None
) -> Iterator[Iterable[Sample]]:
    facts = ReadFacts() if facts is None else facts
    with (
        storage_errors(url),
        window_on(stream, url, facts) as (window, _),
        _reading(window, key_rule, facts) as reading,
    ):
        yield from reading.samples()


@contextmanager
def _reading(
    window: Window, key_rule: KeyRule, facts: ReadFacts, *, is_fragment: bool = False
) -> Iterator[ShardReading]:
    reading = ShardReading(window, key_rule, facts, is_fragment=is_fragment)
    try:
        yield reading
    finally:
        reading.close()


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Make errors of the system ours."""
    try:
        yield
    except OSError as error:
        raise store_error(url, error) from error


@contextmanager
def window_on(
    stream: Readable | BinaryIO, url: str, facts: ReadFacts, start: int = 0
) -> Iterator[tuple[Window, Source | None]]:
    """The window for a stream; if it is compressed, also what counts its bytes.

    A stream that stands at byte ``start`` of its tar is not compressed.
    """
    stream = cast("Readable", stream)
    is_file = isinstance(stream, io.FileIO) and _is_regular(stream)
    if start:
        if is_file:
            yield FileWindow(cast("BinaryIO", stream), url, start), None
        else:
            yield StreamWindow(stream, url, start), None
        return
    if isinstance(stream, io.FileIO) and is_file:
        head = os.pread(stream.fileno(), BLOCK, stream.tell())
        facts.compression = _compression_of(head)
        if facts.compression is None:
            yield FileWindow(stream, url), None
            return
        source = Source(stream)
    else:
        source = Source(stream)
        window = StreamWindow(source, url)
        window.fill(0, BLOCK)
        head = bytes(window.buffer[: window.end])
        facts.compression = _compression_of(head)
        if facts.compression is None:
            yield window, None
            return
        window.close()
        source.push_back(head)
    plain = decompressed(source, facts.compression, url)
    if not is_file:  # a read of it may hang
        yield StreamWindow(plain, url), source
        return
    with ReadAhead(plain) as ahead:
        yield StreamWindow(ahead, url), source


def _compression_of(head: bytes) -> str | None:
    """How a stream is compressed; a tar whose first name is like a magic is a tar."""
    kind = compression_of(head)
    return None if kind and is_header(head) else kind


def _is_regular(stream: io.FileIO) -> bool:
    return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)


class _Memory:
    """Bytes in memory as a stream."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._data))
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

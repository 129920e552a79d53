"""All files of a tar, whatever their names: for key rules that are not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from shardbuild.shards.reader import storage_errors, window_on
from shardbuild.shards.readfacts import ReadFacts
from shardbuild.shards.readkeys import KeyLedger
from shardbuild.shards.readmembers import MemberReader
from shardbuild.shards.tarparse import FILE, decode_name, padded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardbuild.shards.decompress import Readable
    from shardbuild.shards.readwindow import Window

__all__ = ["read_members"]


def read_members(
    stream: Readable | BinaryIO, url: str, facts: ReadFacts | None = None
) -> Iterator[tuple[str, bytes]]:
    """Name and data of each file of a tar, with the checks of `read_stream`.

    >>> import io, tarfile
    >>> member = tarfile.TarInfo("README").tobuf(tarfile.USTAR_FORMAT)
    >>> list(read_members(io.BytesIO(member + bytes(1024)), "a.tar"))
    [('README', b'')]

    Args:
        stream: All that is asked of it is ``readinto``. It is not closed.
        url: For messages.
        facts: To be filled in with what is skipped: links, folders, devices.

    Raises:
        ShardError: The tar is damaged.
        TruncatedShardError: It ends before its end blocks.
    """
    facts = ReadFacts() if facts is None else facts
    with storage_errors(url), window_on(stream, url, facts) as (window, _):
        try:
            yield from _AllMembers(window, facts).files(window, facts)
        finally:
            window.close()


class _AllMembers(MemberReader):
    """Steps from member to member, as the reading of samples does."""

    __slots__ = ()

    def __init__(self, window: Window, facts: ReadFacts) -> None:
        super().__init__(window, "first-dot", KeyLedger(), facts)

    def files(self, window: Window, facts: ReadFacts) -> Iterator[tuple[str, bytes]]:
        offset: int | None = 0
        while offset is not None:
            while member := self._next(offset):
                offset = member.start + padded(member.size)
                if member.kind is not FILE:
                    facts.skipped[member.kind] += 1
                    continue
                window.member = member.name
                name = decode_name(member.name, window.url, member.head)
                yield name, bytes(window.payload(member.start, member.size))
            offset = self._end_of_archive(self._stopped_at)

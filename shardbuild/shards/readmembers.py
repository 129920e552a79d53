"""A tar member by member: exact in every dialect, whatever it costs.

This is what decides about all that the fast scan leaves alone, and what finds
the words for what is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from shardbuild.errors import ShardError, TruncatedShardError
from shardbuild.shards.samples import KeyRule, NameSplitter, Sample, skip_reason
from shardbuild.shards.tarparse import (
    BLOCK,
    FILE,
    GLOBAL,
    LONG_LINK,
    LONG_NAME,
    MAX_EXTENDED_BYTES,
    PAX,
    ZEROS,
    Header,
    Overrides,
    decode_name,
    is_header,
    overrides_of,
    padded,
    parse_header,
    parse_pax,
    plain_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shardbuild.shards.readfacts import ReadFacts
    from shardbuild.shards.readkeys import KeyLedger
    from shardbuild.shards.readwindow import Window

__all__ = ["Found", "Member", "MemberReader"]

_EXTENDED = frozenset({PAX, LONG_NAME, LONG_LINK, GLOBAL})


class Member(NamedTuple):
    """One member, and where it lies."""

    head: int
    """Offset of its first header, extended ones included."""
    name: bytes
    start: int
    """Offset of its data."""
    size: int
    kind: str


class Found(NamedTuple):
    """One whole sample."""

    sample: Sample
    """``__key__`` and the fields, None for each if no payloads were asked for."""
    head: int
    """Offset of its first header."""
    members: list[tuple[str, int, int]]
    """Field, offset of the data and size of each member."""


class MemberReader:
    """Reads samples of a window from an offset on, one header at a time."""

    __slots__ = (
        "_facts",
        "_ledger",
        "_split",
        "_stopped_at",
        "_url",
        "_window",
        "is_fragment",
        "offset",
        "on_member",
    )

    def __init__(
        self, window: Window, key_rule: KeyRule, ledger: KeyLedger, facts: ReadFacts
    ) -> None:
        self._window = window
        self.is_fragment = False
        """Whether samples may end where the window does, without end blocks."""
        self.on_member: Callable[[Member, str, str], None] | None = None
        """Called with each member of a sample, its key and field, before its data."""
        self._url = window.url
        self._split = NameSplitter(key_rule).split
        self._ledger = ledger
        self._facts = facts
        self._stopped_at = 0
        self.offset: int | None = 0
        """Where reading goes on; None at the end of all archives."""

    def samples(
        self, offset: int, max_samples: int, *, payloads: bool
    ) -> Iterator[Found]:
        """Read whole samples; ``offset`` is where the first begins.

        Ends after ``max_samples``, or at the end of an archive.

        Raises:
            ShardError: The shard is damaged, or samples are not whole.
        """
        window = self._window
        found: Found | None = None
        key: str | None = None
        while member := self._next(offset):
            head, name, start, size, kind = member
            window.member = name
            offset = start + padded(size)
            parts = self._parts_of(name, kind, head)
            if parts is None:
                continue
            if parts[0] != key:
                if found is not None:
                    yield self._closed(found)
                    max_samples -= 1
                    if not max_samples:
                        self.offset = head
                        return
                key = parts[0]
                found = self._opened(key, member)
            assert found is not None
            self._add(found, parts[1], member, payloads=payloads)
        offset = self._stopped_at
        is_over = self.is_fragment and self._is_over(offset)
        after = None if is_over else self._end_of_archive(offset)
        if found is not None:
            yield self._closed(found)
        self.offset = after

    def _parts_of(self, name: bytes, kind: str, head: int) -> tuple[str, str] | None:
        """Key and field of a member; one that has none is counted."""
        if kind is not FILE:
            self._facts.skipped[kind] += 1
            return None
        text = decode_name(name, self._url, head)
        parts = self._split(text)
        if parts is None:
            self._facts.skipped[skip_reason(text)] += 1
        return parts

    def _opened(self, key: str, member: Member) -> Found:
        if key in self._ledger:
            problem = (
                f"member {member.name!r} comes after sample {key!r} has ended: "
                "members of one sample have to be adjacent, and keys to differ"
            )
            raise ShardError(self._url, problem, member.head)
        return Found({"__key__": key}, member.head, [])

    def _closed(self, found: Found) -> Found:
        sample = found.sample
        self._ledger.add([sample["__key__"]])
        self._facts.num_samples += 1
        self._facts.num_members += len(sample) - 1
        return found

    def _add(self, found: Found, field: str, member: Member, *, payloads: bool) -> None:
        sample = found.sample
        head, _, start, size, _ = member
        if field in sample:
            problem = f"sample {sample['__key__']!r} has {field!r} twice"
            raise ShardError(self._url, problem, head)
        found.members.append((field, start, size))
        if payloads:
            sample[field] = self._window.payload(start, size)
            return
        sample[field] = None
        if self.on_member:
            self.on_member(member, sample["__key__"], field)

    def _next(self, offset: int) -> Member | None:
        """The member whose headers begin at ``offset``; None at a zero block."""
        window = self._window
        window.keep = offset
        if window.has(offset, BLOCK):
            position = offset - window.base
            plain = plain_file(window.buffer[position : position + BLOCK])
            if plain is not None:
                return Member(offset, plain[0], offset + BLOCK, plain[1], FILE)
        return self._next_of_any_kind(offset)

    def _next_of_any_kind(self, offset: int) -> Member | None:
        head = offset
        overrides: dict[str, Overrides] = {}
        while True:
            self._window.keep = head
            if self.is_fragment and not overrides and self._is_over(offset):
                self._stopped_at = offset
                return None
            block = self._block(offset)
            if block == ZEROS:
                if overrides:
                    raise ShardError(self._url, "an extended header of nothing", head)
                self._stopped_at = offset
                return None
            header = parse_header(block, self._url, offset)
            start = offset + BLOCK
            if header.kind not in _EXTENDED:
                return self._overridden(header, overrides, head, start)
            if header.kind in overrides:
                problem = f"two extended headers ({header.kind}) for one member"
                raise ShardError(self._url, problem, offset)
            said = self._extended(header, offset)
            offset = start + padded(header.size)
            if header.kind is not GLOBAL:
                overrides[header.kind] = said
            elif not overrides:
                head = offset

    def _is_over(self, offset: int) -> bool:
        """Whether a fragment ends here."""
        window = self._window
        return not window.has(offset, 1) and offset == window.end

    def _overridden(
        self, header: Header, overrides: dict[str, Overrides], head: int, start: int
    ) -> Member:
        name, size = header.name, header.size
        named = [said.name for said in overrides.values() if said.name is not None]
        if len(named) > 1:
            raise ShardError(self._url, "two long names for one member", head)
        if named:
            name = named[0]
        pax = overrides.get(PAX)
        if pax and pax.size is not None and header.has_data:
            size = pax.size
        return Member(head, name, start, size, header.kind)

    def _extended(self, header: Header, offset: int) -> Overrides:
        """Read what an extended header says."""
        if header.size > MAX_EXTENDED_BYTES:
            problem = f"an extended header of {header.size} bytes"
            raise ShardError(self._url, problem, offset)
        start = offset + BLOCK
        window = self._window
        if not window.has(start, padded(header.size)):
            raise window.truncated("an extended header")
        position = start - window.base
        data = bytes(window.buffer[position : position + header.size])
        if header.kind is LONG_NAME:
            return Overrides(data.partition(b"\0")[0])
        if header.kind is LONG_LINK:
            return Overrides()
        said = overrides_of(parse_pax(data, self._url, start), self._url, offset)
        if header.kind is GLOBAL and said != Overrides():
            problem = "a global header that gives all members one name or size"
            raise ShardError(self._url, problem, offset)
        return said

    def _block(self, offset: int) -> bytes:
        window = self._window
        if not window.has(offset, BLOCK):
            if window.end != offset:
                raise window.truncated("a header" if window.end > offset else None)
            problem = "the shard ends without its end-of-archive blocks"
            raise TruncatedShardError(self._url, problem, offset)
        position = offset - window.base
        return bytes(window.buffer[position : position + BLOCK])

    def _end_of_archive(self, offset: int) -> int | None:
        """Check the end blocks; give where another archive begins after them."""
        window = self._window
        window.keep = offset
        if self._block(offset + BLOCK) != ZEROS:
            raise ShardError(self._url, "one zero block, where two end a tar", offset)
        while True:
            window.fill(offset, window.ahead)
            there = window.buffer[offset - window.base : window.end - window.base]
            rest = bytes(there).lstrip(b"\0")
            if rest:
                start = window.end - len(rest)
                return self._next_archive(start - start % BLOCK)
            offset = window.end - window.end % BLOCK
            if window.at_end:
                self._facts.num_bytes = window.end
                return None

    def _next_archive(self, offset: int) -> int:
        """Accept that another archive follows, if what is there is a header."""
        self._window.keep = offset
        if not is_header(self._block(offset)):
            problem = "neither zeros nor a header, after the end of the archive"
            raise ShardError(self._url, problem, offset)
        self._facts.num_archives += 1
        return offset

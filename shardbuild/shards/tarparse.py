r"""One tar header at a time, read exactly: every dialect, every check, no I/O.

Dialects: ustar, pax (``x``, ``g``), GNU (``L``, ``K``, base-256 numbers), star
and v7. What decides about a header is its checksum, not its magic. Tars sum
unsigned bytes; some very old ones summed signed bytes, and both are accepted.

The checksum field cannot protect itself: ``011610\0 `` with one bit flipped may
be `` 11610\0 ``, the same number. So it has to be in one of the forms that writers
use, no two of which differ by one bit, and a change of any bit of it is found too.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from zlib import adler32

from shardbuild.errors import ShardError

__all__ = [
    "BLOCK",
    "DEVICE",
    "DIRECTORY",
    "FILE",
    "GLOBAL",
    "LINK",
    "LONG_LINK",
    "LONG_NAME",
    "MAX_EXTENDED_BYTES",
    "OTHER",
    "PAX",
    "ZEROS",
    "Header",
    "Overrides",
    "decode_name",
    "is_header",
    "kind_of_type",
    "overrides_of",
    "padded",
    "parse_header",
    "parse_pax",
    "plain_file",
    "plain_path",
]

BLOCK: Final = 512
ZEROS: Final = bytes(BLOCK)

MAX_EXTENDED_BYTES: Final = 512 << 10
"""The largest extended header that is read: a longer one is damage or malice."""

# What a header stands for. FILE, PAX, GLOBAL, LONG_NAME, LONG_LINK and OTHER have
# data after them, the others have none, whatever their size field says.
FILE: Final = "file"
PAX: Final = "pax"
GLOBAL: Final = "global"
LONG_NAME: Final = "long name"
LONG_LINK: Final = "long link"
LINK: Final = "link"
DEVICE: Final = "device"
DIRECTORY: Final = "directory"
OTHER: Final = "unknown type"

_KINDS: Final = {
    ord("0"): FILE,
    0: FILE,
    ord("7"): FILE,
    ord("x"): PAX,
    ord("X"): PAX,
    ord("g"): GLOBAL,
    ord("L"): LONG_NAME,
    ord("K"): LONG_LINK,
    ord("1"): LINK,
    ord("2"): LINK,
    ord("3"): DEVICE,
    ord("4"): DEVICE,
    ord("6"): DEVICE,
    ord("5"): DIRECTORY,
}
_WITHOUT_DATA: Final = frozenset({LINK, DEVICE, DIRECTORY})

_MAX_SIZE: Final = 2**62
_BASE_256: Final = 0x80

# Name, size, checksum; the kind of a file, POSIX magic, no prefix.
_plain = re.compile(
    rb"(.{100}).{24}([0-7]{11})[\0 ].{12}([0-7]{6})\0 0.{100}ustar\x0000.{80}\0",
    re.DOTALL,
)
# POSIX, GNU and nearly all others; Rust; Perl.
_strict_sum = re.compile(
    rb"(?= *([0-7]+))(?:[0-7]{6}\0 |[0-7]{7}\0| +[0-7]+(?:  |\0\0))"
)
_loose_sum = re.compile(rb" *([0-7]+)[\0 ]*")
_octal = re.compile(rb" *([0-7]*)[ ]*(?:\0.*)?", re.DOTALL)
_record = re.compile(rb"([0-9]{1,7}) ([^=]*)=")
_path_and_time = re.compile(
    rb"([0-9]{1,7}) path=([^\0\n]+)\n(?:([0-9]{1,7}) mtime=-?[0-9.]+\n)?"
)
_NEWLINE: Final = ord("\n")
_decimal = re.compile(rb"[0-9]{1,19}")


class Header(NamedTuple):
    """One header block, understood."""

    name: bytes
    size: int
    """Bytes of data after the header, 0 for kinds that have none."""
    kind: str

    @property
    def has_data(self) -> bool:
        """Whether data may follow a header of this kind."""
        return self.kind not in _WITHOUT_DATA


class Overrides(NamedTuple):
    """What an extended header says about the member after it."""

    name: bytes | None = None
    size: int | None = None


def padded(num_bytes: int) -> int:
    """Round up to whole blocks.

    >>> padded(0), padded(1), padded(512)
    (0, 512, 512)
    """
    return (num_bytes + BLOCK - 1) & -BLOCK


def parse_header(block: bytes, url: str, offset: int) -> Header:
    """Understand a header of 512 bytes that lies at ``offset``.

    >>> from tarfile import USTAR_FORMAT, TarInfo
    >>> parse_header(TarInfo("a/7.jpg").tobuf(USTAR_FORMAT), "a.tar", 0)
    Header(name=b'a/7.jpg', size=0, kind='file')

    Raises:
        ShardError: The checksum is wrong, the size is, or it is a sparse or a
            continued member.
    """
    problem = _sum_problem(block)
    if problem:
        raise ShardError(url, problem, offset)
    kind = _KINDS.get(block[156], OTHER)
    if kind is OTHER and block[156] in b"SM":
        what = "sparse" if block[156] == ord("S") else "continued from another volume"
        problem = f"member {_name(block)!r} is {what}: not supported"
        raise ShardError(url, problem, offset)
    if kind in _WITHOUT_DATA:
        return Header(_name(block), 0, kind)
    size = _number(block[124:136])
    if size is None or size > _MAX_SIZE:
        raise ShardError(url, f"no sound size in {block[124:136]!r}", offset)
    name = _name(block)
    if block[156] == 0 and name.endswith(b"/"):
        return Header(name, 0, DIRECTORY)
    return Header(name, size, kind)


def plain_file(block: bytes | memoryview) -> tuple[bytes, int] | None:
    """Name and size, if a block is the plain header of a file in canonical form.

    >>> from tarfile import GNU_FORMAT, USTAR_FORMAT, TarInfo
    >>> plain_file(TarInfo("a/7.jpg").tobuf(USTAR_FORMAT))
    (b'a/7.jpg', 0)
    """
    match = _plain.match(block)
    if match is None:
        return None
    # The low half of adler32 is the sum plus 1, modulo 65521: exact to 256 bytes.
    # The checksum itself counts as eight spaces.
    claimed = match[3]
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF)
    if total + 222 - sum(claimed) != int(claimed, 8):
        return None
    return match[1].partition(b"\0")[0], int(match[2], 8)


def kind_of_type(type_byte: int) -> str:
    """What a header's type byte stands for.

    >>> kind_of_type(ord("2")), kind_of_type(ord("V"))
    ('link', 'unknown type')
    """
    return _KINDS.get(type_byte, OTHER)


def is_header(block: bytes) -> bool:
    """Say whether a block is a header, by its checksum.

    >>> is_header(bytes(512)), is_header(b"text" * 128)
    (False, False)
    """
    return len(block) == BLOCK and not _sum_problem(block)


def parse_pax(data: bytes, url: str, offset: int) -> dict[bytes, bytes]:
    r"""Read the records of an extended header; the last of a keyword counts.

    >>> parse_pax(b"16 path=a/7.jpg\n", "a.tar", 512)
    {b'path': b'a/7.jpg'}

    Raises:
        ShardError: A record is not as long as it says, or is no record.
    """
    records: dict[bytes, bytes] = {}
    position, end = 0, len(data)
    while position < end and data[position]:
        match = _record.match(data, position)
        length, keyword = match.groups() if match else (b"0", b"")
        stop = position + int(length)
        start = match.end() if match else stop
        if start >= stop or stop > end or data[stop - 1] != _NEWLINE:
            there = data[position : position + 40]
            problem = f"a damaged record in a pax header: {there!r}"
            raise ShardError(url, problem, offset + position)
        records[keyword] = data[start : stop - 1]
        position = stop
    return records


def plain_path(data: bytes) -> bytes | None:
    r"""The name in a pax header that gives a name and perhaps a time, and no more.

    A third of what `parse_pax` costs, for what Python's ``tarfile`` writes.

    >>> plain_path(b"16 path=a/7.jpg\n13 mtime=0.5\n")
    b'a/7.jpg'
    """
    match = _path_and_time.fullmatch(data)
    if match is None:
        return None
    length, name, time_length = match.groups()
    stop = match.end(2) + 1
    if int(length) != stop or (time_length and int(time_length) != len(data) - stop):
        return None
    return name


def overrides_of(records: dict[bytes, bytes], url: str, offset: int) -> Overrides:
    """Keep what of a pax header concerns us: the name and the size.

    >>> overrides_of({b"mtime": b"1.5", b"size": b"7"}, "a.tar", 0)
    Overrides(name=None, size=7)

    Raises:
        ShardError: The member is sparse, its size is no number, or its name has
            a zero byte.
    """
    for keyword in records:
        if keyword.startswith((b"GNU.sparse", b"SCHILY.realsize")):
            raise ShardError(url, "a sparse member: not supported", offset)
    name = records.get(b"path") or None
    if name is not None and b"\0" in name:
        raise ShardError(url, f"a zero byte in the name {name!r}", offset)
    size = records.get(b"size") or None
    if size is None:
        return Overrides(name)
    if not _decimal.fullmatch(size) or int(size) > _MAX_SIZE:
        raise ShardError(url, f"no sound size in a pax header: {size!r}", offset)
    return Overrides(name, int(size))


def decode_name(name: bytes, url: str, offset: int) -> str:
    """Decode a member's name, which has to be UTF-8.

    Keys go on into indexes, manifests and JSON, none of which holds other bytes:
    so a name that could not be written again is refused where it is read.

    Raises:
        ShardError: The name is not UTF-8.
    """
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        problem = f"the member name {name!r} is not UTF-8"
        raise ShardError(url, problem, offset) from error


def _name(block: bytes) -> bytes:
    name = _text(block[:100])
    if block[345] and block[257:263] == b"ustar\0":
        # star keeps times after a shorter prefix, and signs at the end.
        end = 476 if block[508:] == b"tar\0" else 500
        return _text(block[345:end]) + b"/" + name
    return name


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int | None:
    """A number in octal or base 256; None if it is neither, or is negative."""
    if field[0] == _BASE_256:
        return int.from_bytes(field[1:], "big")
    match = _octal.fullmatch(field)
    return None if match is None else int(match[1] or b"0", 8)


def _sum_problem(block: bytes) -> str | None:
    """What is wrong with a header's checksum."""
    field = block[148:156]
    match = _strict_sum.fullmatch(field)
    if match is None and block[124] == ord(" "):
        # Old writers pad with spaces, the size too.
        match = _loose_sum.fullmatch(field)
    if match is None:
        return f"not a tar header: {field!r} is no checksum"
    claimed = int(match[1], 8)
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    total += 256 - sum(field)  # see `plain_file`
    if total == claimed:
        return None
    signed = total - 256 * sum(byte > 127 for byte in block)
    if signed == claimed:
        return None
    return f"the header's checksum is {claimed}, its bytes add up to {total}"

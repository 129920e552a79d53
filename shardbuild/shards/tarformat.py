"""The bytes of a tar as we write it: headers, padding, sizes.

Every byte is what Python's ``tarfile`` writes in ``USTAR_FORMAT`` with integer
mtime 0, uid and gid 0. A member that ustar cannot hold (a name of more than 100
bytes that no ``/`` splits into 155 and 100, or 8 GiB and more) is written as
``tarfile`` writes it in ``PAX_FORMAT``. A name outside ASCII is no such case:
ustar holds its UTF-8, and readers that know no pax read it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BLOCK",
    "RECORD",
    "HeaderForm",
    "end_of_archive",
    "header_form",
    "member_header",
    "padded",
    "padding",
    "sample_tar_bytes",
    "shard_tar_bytes",
]

BLOCK = 512
"""All of a tar lies on blocks of this many bytes."""
RECORD = 20 * BLOCK
"""The length of a tar is a multiple of this."""

NAME_BYTES = 100
_PREFIX_BYTES = 155
_OWNER_BYTES = 32
SIZE_LIMIT = 8**11
_MTIME = b"00000000000\0"
_PAX_NAME = b"././@PaxHeader"


@dataclass(frozen=True, slots=True)
class HeaderForm:
    """All of a ustar header that does not change from member to member."""

    owner: bytes
    """Bytes 100 to 124: mode, uid, gid."""
    tail: bytes
    """Bytes 156 to 512: kind, magic, names of user and group; no prefix."""
    base_sum: int
    """The checksum of a header with no name and no digits of size."""

    def header(self, name: bytes, num_bytes: int, prefix: bytes = b"") -> bytes:
        """One header block, for a name that fits into it."""
        digits = b"%011o\0" % num_bytes
        total = self.base_sum + sum(name) + sum(digits) + sum(prefix)
        tail = self.tail
        if prefix:
            tail = tail[:189] + prefix + tail[189 + len(prefix) :]
        return b"".join(
            (
                *(name, bytes(NAME_BYTES - len(name)), self.owner, digits, _MTIME),
                *(b"%06o\0 " % total, tail),
            )
        )


@functools.lru_cache(maxsize=64)
def header_form(user: str, group: str, mode: int, kind: bytes = b"0") -> HeaderForm:
    """The form of the headers of members that belong to ``user`` and ``group``.

    Raises:
        ValueError: a name is longer than its field of 32 bytes.
    """
    owners = [name.encode() for name in (user, group)]
    for name in owners:
        if len(name) > _OWNER_BYTES or b"\0" in name:
            problem = f"the owner's name {name.decode()!r} does not fit into 32 bytes"
            raise ValueError(problem)
    owner = b"%07o\0" % (mode & 0o7777) + b"0000000\0" * 2
    fields = (kind, bytes(100), b"ustar\x0000", *(n.ljust(32, b"\0") for n in owners))
    tail = b"".join(fields).ljust(BLOCK - 156, b"\0")
    base = sum(owner) + sum(_MTIME) + 8 * ord(" ") + sum(tail)
    return HeaderForm(owner, tail, base)


def member_header(
    name: str,
    num_bytes: int,
    *,
    user: str = "bigdata",
    group: str = "bigdata",
    mode: int = 0o444,
) -> bytes:
    """All header blocks of one member: 512 bytes, or three blocks and more for pax.

    Raises:
        ValueError: the name cannot be written in UTF-8.

    >>> len(member_header("n01/7.jpg", 1000)), len(member_header("7" * 101, 1000))
    (512, 1536)
    """
    form = header_form(user, group, mode)
    raw = name.encode()
    split = _split_name(raw)
    if split is not None and num_bytes < SIZE_LIMIT:
        return form.header(split[1], num_bytes, split[0])
    records = b""
    if len(name) > NAME_BYTES or not name.isascii():
        records += _pax_record(b"path", raw)
    if num_bytes >= SIZE_LIMIT:
        records += _pax_record(b"size", b"%d" % num_bytes)
        num_bytes = 0
    # The records come as a member of their own, made by nobody with mode 0.
    head = header_form("", "", 0o000, b"x").header(_PAX_NAME, len(records))
    short = name.encode("ascii", "replace")[:NAME_BYTES]
    return head + records + padding(len(records)) + form.header(short, num_bytes)


def padded(num_bytes: int) -> int:
    """Bytes that a payload takes in a tar.

    >>> padded(0), padded(1), padded(512), padded(513)
    (0, 512, 512, 1024)
    """
    return -(-num_bytes // BLOCK) * BLOCK


def padding(num_bytes: int) -> bytes:
    """The zeros after a payload of so many bytes."""
    return _ZEROS[: -num_bytes % BLOCK]


def sample_tar_bytes(key: str, sizes_by_extension: Mapping[str, int]) -> int:
    """Bytes that a sample takes in a shard: headers and padded payloads.

    >>> sample_tar_bytes("n01/7", {"cls": 1, "jpg": 1000})
    2560
    """
    total = 0
    for extension, num_bytes in sizes_by_extension.items():
        total += padded(num_bytes) + _header_bytes(f"{key}.{extension}", num_bytes)
    return total


def shard_tar_bytes(body: int) -> int:
    """Bytes of a tar whose samples take ``body``: with end blocks and padding.

    >>> shard_tar_bytes(0), shard_tar_bytes(9216), shard_tar_bytes(9217)
    (10240, 10240, 20480)
    """
    return -(-(body + 2 * BLOCK) // RECORD) * RECORD


def end_of_archive(body: int) -> bytes:
    """What follows the samples of a tar: two blocks of zeros, and padding."""
    return bytes(shard_tar_bytes(body) - body)


_ZEROS = bytes(BLOCK)


def _header_bytes(name: str, num_bytes: int) -> int:
    if len(name) <= NAME_BYTES // 4 and num_bytes < SIZE_LIMIT:
        return BLOCK
    if num_bytes < SIZE_LIMIT and _split_name(name.encode()) is not None:
        return BLOCK
    return len(member_header(name, num_bytes))


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and name as ustar keeps them; None if it cannot.

    Of all ways to split, ``tarfile`` takes the shortest prefix.
    """
    if len(name) <= NAME_BYTES:
        return b"", name
    slash = name.find(b"/", max(len(name) - NAME_BYTES - 1, 0))
    if not 0 <= slash <= _PREFIX_BYTES:
        return None
    return name[:slash], name[slash + 1 :]


def _pax_record(keyword: bytes, value: bytes) -> bytes:
    """``length keyword=value``, where the length counts its own digits."""
    rest = b" %b=%b\n" % (keyword, value)
    length = len(rest)
    while len(rest) + len(b"%d" % length) != length:
        length = len(rest) + len(b"%d" % length)
    return b"%d%b" % (length, rest)

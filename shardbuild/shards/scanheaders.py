"""Thousands of tar headers at a time, by numpy: which blocks are headers, what of.

Only plain ground is covered: POSIX or GNU headers whose checksum is right and
in canonical form, one after the other. Where that ends the scan ends, and
`tarparse` decides, one header at a time, what is there. So nothing here raises.

Every block whose magic is right is a candidate. Blocks of a payload may look
like headers too (a tar inside a tar), so what counts is the chain: a header is
where the data of the one before it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardbuild.shards.tarparse import BLOCK

if TYPE_CHECKING:
    from shardbuild.shards.readwindow import Buffer

__all__ = [
    "IS_FILE",
    "IS_LONG_NAME",
    "IS_OTHER",
    "IS_PAX",
    "IS_STOP",
    "IS_WITHOUT_DATA",
    "Chain",
    "HeaderScan",
]

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

MAX_HEADERS: Final = 2048
"""Headers handled at once: as many as keep the numbers in the second-level cache."""

IS_FILE: Final = 0
IS_WITHOUT_DATA: Final = 1
IS_PAX: Final = 2
IS_LONG_NAME: Final = 3
IS_OTHER: Final = 4
IS_STOP: Final = 5

_POSIX: Final = int.from_bytes(b"ustar\x0000", "little")
_GNU: Final = int.from_bytes(b"ustar  \0", "little")


def _kinds() -> Bytes:
    kinds = np.full(256, IS_OTHER, dtype=np.uint8)
    for types, kind in (
        (b"07", IS_FILE),
        (b"123456", IS_WITHOUT_DATA),
        (b"xX", IS_PAX),
        (b"L", IS_LONG_NAME),
        # A global header, a long link, and what is not supported; also the old
        # type, which may mean a folder.
        (b"gKSM\0", IS_STOP),
    ):
        kinds[list(types)] = kind
    return kinds


_KINDS: Final = _kinds()
_FILE_BYTE: Final = ord("0")

_LOW: Final = np.uint64(0x00FF00FF00FF00FF)


class Chain(NamedTuple):
    """Headers that follow one another, each with its data wholly in the window."""

    rows: Bytes
    """The headers, 512 bytes each."""
    blocks: Ints
    """Where each header lies, in blocks from the start of the window."""
    sizes: Ints
    kinds: Bytes | None
    """IS_FILE and its kin for each; None if all are plain files."""
    is_gnu: bool


class _Scratch:
    """Memory that every scan writes over: fresh pages would cost more than sums."""

    __slots__ = ("lanes", "more_lanes", "rows")

    def __init__(self) -> None:
        self.rows = np.empty((MAX_HEADERS, BLOCK), np.uint8)
        self.lanes = np.empty((_SUM_ROWS, BLOCK // 8), np.uint64)
        self.more_lanes = np.empty_like(self.lanes)


_idle: list[_Scratch] = []
_MAX_IDLE: Final = 2


class HeaderScan:
    """Finds headers in a buffer; one scan at a time."""

    __slots__ = ("_blocks", "_lanes", "_magics", "_more_lanes", "_rows", "_scratch")

    def __init__(self, buffer: Buffer) -> None:
        count = len(buffer) // BLOCK
        flat = np.frombuffer(buffer, np.uint8, count * BLOCK)
        self._blocks = flat.reshape(count, BLOCK)
        self._magics: Words = self._blocks[:, 257:265].view("<u8")[:, 0]
        try:
            self._scratch = _idle.pop()
        except IndexError:
            self._scratch = _Scratch()
        self._rows = self._scratch.rows
        self._lanes, self._more_lanes = self._scratch.lanes, self._scratch.more_lanes

    def close(self) -> None:
        """Give the memory back."""
        if len(_idle) < _MAX_IDLE:
            _idle.append(self._scratch)

    def chain(self, start: int, stop: int) -> Chain | None:
        """Follow headers from block ``start``; no data beyond block ``stop``.

        None if there is nothing to follow by these means. The arrays are good
        until the next scan.
        """
        magic = int(self._magics[start])
        if magic not in (_POSIX, _GNU):
            return None
        candidates = np.flatnonzero(self._magics[start:stop] == magic)[:MAX_HEADERS]
        candidates += start
        rows = self._rows_at(candidates)
        sizes, good = self._sizes(rows)
        types = rows[:, 156]
        kinds = None
        if not (types == _FILE_BYTE).all():
            kinds = _KINDS[types]
            sizes[kinds == IS_WITHOUT_DATA] = 0
        nexts = candidates + ((sizes + (2 * BLOCK - 1)) >> 9)
        if good.all() and (nexts[:-1] == candidates[1:]).all():
            count = int(np.searchsorted(nexts, stop, "right"))
            picked: slice | list[int] = slice(0, count)
        else:
            picked = _follow(candidates, nexts, good, stop)
        blocks = candidates[picked]
        if not len(blocks):
            return None
        kinds = None if kinds is None else kinds[picked]
        return Chain(rows[picked], blocks, sizes[picked], kinds, magic == _GNU)

    def files(self, blocks: Ints) -> Chain | None:
        """The headers at these blocks, up to the first that is no plain file's.

        None if the first is none. That they follow one another is for the caller
        to know. The arrays are good until the next scan.
        """
        magic = int(self._magics[blocks[0]])
        rows = self._rows_at(blocks)
        sizes, good = self._sizes(rows)
        good &= self._magics[blocks] == magic
        good &= rows[:, 156] == _FILE_BYTE
        count = len(good) if good.all() else int(good.argmin())
        if magic not in (_POSIX, _GNU) or not count:
            return None
        return Chain(rows[:count], blocks[:count], sizes[:count], None, magic == _GNU)

    def _rows_at(self, blocks: Ints) -> Bytes:
        rows = self._rows[: len(blocks)]
        # mode="clip" writes straight into ``out``; no index is out of bounds.
        np.take(self._blocks, blocks, axis=0, out=rows, mode="clip")
        return rows

    def _sizes(self, rows: Bytes) -> tuple[Ints, Mask]:
        """The size in each header, and whether header and size are canonical."""
        count = len(rows)
        fields = np.empty((2, count), np.uint64)
        fields[0] = _field(rows, 128, "<u8")
        fields[1] = _field(rows, 148, "<u8")
        high = _field(rows, 124, "<u4")
        # Seven octal digits and an end; six, a zero byte and a space.
        digits = fields & _FORMS[:, :1]
        good: Mask = digits[1] == _FORMS[1, 1]
        good &= (digits[0] == _FORMS[0, 1]) | (digits[0] == _FORMS[0, 2])
        rows[:, 148:156] = ord(" ")
        sums = self._sums(rows)
        values = _octal(fields & _FORMS[:, 3:])
        good &= sums == values[1] >> np.uint64(6)
        sizes = (values[0] >> np.uint64(3)).astype(np.int64)
        if (high != _FOUR_ZEROS).any():
            good &= (high & np.uint32(0xF8F8F8F8)) == _FOUR_ZEROS
            upper = _octal((high & np.uint32(0x07070707)).astype(np.uint64))
            sizes += (upper >> np.uint64(12)).astype(np.int64) << 21
        return sizes, good

    def _sums(self, rows: Bytes) -> Words:
        """The sum of the bytes of each row: in four lanes of 16 bits a word."""
        words = rows.view("<u8")
        sums = np.empty(len(rows), np.uint64)
        for start in range(0, len(rows), _SUM_ROWS):
            part = words[start : start + _SUM_ROWS]
            lanes, more = self._lanes[: len(part)], self._more_lanes[: len(part)]
            np.bitwise_and(part, _LOW, out=lanes)
            np.right_shift(part, _BYTE, out=more)
            np.bitwise_and(more, _LOW, out=more)
            np.add(lanes, more, out=lanes)
            np.einsum("ij->i", lanes, out=sums[start : start + _SUM_ROWS])
        sums = (sums & _EVEN_LANES) + ((sums >> np.uint64(16)) & _EVEN_LANES)
        return (sums & _HALF) + (sums >> np.uint64(32))


_SUM_ROWS: Final = 256
_BYTE: Final = np.uint64(8)
_EVEN_LANES: Final = np.uint64(0x0000FFFF0000FFFF)
_HALF: Final = np.uint64(0xFFFFFFFF)
_FOUR_ZEROS: Final = np.uint32(0x30303030)
# For the size and for the checksum: what to look at, the two forms that may be
# there (digits and a zero byte, or a space), and which bits make the number.
_FORMS: Final = np.array(
    [
        [
            0xFFF8F8F8F8F8F8F8,
            0x0030303030303030,
            0x2030303030303030,
            0x0007070707070707,
        ],
        [
            0xFFFFF8F8F8F8F8F8,
            0x2000303030303030,
            0x2000303030303030,
            0x0000070707070707,
        ],
    ],
    dtype=np.uint64,
)


def _field(rows: Bytes, offset: int, kind: str) -> NDArray[Any]:
    """A number that lies at the same offset of every header."""
    return np.ndarray((len(rows),), kind, rows, offset, (BLOCK,))


def _octal(digits: Words) -> Words:
    """Eight octal digits to a number, the first digit in the lowest byte."""
    pairs = ((digits << np.uint64(3)) + (digits >> np.uint64(8))) & _LOW
    fours = ((pairs << np.uint64(6)) + (pairs >> np.uint64(16))) & _EVEN_LANES
    return ((fours << np.uint64(12)) + (fours >> np.uint64(32))) & _HALF


def _follow(candidates: Ints, nexts: Ints, good: Mask, stop: int) -> list[int]:
    """Positions of the candidates that follow one another, from the first on."""
    at = {block: i for i, block in enumerate(candidates.tolist())}
    ends, is_good = nexts.tolist(), good.tolist()
    picked = []
    i = 0
    while i >= 0 and is_good[i] and ends[i] <= stop:
        picked.append(i)
        i = at.get(ends[i], -1)
    return picked

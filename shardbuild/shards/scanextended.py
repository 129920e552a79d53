"""Which headers of a chain are files, and what extended headers say about them.

webdataset writes a pax header before every member by default, only to store half
a second of ``mtime``: numpy recognises those by their first bytes and their last.
Other pax headers and GNU's long names are read one at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from shardbuild.errors import ShardError
from shardbuild.shards.scanheaders import (
    IS_FILE,
    IS_LONG_NAME,
    IS_PAX,
    IS_STOP,
    Chain,
    Ints,
    Mask,
)
from shardbuild.shards.tarparse import (
    BLOCK,
    MAX_EXTENDED_BYTES,
    overrides_of,
    parse_pax,
    plain_path,
)

if TYPE_CHECKING:
    from shardbuild.shards.readwindow import Buffer

__all__ = ["Files", "files_of"]

# A pax header of one record, such as "28 mtime=1700000000.1234567\n".
_MTIME: Final = np.uint64(int.from_bytes(b"00 mtime", "little"))
_EQUALS, _NEWLINE = b"=\n"


class Files(NamedTuple):
    """The files among the headers of a chain."""

    rows: Ints
    """Their positions in the chain."""
    heads: Ints
    """The first block of each: of its extended header, if it has one."""
    names: dict[int, bytes]
    """Names from extended headers, by position in the chain."""


def files_of(chain: Chain, buffer: Buffer) -> Files:
    """Find the files of a chain, up to the first header that is not plain."""
    kinds = chain.kinds
    if kinds is None:
        return Files(np.arange(len(chain.blocks)), chain.blocks, {})
    extended = (kinds == IS_PAX) | (kinds == IS_LONG_NAME)
    doubtful = kinds == IS_STOP
    doubtful[:-1] |= extended[:-1] & extended[1:]
    doubtful[-1] |= extended[-1]
    count = int(doubtful.argmax()) if doubtful.any() else len(kinds)
    names, count = _read_extended(chain, extended[:count], buffer)
    rows = np.flatnonzero(kinds[:count] == IS_FILE)
    is_after = np.zeros(len(kinds), np.int64)
    is_after[1:] = extended[:-1]
    return Files(rows, chain.blocks[rows - is_after[rows]], names)


def _read_extended(
    chain: Chain, extended: Mask, buffer: Buffer
) -> tuple[dict[int, bytes], int]:
    """Names that extended headers give, and up to which row all is plain."""
    rows = np.flatnonzero(extended)
    rows = rows[~_only_mtime(chain, rows, buffer)]
    starts = (chain.blocks[rows] + 1) * BLOCK
    stops = starts + np.minimum(chain.sizes[rows], MAX_EXTENDED_BYTES + 1)
    assert chain.kinds is not None
    kinds = chain.kinds[rows]
    names: dict[int, bytes] = {}
    for row, start, stop, kind in zip(
        *(column.tolist() for column in (rows, starts, stops, kinds)), strict=True
    ):
        if stop - start > MAX_EXTENDED_BYTES:
            return names, row
        data = bytes(buffer[start:stop])
        if kind == IS_LONG_NAME:
            names[row + 1] = data.partition(b"\0")[0]
            continue
        plain_name = plain_path(data)
        if plain_name is not None:
            names[row + 1] = plain_name
            continue
        try:
            name, size = overrides_of(parse_pax(data, "", 0), "", 0)
        except ShardError:
            return names, row
        if size is not None:
            return names, row
        if name is not None:
            names[row + 1] = name
    return names, len(extended)


def _only_mtime(chain: Chain, rows: Ints, buffer: Buffer) -> Mask:
    """Which of these extended headers are one pax record that says ``mtime``."""
    flat = np.frombuffer(buffer, np.uint8)
    words = np.frombuffer(buffer, "<u8", len(flat) // 8)
    starts = (chain.blocks[rows] + 1) * BLOCK
    sizes = chain.sizes[rows]
    tens, ones = np.divmod(sizes, 10)
    is_short = (sizes >= 10) & (sizes < 100)
    lengths = np.where(is_short, tens + (ones << 8), 0).astype(np.uint64)
    lasts = starts + np.where(is_short, sizes - 1, 0)
    mask: Mask = words[starts >> 3] == _MTIME + lengths
    mask &= is_short & (flat[starts + 8] == _EQUALS) & (flat[lasts] == _NEWLINE)
    assert chain.kinds is not None
    mask &= chain.kinds[rows] == IS_PAX
    return mask

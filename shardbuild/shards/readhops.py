"""A local shard of large payloads: only headers and small data are scanned.

Headers are found by hopping from one to the next, as each says how much data
follows it. What lies between two large payloads goes into a buffer, one piece
after the other; then all headers in there are checked at once, by numpy. Nothing
that was found this way is believed before that. Large payloads are read when
their sample is made, straight into its bytes: one copy.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from shardbuild.shards.readcut import samples_of_run
from shardbuild.shards.scangroups import Run, run_of
from shardbuild.shards.scanheaders import HeaderScan
from shardbuild.shards.tarparse import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardbuild.shards.readwindow import FileWindow
    from shardbuild.shards.samples import KeyRule, Sample

__all__ = ["HopReader", "HopRun"]

_BUFFER_BYTES: Final = 512 << 10
_MAX_HEADERS: Final = 1024
_SPAN_BYTES: Final = 16 << 20
"""How much of the file is looked through at once."""
_DIRECT_BYTES: Final = 16 << 10
"""A payload from which on is left where it is until its sample is made."""
_MAX_DIRECT_BYTES: Final = 1 << 30
"""More than that is not surely read by one call."""
_MAX_PIECE_BYTES: Final = 64 << 10


class HopRun(NamedTuple):
    """A run whose offsets are those in the file."""

    run: Run
    payloads: _Payloads

    def samples(self) -> Iterator[Sample]:
        """Cut the samples out, and read what is not there yet."""
        return samples_of_run(self.run, self.payloads)


class HopReader:
    """Finds runs in a file of large payloads; one run at a time."""

    __slots__ = ("_key_rule", "_memory", "_piece_bytes", "_scan", "_view", "_window")

    def __init__(self, window: FileWindow, key_rule: KeyRule) -> None:
        self._window = window
        self._key_rule = key_rule
        self._memory = mmap.mmap(-1, _BUFFER_BYTES)
        self._view = memoryview(self._memory)
        self._scan = HeaderScan(self._memory)
        self._piece_bytes = 4 << 10

    def run_at(self, offset: int) -> HopRun | None:
        """Find the run that begins at an offset; None if there is none."""
        window = self._window
        window.will_need(offset, _SPAN_BYTES)
        positions, offsets = self._hop(offset)
        if not positions:
            return None
        chain = self._scan.files(np.array(positions, np.int64) // BLOCK)
        if chain is None:
            return None
        count = len(chain.rows)
        blocks = np.array(offsets[:count], np.int64) // BLOCK
        run = run_of(chain._replace(blocks=blocks), self._memory, self._key_rule)
        if run is None:
            return None
        places = zip(offsets, positions, chain.sizes.tolist(), strict=False)
        small = {
            offset + BLOCK: position + BLOCK
            for offset, position, size in places
            if size < _DIRECT_BYTES
        }
        return HopRun(run, _Payloads(window, self._memory, small))

    def _hop(self, offset: int) -> tuple[list[int], list[int]]:
        """Where headers seem to be, in the buffer and in the file.

        The data of all of them is in the file, and in the buffer if it is small.
        """
        memory, size_of_file = self._memory, self._window.size
        positions: list[int] = []
        offsets: list[int] = []
        last = min(size_of_file, offset + _SPAN_BYTES)
        position = end = piece_start = 0
        while offset < last and len(positions) < _MAX_HEADERS:
            if position + BLOCK > end:
                end = self._read(end, offset + end - position, self._piece_bytes)
                if position + BLOCK > end:
                    break
            try:
                size = int(memory[position + 124 : position + 135], 8)
            except ValueError:
                break
            stop = offset + BLOCK + size
            if size < 0 or stop > size_of_file or size > _MAX_DIRECT_BYTES:
                break
            positions.append(position)
            offsets.append(offset)
            offset = (stop + BLOCK - 1) & -BLOCK
            position += BLOCK
            if size >= _DIRECT_BYTES:
                # What lay between two large payloads will do so again.
                self._piece_bytes = min(position - piece_start, _MAX_PIECE_BYTES)
                position = piece_start = end = (end + BLOCK - 1) & -BLOCK
            else:
                position += (size + BLOCK - 1) & -BLOCK
                if position > end:
                    wanted = max(position - end, self._piece_bytes)
                    end = self._read(end, offset + end - position, wanted)
        if position > end:  # the last data are not all there
            positions.pop()
            offsets.pop()
        return positions, offsets

    def _read(self, position: int, offset: int, num_bytes: int) -> int:
        """Read a piece of the file into the buffer; give where it ends there."""
        view = self._view[position : position + num_bytes]
        return position + self._window.read_at(offset, view)

    def close(self) -> None:
        """Give the memory back."""
        self._scan.close()


class _Payloads:
    """The file's bytes: small data from the buffer, the rest by reading."""

    __slots__ = ("_memory", "_small", "_window")

    def __init__(
        self, window: FileWindow, memory: mmap.mmap, small: dict[int, int]
    ) -> None:
        self._window = window
        self._memory = memory
        self._small = small

    def __getitem__(self, span: slice) -> bytes:
        start, stop = span.start, span.stop
        position = self._small.get(start)
        if position is None:
            return self._window.bytes_at(start, stop - start)
        return self._memory[position : position + stop - start]

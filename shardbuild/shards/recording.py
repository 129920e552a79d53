"""What a writer remembers of the samples it wrote, to make their index of."""

from __future__ import annotations

from array import array
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from shardbuild.shards.index import (
    ShardIndex,
    concat_indexes,
    extension_type,
    owned_positions,
    running_sum,
)
from shardbuild.shards.tarformat import BLOCK

if TYPE_CHECKING:
    from shardbuild.shards.framing import Frame, Layout

__all__ = ["IndexRecorder"]

_MAX_RECENT = 1 << 12


class IndexRecorder:
    """Collects frames, laid end to end, and runs of samples, into an index.

    What a sample's offsets are follows from its sizes: they are all that is kept
    of most samples, beside the key. Keys are kept once, in order, for the index
    and for finding one that comes twice.
    """

    __slots__ = (
        "_is_standard",
        *("_first_key", "_headers", "_layout", "_layouts", "_recent", "_runs"),
        *("_sizes", "keys"),
    )

    def __init__(self, *, is_standard: bool = True) -> None:
        self._is_standard = is_standard
        self.keys: dict[str, None] = {}
        """The keys of all samples so far."""
        self._runs: list[ShardIndex] = []
        self._forget()

    def _forget(self) -> None:
        self._first_key = len(self.keys)
        self._layouts: list[tuple[int, Layout]] = []
        self._layout: Layout | None = None
        self._recent: list[int] = []
        self._sizes = array("q")
        self._headers: dict[int, int] = {}

    def add(self, frame: Frame) -> None:
        """One more sample."""
        key, layout, _, sizes, _, headers = frame
        if layout is not self._layout:
            self._layout = layout
            self._layouts.append((len(self.keys), layout))
        self.keys[key] = None
        recent = self._recent
        if headers is not None:
            first = len(self._sizes) + len(recent)
            self._headers.update(enumerate(headers, first))
        recent += sizes
        if len(recent) > _MAX_RECENT:
            self._sizes.fromlist(recent)
            recent.clear()

    def add_run(self, rows: ShardIndex) -> None:
        """More samples, from their own index."""
        self._end_frames()
        self.keys.update(dict.fromkeys(rows.keys()))
        self._first_key = len(self.keys)
        self._runs.append(rows)

    def finish(self, num_bytes: int, file_bytes: int) -> ShardIndex:
        """The index of all, in a shard of ``num_bytes`` of tar."""
        self._end_frames()
        return concat_indexes(self._runs, num_bytes, file_bytes)

    def _end_frames(self) -> None:
        """Make an index of the frames that came since the last run."""
        if self._layouts:
            self._sizes.fromlist(self._recent)
            self._runs.append(self._index_of_frames())
            self._forget()

    def _index_of_frames(self) -> ShardIndex:
        names: dict[str, int] = {}
        table: list[int] = []
        starts = [0]
        for _, layout in self._layouts:
            table += [names.setdefault(n, len(names)) for n in layout.extensions]
            starts.append(len(table))
        firsts = [first for first, _ in self._layouts]
        counts = np.diff([*firsts, len(self.keys)])
        numbers = np.repeat(np.arange(len(counts)), counts)
        where, sample_members = owned_positions(numbers, np.array(starts))
        sizes = np.array(self._sizes, dtype=np.int64)
        rooms = (sizes + (BLOCK - 1)) & -BLOCK
        headers = np.full(len(sizes), BLOCK, dtype=np.int64)
        headers[list(self._headers)] = list(self._headers.values())
        ends = running_sum(headers + rooms)
        keys = list(islice(self.keys, self._first_key, None))
        text = "".join(keys)
        raw = keys if text.isascii() else [key.encode() for key in keys]
        lengths = np.fromiter(map(len, raw), dtype=np.int64, count=len(raw))
        return ShardIndex(
            key_bytes=np.frombuffer(text.encode(), dtype=np.uint8),
            key_offsets=running_sum(lengths),
            sample_members=sample_members,
            sample_offsets=ends[sample_members],
            member_extension=np.array(table, extension_type(len(names)))[where],
            member_offset=ends[1:] - rooms,
            member_size=sizes,
            extensions=tuple(names),
            num_bytes=int(ends[-1]),
            canonical=self._is_standard and not any(map(_is_odd, names)),
        )


def _is_odd(extension: str) -> bool:
    """Whether it is written only if the caller asks for what is not usual."""
    return extension[:1] in {"", "_"}

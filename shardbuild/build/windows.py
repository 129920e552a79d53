"""Bytes of samples, brought into their new order a window at a time.

The output of a task is a sequence of extents in many containers (shards, or
runs). A window is as much of it as memory holds: its extents are read in the
order they lie in, into the places where they belong.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from shardbuild.build.steps import window_bytes
from shardbuild.storage import RangeSource, is_remote, read_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from shardbuild.storage import StorageOptions

_MAX_OPEN = 256


class Containers:
    """The shards or runs that a task reads from: few of them are open at a time."""

    def __init__(
        self,
        url_of: Callable[[int], str],
        listings: frozenset[int] = frozenset(),
        storage_options: StorageOptions | None = None,
        *,
        are_inputs: bool = True,
    ) -> None:
        self.are_inputs = are_inputs
        """Whether they are the inputs as they are, not runs of what became of them."""
        self.url_of = url_of
        self.listings = listings
        """Those whose extents are lines of the listing of a folder."""
        self._storage_options = storage_options
        self._open: OrderedDict[int, RangeSource] = OrderedDict()

    def source(self, number: int) -> RangeSource:
        """The open container of this number."""
        source = self._open.get(number)
        if source is None:
            if len(self._open) >= _MAX_OPEN:
                self._open.popitem(last=False)[1].close()
            url = self.url_of(number)
            source = RangeSource(url, storage_options=self._storage_options)
            self._open[number] = source
        self._open.move_to_end(number)
        return source

    def window_bytes(self, memory: int, extents: NDArray[np.void]) -> int:
        """How large a window of these extents is best."""
        numbers = set(extents["container"].tolist())
        if not numbers or is_remote(self.url_of(min(numbers))):
            return window_bytes(memory)
        return window_bytes(memory, len(numbers))

    def __enter__(self) -> Containers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._open:
            self._open.popitem()[1].close()


def split_windows(num_bytes: NDArray[Any], window_bytes: int) -> list[tuple[int, int]]:
    """Divide extents into windows of at most ``window_bytes``, or of one extent.

    >>> split_windows(np.array([4, 4, 4, 20, 1]), 10)
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    ends = np.cumsum(num_bytes, dtype=np.int64)
    windows = []
    start, done = 0, 0
    while start < len(ends):
        stop = int(np.searchsorted(ends, done + window_bytes, side="right"))
        stop = max(stop, start + 1)
        windows.append((start, stop))
        start, done = stop, int(ends[stop - 1])
    return windows


def read_windows(
    extents: NDArray[np.void], containers: Containers, window_bytes: int
) -> Iterator[tuple[memoryview, NDArray[np.void], NDArray[np.int64]]]:
    """Read extents in their order, window by window.

    Yields:
        The bytes of a window, valid until the next one; its extents; and where
        each starts in the window, with the end of the last.
    """
    windows = split_windows(extents["num_bytes"], window_bytes)
    largest = max(
        (int(extents["num_bytes"][a:b].sum(dtype=np.int64)) for a, b in windows),
        default=0,
    )
    buffer = memoryview(bytearray(largest))
    for start, stop in windows:
        mine = extents[start:stop]
        starts = np.zeros(len(mine) + 1, np.int64)
        np.cumsum(mine["num_bytes"], out=starts[1:])
        window = buffer[: int(starts[-1])]
        fill_window(window, mine, starts, containers)
        yield window, mine, starts


def fill_window(
    window: memoryview,
    extents: NDArray[np.void],
    starts: NDArray[np.int64],
    containers: Containers,
) -> None:
    """Read each extent to its place, container by container, in rising offsets."""
    ranks = np.lexsort([extents["offset"], extents["container"]])
    ordered = extents["container"][ranks]
    edges = np.flatnonzero(np.diff(ordered)) + 1

    def jobs() -> Iterator[tuple[RangeSource, list[int], list[memoryview]]]:
        for group in np.split(ranks, edges):
            offsets = extents["offset"][group].tolist()
            firsts, lasts = starts[group].tolist(), starts[group + 1].tolist()
            views = [window[a:b] for a, b in zip(firsts, lasts, strict=True)]
            number = int(extents["container"][group[0]])
            yield containers.source(number), offsets, views

    read_many(jobs())

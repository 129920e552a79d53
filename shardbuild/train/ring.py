"""Memory through which a process hands over objects, without a pipe between.

A pipe takes 64 KiB at a time, and each time both processes have to wake up: that costs
more than to read the samples. Here an object is pickled into memory that both have, and
only its place goes through a queue.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Ring", "Spot"]

_PAGE = mmap.ALLOCATIONGRANULARITY
_FIRST_SLOT = 1 << 20


class Spot(NamedTuple):
    """Where in the memory an object is."""

    start: int
    length: int


class _Full(Exception):  # noqa: N818  # no error
    """The slot is too small."""


class _Slot:
    """A file that is written into memory."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self.length = 0

    def write(self, data: Any) -> None:
        with memoryview(data) as view:
            end = self.length + view.nbytes
            if end > len(self._memory):
                raise _Full
            self._memory[self.length : end] = view
            self.length = end


class Ring:
    """Slots of memory that one process fills and another one empties, in turn.

    The memory has no name: it is gone with the last process that has it. Slots
    become larger as objects do.

    >>> ring = Ring(num_slots=2)
    >>> first, second = ring.put("a"), ring.put(["b"])
    >>> ring.put("no slot is free") is None
    True
    >>> ring.take(first), ring.take(second), ring.take(ring.put("c"))
    ('a', ['b'], 'c')
    """

    def __init__(self, num_slots: int) -> None:
        self._open(_memory_file(), num_slots)

    def _open(self, descriptor: int, num_slots: int) -> None:
        self._file = descriptor
        self._num_slots = num_slots
        self._slot_bytes = 0
        self._base = _PAGE
        self._num_put = 0
        self._map: mmap.mmap | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """For a process that is being started by ``spawn`` or ``forkserver``."""
        return _received, (DupFd(self._file), self._num_slots)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self._file)  # at the end of a program, `os` is gone before this

    def reset(self) -> None:
        """Forget what was put and not taken; said by the one that puts."""
        self._num_put = 0
        self._mapped(_PAGE)[:8] = bytes(8)

    def put(self, value: Any) -> Spot | None:
        """Pickle an object into the next slot; None if there is none free."""
        if self._num_put - self._num_taken() >= self._num_slots:
            return None
        try:
            spot = self._written(value)
        except _Full:
            self._grow(len(ForkingPickler.dumps(value)))
            spot = self._written(value)
        self._num_put += 1
        return spot

    def take(self, spot: Spot) -> Any:
        """Make the object that is in a slot, and free the slot."""
        start, length = spot
        memory = self._mapped(start + length)
        with memoryview(memory) as whole, whole[start : start + length] as part:
            value = ForkingPickler.loads(part)
        memory[:8] = (self._num_taken() + 1).to_bytes(8, "little")
        return value

    @property
    def note(self) -> int:
        """A number that either side may write, and the other one read; 0 at first."""
        return int.from_bytes(self._mapped(_PAGE)[8:16], "little")

    @note.setter
    def note(self, number: int) -> None:
        self._mapped(_PAGE)[8:16] = number.to_bytes(8, "little")

    def _num_taken(self) -> int:
        return int.from_bytes(self._mapped(_PAGE)[:8], "little")

    def _written(self, value: Any) -> Spot:
        start = self._base + self._num_put % self._num_slots * self._slot_bytes
        memory = self._mapped(start + self._slot_bytes)
        with (
            memoryview(memory) as whole,
            whole[start : start + self._slot_bytes] as part,
        ):
            slot = _Slot(part)
            ForkingPickler(slot).dump(value)
        return Spot(start, slot.length)

    def _grow(self, num_bytes: int) -> None:
        """Lay larger slots behind those that may still be full."""
        if self._slot_bytes:
            self._base += self._num_slots * self._slot_bytes
        wanted = max(_FIRST_SLOT, 2 * self._slot_bytes, num_bytes + num_bytes // 8)
        self._slot_bytes = -(-wanted // _PAGE) * _PAGE

    def _mapped(self, num_bytes: int) -> mmap.mmap:
        """The memory, at least so much of it."""
        if self._map is None or len(self._map) < num_bytes:
            # Pages that nobody has touched cost nothing.
            size = max(num_bytes, self._base + self._num_slots * self._slot_bytes)
            if os.fstat(self._file).st_size < size:
                os.ftruncate(self._file, size)
            self._map = mmap.mmap(self._file, size)
        return self._map


def _memory_file() -> int:
    """Open a file that is in memory and in no folder."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("shardbuild", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _received(descriptor: Any, num_slots: int) -> Ring:
    ring: Ring = object.__new__(Ring)
    ring._open(descriptor.detach(), num_slots)
    return ring

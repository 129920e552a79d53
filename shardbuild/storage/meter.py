"""Counts of what the storage room moved, for reports and for tests of plans.

Every open file, source and upload remembers the meter that was current when
it was opened and adds to it; threads that storage starts itself never count,
their starter does. So a meter needs no lock.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Meter", "current_meter", "metered"]


class Meter:
    """Plain counters of storage I/O.

    A read request is one ``pread``/``readinto`` of a local file or of a pipe,
    or one GET of a store, retries included. A write request is one local write
    call, or one part or object sent to a store.
    """

    __slots__ = ("read_bytes", "read_requests", "write_requests", "written_bytes")

    def __init__(self) -> None:
        self.read_bytes = 0
        self.read_requests = 0
        self.written_bytes = 0
        self.write_requests = 0

    def count_read(self, num_bytes: int, num_requests: int = 1) -> None:
        """Add one or more read requests that brought ``num_bytes``."""
        self.read_bytes += num_bytes
        self.read_requests += num_requests

    def count_write(self, num_bytes: int, num_requests: int = 1) -> None:
        """Add one or more write requests that took ``num_bytes``."""
        self.written_bytes += num_bytes
        self.write_requests += num_requests

    def add(self, other: Meter) -> None:
        """Add all that another meter counted."""
        self.count_read(other.read_bytes, other.read_requests)
        self.count_write(other.written_bytes, other.write_requests)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={getattr(self, name)}" for name in self.__slots__)
        return f"Meter({counts})"


_current: ContextVar[Meter | None] = ContextVar("shardbuild_meter", default=None)
_nobody = Meter()


def current_meter() -> Meter:
    """The meter of this context; one that nobody reads when there is none."""
    return _current.get() or _nobody


@contextmanager
def metered() -> Iterator[Meter]:
    """Count all storage I/O of this thread that is opened inside the block.

    Blocks nest: what the inner one counted is added to the outer one.

    >>> from shardbuild.storage import read_bytes, write_bytes
    >>> with metered() as meter:
    ...     write_bytes("memory://doc/metered.txt", b"12345")
    >>> meter.written_bytes, meter.write_requests
    (5, 1)
    """
    meter = Meter()
    outer = _current.get()
    token = _current.set(meter)
    try:
        yield meter
    finally:
        _current.reset(token)
        if outer is not None:
            outer.add(meter)

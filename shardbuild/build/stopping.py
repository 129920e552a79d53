"""Ask tasks that are under way to end: they look between two samples.

A thread cannot be killed, and a process that is killed leaves temporary files
behind. So a task that is no longer wanted, because another one has failed or the
user has pressed Ctrl-C, is told so, and takes back what it has not published.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_EVERY = "every run"
_stopped: set[str] = set()
"""Runs whose tasks are to end, in this process."""
_running: Counter[str] = Counter()
"""How many tasks of each run are under way in this process."""
_changed = threading.Condition()
_here = threading.local()


class Stopped(BaseException):
    """The task is no longer wanted.

    No `Exception`, so that no job takes it for a bad sample.
    """


@dataclass(frozen=True, slots=True)
class Stoppable:
    """A task that ends early if its run is stopped, and then returns no record.

    >>> task = Stoppable(str.upper, "run 1")
    >>> task("a")
    'A'
    >>> stop("run 1")
    >>> task("a")
    {}
    """

    task: Callable[..., Any]
    run: str

    def __call__(self, *args: Any, **options: Any) -> Any:
        outer = getattr(_here, "run", None)
        with _changed:
            _running[self.run] += 1
        _here.run = self.run
        try:
            look()
            return self.task(*args, **options)
        except Stopped:
            return {}
        finally:
            _here.run = outer
            with _changed:
                _running[self.run] -= 1
                _changed.notify_all()


def look() -> None:
    """End the task that this thread runs, if its run has been stopped.

    Costs next to nothing: call it for each sample.

    Raises:
        Stopped: it has.
    """
    if _stopped and not _stopped.isdisjoint((getattr(_here, "run", None), _EVERY)):
        raise Stopped


def stop(run: str) -> None:
    """Let all tasks of a run end that this process runs, now or later."""
    _stopped.add(run)


def stop_every_run() -> None:
    """Let all tasks end; what a signal's handler may do, as it waits for nothing."""
    _stopped.add(_EVERY)


async def stop_and_wait(run: str, seconds: float) -> bool:
    """Let all tasks of a run end in this process; whether they have, in time."""
    import asyncio

    stop(run)

    def wait() -> bool:
        with _changed:
            return _changed.wait_for(lambda: not _running[run], seconds)

    return await asyncio.to_thread(wait)


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from this thread, and for good from what is started meanwhile.

    Threads and processes inherit it. So a worker does not die, in the middle of an
    import with a traceback, of the Ctrl-C that was meant for its parent.
    """
    resource_tracker.ensure_running()  # which would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

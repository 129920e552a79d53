"""Worker processes of this machine that stop when told to, and never stay behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, Any

from shardbuild.build.stopping import deferred_interrupts, stop_every_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future


_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that are started meanwhile do their algebra in one thread.

    So do the workers of Dask's clusters: there is a process for each core already, and
    sums come out the same. What the user has set holds.
    """
    unset = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)


class PoolProcess(SpawnProcess):
    """A process that does not hear of Ctrl-C before it can deal with it."""

    def start(self) -> None:
        with deferred_interrupts(), _one_thread_each():
            super().start()


class _Context(SpawnContext):
    """Makes such processes, and knows which."""

    def __init__(self) -> None:
        self.processes: list[PoolProcess] = []

    def Process(self, *args: Any, **options: Any) -> PoolProcess:  # type: ignore[override]  # noqa: N802
        process = PoolProcess(*args, **options)
        self.processes.append(process)
        return process


class ProcessPool(ProcessPoolExecutor):
    """Processes that are started when there is work for them.

    They leave Ctrl-C to their parent. When it is killed, they go with it.
    """

    def __init__(self, num_workers: int) -> None:
        self._context = _Context()
        super().__init__(
            num_workers, mp_context=self._context, initializer=_start_worker
        )

    def submit(
        self, function: Callable[..., Any], /, *args: Any, **options: Any
    ) -> Future[Any]:
        return super().submit(_work, function, *args, **options)

    def stop(self) -> None:
        """End the processes: tasks that are under way end between two samples."""
        for process in self._context.processes:
            if process.pid is not None:  # one that could not be started has none
                process.terminate()


class _Worker:
    """What this process does, if it is one of a pool."""

    def __init__(self) -> None:
        self._is_busy = False
        self._is_ending = False

    def start(self) -> None:
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        threading.Thread(target=_follow_parent, daemon=True).start()

    def work(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self._is_busy = True
        try:
            return function(*args, **options)
        finally:
            self._is_busy = False
            if self._is_ending:
                os._exit(1)

    def _end(self, *_: Any) -> None:
        """End this process, as soon as its task has taken back what is half-done."""
        self._is_ending = True
        stop_every_run()
        if not self._is_busy:
            os._exit(1)


def _follow_parent() -> None:
    """End this process when its parent has gone, which its queue would not tell."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


_worker = _Worker()


def _start_worker() -> None:
    _worker.start()


def _work(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return _worker.work(function, *args, **options)

"""Run tasks on this machine: here, in threads, or in processes.

Our own tasks know nothing of Dask, and a process that runs them need not load it.
What needs it is the graph of a bag, which Dask's schedulers run.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from shardbuild.build.deaths import GUARD, check_deaths
from shardbuild.build.pool import ProcessPool
from shardbuild.build.stopping import Stoppable, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)


class LocalRunner:
    """The schedulers ``sync``, ``threads`` and ``processes``."""

    memory_limit: int | None = None

    def __init__(self, kind: str, num_workers: int) -> None:
        self.name = uuid.uuid4().hex
        self.num_workers = 1 if kind == "sync" else num_workers
        self._kind = kind
        self._pool: ThreadPoolExecutor | ProcessPool | None = None

    def run(
        self,
        task: Callable[[Any], dict[str, Any]],
        items: Sequence[Any],
        on_done: Callable[[dict[str, Any]], None],
    ) -> None:
        task = Stoppable(task, self.name)
        try:
            if self._kind == "sync":
                for item in items:
                    on_done(task(item))
            else:
                self._run_in_pool(task, items, on_done)
        except BaseException:
            self._stop()
            raise

    def _run_in_pool(
        self,
        task: Callable[[Any], dict[str, Any]],
        items: Sequence[Any],
        on_done: Callable[[dict[str, Any]], None],
    ) -> None:
        waiting = deque(range(len(items)))
        running: dict[Future[dict[str, Any]], int] = {}
        deaths: Counter[Hashable] = Counter()
        while waiting or running:
            pool = self._open_pool()
            try:
                # No more than are run at once: with a pool that breaks, all that
                # it was given are suspects.
                while waiting and len(running) < self.num_workers:
                    future = pool.submit(task, items[waiting[0]])
                    running[future] = waiting.popleft()
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    record = future.result()
                    del running[future]
                    on_done(record)
            except BrokenProcessPool as error:
                self._recover(error, running.values(), deaths)
                waiting.extendleft(running.values())
                running.clear()

    def run_graph(
        self,
        graph: Mapping[Hashable, Any],
        keys: Sequence[Hashable],
        on_done: Callable[[dict[str, Any]], None],
    ) -> None:
        from dask.callbacks import Callback

        waiting = dict.fromkeys(keys)
        started: set[Hashable] = set()
        deaths: Counter[Hashable] = Counter()

        def starting(key: Hashable, *_: Any) -> None:
            started.add(key)

        def finished(key: Hashable, value: Any, *_: Any) -> None:
            started.discard(key)
            if key in waiting:
                del waiting[key]
                on_done(value)

        # Given here, not registered: other threads may run tasks of their own.
        callbacks = [(None, None, starting, finished, None), *Callback.active]
        while waiting:
            wanted = list(waiting)
            try:
                values = self._get(graph, wanted, callbacks)
            except BrokenProcessPool as error:
                self._recover(error, started, deaths)
                started.clear()
            except BaseException:
                self._stop()
                raise
            else:
                # Nothing was run for what the graph holds as a value.
                for key, value in zip(wanted, values, strict=True):
                    finished(key, value)

    def _get(
        self,
        graph: Mapping[Hashable, Any],
        keys: list[Hashable],
        callbacks: list[Any],
    ) -> Sequence[Any]:
        import dask.local
        import dask.multiprocessing
        import dask.threaded

        options: dict[str, Any] = {"chunksize": 1, "callbacks": callbacks}
        if self._kind == "sync":
            get = dask.local.get_sync
        else:
            options["pool"] = self._open_pool()
            get = dask.threaded.get
        if self._kind == "processes":
            get = dask.multiprocessing.get
            options["optimize_graph"] = False
        values: Sequence[Any] = get(graph, keys, **options)
        return values

    def _open_pool(self) -> ThreadPoolExecutor | ProcessPool:
        if self._pool is None:
            kind = ThreadPoolExecutor if self._kind == "threads" else ProcessPool
            self._pool = kind(self.num_workers)
        return self._pool

    def _recover(
        self,
        error: BrokenProcessPool,
        suspects: Iterable[Hashable],
        deaths: Counter[Hashable],
    ) -> None:
        """Be ready to go on after a process died, unless it is always the same task."""
        self.close()
        deaths.update(suspects)
        check_deaths(max(deaths.values(), default=0), error, f"; {GUARD}")
        logger.warning("a worker process died; its tasks run again")

    def _stop(self) -> None:
        stop(self.name)
        if isinstance(self._pool, ProcessPool):
            self._pool.stop()

    def close(self) -> None:
        """Wait for the tasks that are under way, and end the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

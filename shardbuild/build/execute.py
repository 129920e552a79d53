"""Run tasks on any Dask scheduler: each result is handed on as it arrives.

A task is a module-level function of one small item; its result is a small
record. Tasks are idempotent, so that one whose worker died is simply run again.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import dask
import dask.local
import dask.multiprocessing
import dask.threaded
from dask.callbacks import Callback
from dask.optimization import cull

from shardbuild.errors import PlanError, ShardbuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from distributed import Client

logger = logging.getLogger(__name__)

_MAX_GRAPH_KEYS = 4096
"""Tasks of a graph that a cluster is given at once."""
_MAX_DEATHS = 20
"""Workers that may die one after the other without one task being finished."""
_MAX_POOL_DEATHS = 5
"""As often may all processes of a pool, which die together."""

Record = "dict[str, Any]"


class Runner(Protocol):
    """Runs tasks somewhere."""

    num_workers: int
    """How many tasks run at once."""
    memory_limit: int | None
    """Bytes that one worker may use, if it is limited."""

    def run(
        self,
        task: Callable[[Any], dict[str, Any]],
        items: Sequence[Any],
        on_done: Callable[[dict[str, Any]], None],
    ) -> None:
        """Call ``task`` on every item, and ``on_done`` here on every result.

        The first exception, of a task or of ``on_done``, ends the run.
        """

    def run_graph(
        self,
        graph: Mapping[Hashable, Any],
        keys: Sequence[Hashable],
        on_done: Callable[[dict[str, Any]], None],
    ) -> None:
        """Compute the keys of a Dask graph, and call ``on_done`` on each result."""


class LocalRunner:
    """One of Dask's own schedulers: sync, threads or processes."""

    memory_limit: int | None = None

    def __init__(self, name: str, num_workers: int) -> None:
        self.name = name
        self.num_workers = 1 if name == "sync" else num_workers
        self._pool: ProcessPoolExecutor | None = None

    def run(
        self,
        task: Callable[[Any], dict[str, Any]],
        items: Sequence[Any],
        on_done: Callable[[dict[str, Any]], None],
    ) -> None:
        graph: dict[Hashable, Any] = {
            ("task", i): (task, item) for i, item in enumerate(items)
        }
        self.run_graph(graph, list(graph), on_done)

    def run_graph(
        self,
        graph: Mapping[Hashable, Any],
        keys: Sequence[Hashable],
        on_done: Callable[[dict[str, Any]], None],
    ) -> None:
        waiting = dict.fromkeys(keys)
        deaths = 0

        def finished(key: Hashable, value: Any, *_: Any) -> None:
            nonlocal deaths
            if key in waiting:
                deaths = 0
                del waiting[key]
                on_done(value)

        while waiting:
            try:
                with Callback(posttask=finished):
                    self._get(graph, list(waiting))
            except BrokenProcessPool as error:
                self.close()
                deaths += 1
                if deaths > _MAX_POOL_DEATHS:
                    hint = "; a script starts them under if __name__ == '__main__'"
                    raise _too_many_deaths(deaths, hint) from error
                logger.warning("a worker process died; its tasks run again")
            else:
                break

    def _get(self, graph: Mapping[Hashable, Any], keys: list[Hashable]) -> None:
        if self.name == "sync":
            dask.local.get_sync(graph, keys)
        elif self.name == "threads":
            dask.threaded.get(graph, keys, num_workers=self.num_workers)
        else:
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.num_workers, mp_context=context)
            dask.multiprocessing.get(
                graph, keys, pool=self._pool, chunksize=1, optimize_graph=False
            )

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


class ClientRunner:
    """A ``distributed`` cluster; at most a few tasks for each worker are under way."""

    def __init__(self, client: Client) -> None:
        self.client = client
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        self.num_workers = max(1, sum(worker["nthreads"] for worker in workers))
        limits = [w["memory_limit"] // w["nthreads"] for w in workers]
        self.memory_limit: int | None = min(filter(None, limits), default=None)

    def run(
        self,
        task: Callable[[Any], dict[str, Any]],
        items: Sequence[Any],
        on_done: Callable[[dict[str, Any]], None],
    ) -> None:
        from distributed import KilledWorker, as_completed

        waiting = iter(items)
        running = as_completed()
        item_of: dict[Any, Any] = {}
        deaths = 0

        def submit(item: Any) -> None:
            future = self.client.submit(task, item, pure=False)
            item_of[future.key] = item
            running.add(future)

        try:
            for item in _take(waiting, 3 * self.num_workers):
                submit(item)
            for future in running:
                item = item_of.pop(future.key)
                try:
                    record = future.result()
                except KilledWorker as error:
                    deaths += 1
                    if deaths > _MAX_DEATHS:
                        raise _too_many_deaths(deaths) from error
                    submit(item)
                    continue
                deaths = 0
                future.release()
                on_done(record)
                for following in _take(waiting, 1):
                    submit(following)
        finally:
            self.client.cancel(list(running.futures))

    def run_graph(
        self,
        graph: Mapping[Hashable, Any],
        keys: Sequence[Hashable],
        on_done: Callable[[dict[str, Any]], None],
    ) -> None:
        from distributed import as_completed

        for first in range(0, len(keys), _MAX_GRAPH_KEYS):
            some = list(keys[first : first + _MAX_GRAPH_KEYS])
            needed, _ = cull(graph, some)
            futures = self.client.get(needed, some, sync=False)
            try:
                for future in as_completed(futures):
                    on_done(future.result())
            finally:
                self.client.cancel(futures)


def _take(items: Iterator[Any], num_items: int) -> list[Any]:
    return [item for _, item in zip(range(num_items), items, strict=False)]


def _too_many_deaths(deaths: int, hint: str = "") -> ShardbuildError:
    problem = (
        f"workers died {deaths} times without finishing a task: give each more "
        f"memory or use a smaller --memory, then run the same command again{hint}"
    )
    return ShardbuildError("workers", problem)


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Where tasks run: the ``scheduler`` and ``workers`` of a call, read."""

    kind: str
    """``sync``, ``threads``, ``processes``, ``cluster`` or ``client``."""
    num_workers: int
    client: Any = None
    address: str = ""


def choose_scheduler(scheduler: Any = None, workers: int | None = None) -> Scheduler:
    """Decide where tasks run.

    Args:
        scheduler: ``"sync"``, ``"threads"``, ``"processes"``, the address of a
            Dask scheduler such as ``"tcp://host:8786"``, or a `distributed.Client`.
            None: a LocalCluster if ``workers`` is given, else the active client,
            else threads.
        workers: how many tasks run at once; by default one for each core.

    Raises:
        PlanError: the scheduler is none of these, or a number of workers is given
            for a cluster that has its own.

    >>> choose_scheduler("sync").kind
    'sync'
    >>> choose_scheduler(workers=2)
    Scheduler(kind='cluster', num_workers=2, client=None, address='')
    """
    num_workers = workers or len(os.sched_getaffinity(0))
    if workers is not None and workers < 1:
        raise PlanError(f"workers {workers}", "use at least 1")
    if scheduler is None:
        if workers:
            return Scheduler("cluster", num_workers)
        client = _active_client()
        if client is not None:
            return Scheduler("client", 0, client)
        return Scheduler("threads", num_workers)
    if isinstance(scheduler, str):
        if scheduler in ("sync", "threads", "processes"):
            return Scheduler(scheduler, num_workers)
        if "://" not in scheduler:
            problem = "use sync, threads, processes, or an address like tcp://host:8786"
            raise PlanError(f"scheduler {scheduler!r}", problem)
    if workers:
        problem = "a running cluster has its own workers: leave the number out"
        raise PlanError(f"workers {workers}", problem)
    if isinstance(scheduler, str):
        return Scheduler("client", 0, None, scheduler)
    return Scheduler("client", 0, scheduler)


def _active_client() -> Any:
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.get_client()
    except ValueError:
        return None


@contextlib.contextmanager
def open_runner(scheduler: Scheduler) -> Iterator[Runner]:
    """Start what the scheduler needs, and end what was started."""
    if scheduler.kind in ("sync", "threads", "processes"):
        runner = LocalRunner(scheduler.kind, scheduler.num_workers)
        try:
            yield runner
        finally:
            runner.close()
    elif scheduler.client is not None:
        yield ClientRunner(scheduler.client)
    else:
        from distributed import Client

        with contextlib.ExitStack() as stack:
            target: Any = scheduler.address
            if scheduler.kind == "cluster":
                target = stack.enter_context(_local_cluster(scheduler.num_workers))
            try:
                client = stack.enter_context(Client(target))
            except OSError as error:
                problem = "no Dask scheduler answers there"
                raise PlanError(scheduler.address, problem) from error
            yield ClientRunner(client)


@contextlib.contextmanager
def _local_cluster(num_workers: int) -> Iterator[Any]:
    from distributed import LocalCluster

    settings = {
        # Dask's nanny lowers this, which costs Pillow 6 to 15 % of its speed.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 1 << 27,
        "distributed.scheduler.allowed-failures": _MAX_DEATHS,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=num_workers,
            threads_per_worker=1,
            dashboard_address=None,
            # Its server would take port 8787, and warn when another has it.
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        ) as cluster,
    ):
        yield cluster

"""Run tasks on any Dask scheduler: each result is handed on as it arrives.

A task is a module-level function of one small item; its result is a small
record. Tasks are idempotent, so that one whose worker died is simply run again.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import uuid
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from shardbuild.build.deaths import GUARD, check_deaths
from shardbuild.build.local import LocalRunner
from shardbuild.build.stopping import Stoppable, deferred_interrupts, stop_and_wait
from shardbuild.errors import PlanError, ShardbuildError

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Hashable,
        Iterator,
        Mapping,
        Sequence,
    )

    from distributed import Client, KilledWorker

_MAX_GRAPH_KEYS = 4096
"""Tasks of a graph that a cluster is given at once."""
_LEAST_UNDER_WAY = 100
"""Other tasks that it is given at once, though it has few workers: it may grow."""
_STOP_SECONDS = 20
"""How long a cluster's tasks have to end, when they are no longer wanted."""


class Runner(Protocol):
    """Runs tasks somewhere. The first exception ends a run and all its tasks."""

    name: str
    """Of this runner alone: it marks its tasks."""
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
        """Call ``task`` on every item, and ``on_done`` here on every result."""

    def run_graph(
        self,
        graph: Mapping[Hashable, Any],
        keys: Sequence[Hashable],
        on_done: Callable[[dict[str, Any]], None],
    ) -> None:
        """Compute the keys of a Dask graph, and call ``on_done`` on each result.

        Its tasks can be stopped if they are `Stoppable` under this runner's name.
        """


class ClientRunner:
    """A ``distributed`` cluster, which has a few tasks for each worker at a time."""

    def __init__(self, client: Client) -> None:
        self.name = uuid.uuid4().hex
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
        from dask.utils import funcname

        group = f"{funcname(task)}-{uuid.uuid4().hex}"
        stoppable = Stoppable(task, self.name)
        futures = (
            self.client.submit(stoppable, item, key=(group, number), pure=False)
            for number, item in enumerate(items)
        )
        num_under_way = max(_LEAST_UNDER_WAY, 3 * self.num_workers)
        self._collect(_take(futures, num_under_way), futures, on_done)

    def run_graph(
        self,
        graph: Mapping[Hashable, Any],
        keys: Sequence[Hashable],
        on_done: Callable[[dict[str, Any]], None],
    ) -> None:
        from dask.optimization import cull

        for first in range(0, len(keys), _MAX_GRAPH_KEYS):
            some = list(keys[first : first + _MAX_GRAPH_KEYS])
            needed, _ = cull(graph, some)
            futures = self.client.get(needed, some, sync=False)
            self._collect(futures, iter(()), on_done)

    def _collect(
        self,
        futures: Sequence[Any],
        following: Iterator[Any],
        on_done: Callable[[dict[str, Any]], None],
    ) -> None:
        """Hand on results as they come, and take as many of the following futures."""
        from distributed import CancelledError, KilledWorker, as_completed

        running = as_completed(futures, loop=self.client.loop)
        deaths = _Deaths()
        try:
            for batch in running.batches():
                try:
                    records = self.client.gather(batch)
                except KilledWorker as error:
                    deaths.check(error)
                    self.client.retry([one for one in batch if one.status == "error"])
                    running.update(batch)
                    continue
                for future, record in zip(batch, records, strict=True):
                    future.release()
                    on_done(record)
                running.update(_take(following, len(batch)))
        except CancelledError as error:
            problem = f"the cluster has gone, or has forgotten its tasks: {error}"
            raise ShardbuildError("workers", problem) from error
        except BaseException:
            self._stop(list(running.futures))
            raise

    def _stop(self, futures: Sequence[Any]) -> None:
        with contextlib.suppress(OSError):  # the cluster may be what has failed
            self.client.cancel(futures)
            self.client.run(stop_and_wait, self.name, _STOP_SECONDS, on_error="ignore")


class _Deaths:
    """Counts the workers that died of each task."""

    def __init__(self) -> None:
        self._last_workers: defaultdict[Hashable, set[str]] = defaultdict(set)

    def check(self, error: KilledWorker) -> None:
        """Give up if there were too many.

        Dask tells of the first few deaths together, then of each one, but to all
        tasks that needed this one.
        """
        seen = self._last_workers[error.task]
        seen.add(error.last_worker.address)
        num_deaths: int = error.allowed_failures + len(seen)
        check_deaths(num_deaths, error)


def _take(items: Iterator[Any], num_items: int) -> list[Any]:
    return [item for _, item in zip(range(num_items), items, strict=False)]


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
    if workers is not None and workers < 1:
        raise PlanError(f"workers {workers}", "use at least 1")
    num_workers = workers or _num_cores()
    if scheduler is None:
        if workers:
            return Scheduler("cluster", num_workers)
        scheduler = _active_client() or "threads"
    if scheduler in ("sync", "threads", "processes"):
        return Scheduler(scheduler, num_workers)
    if workers:
        problem = "a running cluster has its own workers: leave the number out"
        raise PlanError(f"workers {workers}", problem)
    if isinstance(scheduler, str) and "://" in scheduler:
        return Scheduler("client", 0, None, scheduler)
    if not _is_client(scheduler):
        problem = (
            "use sync, threads, processes, an address like tcp://host:8786, or a "
            "distributed.Client that is not asynchronous"
        )
        raise PlanError(f"scheduler {scheduler!r}", problem)
    return Scheduler("client", 0, scheduler)


def _num_cores() -> int:
    """Cores that this process may use, as far as the system grants them."""
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def _is_client(scheduler: Any) -> bool:
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    return isinstance(scheduler, distributed.Client) and not scheduler.asynchronous


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
    """Start what the scheduler needs, and end what was started.

    Raises:
        PlanError: no scheduler answers at the address.
        ShardbuildError: the workers of a local cluster do not start.
    """
    if scheduler.kind in ("sync", "threads", "processes"):
        with contextlib.closing(
            LocalRunner(scheduler.kind, scheduler.num_workers)
        ) as runner:
            yield runner
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
    import dask
    from distributed import LocalCluster

    environ = dict(dask.config.get("distributed.nanny.pre-spawn-environ"))
    # With any value of this glibc maps each large buffer anew, which costs Pillow 6 to
    # 15 % of its speed.
    environ.pop("MALLOC_TRIM_THRESHOLD_", None)
    settings = {
        "distributed.nanny.pre-spawn-environ": environ,
        # Nobody looks at the profile that is made of every 10 ms of a worker.
        "distributed.worker.profile.enabled": False,
        # A worker that is just starting again, so long after one death, is not lost.
        "distributed.deploy.lost-worker-timeout": "10000h",
    }

    def close() -> None:
        with deferred_interrupts():
            cluster.close()

    with dask.config.set(settings), contextlib.ExitStack() as stack:
        with deferred_interrupts():
            try:
                cluster = LocalCluster(
                    n_workers=num_workers,
                    threads_per_worker=1,
                    dashboard_address=None,
                    # What fails comes back as an exception; a worker that misses its
                    # scheduler while both close is no news.
                    silence_logs=logging.CRITICAL,
                    # Its server would take port 8787, and warn when another has it.
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                )
            except RuntimeError as error:
                problem = f"did not start: {error}; {GUARD}"
                raise ShardbuildError("workers", problem) from error
            stack.callback(close)
        yield cluster

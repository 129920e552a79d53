"""A cluster of real processes that tests may kill, fast to start again."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = {
    # Workers are forked from a process that has imported all they need.
    "distributed.worker.multiprocessing-method": "forkserver",
    # A worker that is just starting again, so long after one death, is not lost.
    "distributed.deploy.lost-worker-timeout": "10000h",
}

NO_DASHBOARD: dict[str, Any] = {
    "dashboard_address": None,
    # Its server would take port 8787 all the same, and warn when another has it.
    "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"},
}


@dataclass(frozen=True)
class BusyCluster:
    """Two worker processes, and what they do."""

    client: Any
    cluster: Any

    def busy_workers(self) -> list[int]:
        """The worker processes that have a task."""
        known = dict(self.cluster.scheduler.workers)
        nannies = list(self.cluster.workers.values())
        return [
            nanny.pid
            for nanny in nannies
            if nanny.pid
            and nanny.worker_address in known
            and known[nanny.worker_address].processing
        ]


@contextlib.contextmanager
def local_cluster(preload: str) -> Iterator[BusyCluster]:
    """Start two workers, with modules that their tasks need."""
    with dask.config.set(SETTINGS):
        modules = ["distributed.nanny", "shardbuild.build", preload]
        get_mp_context().set_forkserver_preload(modules)
        with (
            LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            Client(cluster) as client,
        ):
            yield BusyCluster(client, cluster)

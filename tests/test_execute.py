"""Tasks on every scheduler: each result once, none held, all stopped at an error."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import dask
import distributed
import pytest
from dask.callbacks import Callback

import shardbuild as sb
from shardbuild.build import deaths, execute
from shardbuild.build.execute import (
    ClientRunner,
    Runner,
    Scheduler,
    choose_scheduler,
    open_runner,
)
from shardbuild.build.local import LocalRunner
from shardbuild.build.pool import PoolProcess
from shardbuild.build.stopping import (
    Stoppable,
    deferred_interrupts,
    look,
    stop,
)
from shardbuild.errors import PlanError, ShardbuildError, TransformError
from tests.building import make_shards
from tests.clusters import BusyCluster, local_cluster
from tests.commands import ROOT
from tests.deeds import (
    double,
    fail_or_wait,
    kill_in_a_bag,
    kill_own_worker,
    looking,
    mark,
    refuse,
    setting_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCAL = ["sync", "threads", "processes"]
EVERYWHERE = [*LOCAL, "client"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[BusyCluster]:
    with local_cluster(preload=double.__module__) as started:
        yield started


def pool_processes() -> list[Any]:
    children = multiprocessing.active_children()
    return [child for child in children if isinstance(child, PoolProcess)]


@contextlib.contextmanager
def runner_of(kind: str, cluster: BusyCluster) -> Iterator[Runner]:
    if kind == "client":
        yield ClientRunner(cluster.client)
    else:
        with open_runner(Scheduler(kind, 2)) as runner:
            yield runner


class TestResults:
    @pytest.mark.parametrize("kind", EVERYWHERE)
    @pytest.mark.parametrize("num_items", [0, 1, 50])
    def test_each_comes_once(
        self, kind: str, num_items: int, cluster: BusyCluster
    ) -> None:
        records: list[dict[str, Any]] = []
        with runner_of(kind, cluster) as runner:
            runner.run(double, range(num_items), records.append)
        records.sort(key=lambda record: int(record["item"]))
        assert records == [double(number) for number in range(num_items)]

    @pytest.mark.parametrize("kind", EVERYWHERE)
    def test_a_graph_gives_only_the_keys_that_were_asked_for(
        self, kind: str, cluster: BusyCluster
    ) -> None:
        token = os.urandom(8).hex()
        graph: dict[Any, Any] = {
            f"{token}-all": (sum, [f"{token}-{i}" for i in range(5)]),
            f"{token}-value": {"no": "task"},
            **{f"{token}-{i}": (int, i) for i in range(9)},
        }
        values: list[Any] = []
        with runner_of(kind, cluster) as runner:
            keys = [f"{token}-all", f"{token}-value", f"{token}-7"]
            runner.run_graph(graph, keys, values.append)
        assert sorted(values, key=str) == [10, 7, {"no": "task"}]

    def test_a_runner_runs_again_after_it_was_closed(self) -> None:
        runner = LocalRunner("processes", 1)
        records: list[dict[str, Any]] = []
        for _ in range(2):
            runner.run(double, [1], records.append)
            runner.close()
            runner.close()
            assert pool_processes() == []
        assert records == [double(1)] * 2

    def test_runs_at_the_same_time_do_not_mix(self) -> None:
        found: dict[int, list[dict[str, Any]]] = {0: [], 1: []}

        def run(which: int) -> None:
            with open_runner(Scheduler("threads", 2)) as runner:
                runner.run(partial(mark, which), range(200), found[which].append)

        threads = [threading.Thread(target=run, args=[n]) for n in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for which, records in found.items():
            assert {record["which"] for record in records} == {which}
            assert sorted(record["item"] for record in records) == list(range(200))

    def test_callbacks_of_dask_hear_of_the_tasks(self) -> None:
        seen: list[Any] = []
        with (
            Callback(posttask=lambda key, *_: seen.append(key)),
            open_runner(Scheduler("sync", 1)) as runner,
        ):
            runner.run_graph(
                {f"k{i}": (double, i) for i in range(3)},
                ["k0", "k1", "k2"],
                seen.append,
            )
        assert len(seen) == 6


class TestClient:
    def test_few_futures_are_held_for_many_items(self, cluster: BusyCluster) -> None:
        client = cluster.client
        most = 0

        def on_done(_: dict[str, Any]) -> None:
            nonlocal most
            most = max(most, len(client.futures))

        ClientRunner(client).run(double, range(2000), on_done)
        assert most <= execute._LEAST_UNDER_WAY

    def test_a_large_graph_is_sent_in_pieces(
        self, cluster: BusyCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(execute, "_MAX_GRAPH_KEYS", 40)
        token = os.urandom(8).hex()
        graph: dict[Any, Any] = {(token, i): (double, i) for i in range(130)}
        records = []
        held = []

        def on_done(record: dict[str, Any]) -> None:
            records.append(record)
            held.append(len(cluster.client.futures))

        ClientRunner(cluster.client).run_graph(graph, list(graph), on_done)
        assert sorted(record["item"] for record in records) == list(range(130))
        assert max(held) <= 40

    def test_a_client_need_not_be_the_default_one(self, cluster: BusyCluster) -> None:
        address = cluster.cluster.scheduler_address
        records: list[dict[str, Any]] = []
        with distributed.Client(address, set_as_default=False) as client:
            ClientRunner(client).run(double, range(3), records.append)
        assert len(records) == 3

    def test_memory_is_that_of_a_thread(self, cluster: BusyCluster) -> None:
        runner = ClientRunner(cluster.client)
        assert runner.num_workers == 2
        workers = cluster.cluster.scheduler.workers.values()
        assert runner.memory_limit == min(worker.memory_limit for worker in workers)

    def test_a_cluster_that_forgets_its_tasks_is_an_error(
        self, cluster: BusyCluster
    ) -> None:
        client = cluster.client
        with pytest.raises(ShardbuildError, match="or has forgotten its tasks"):
            ClientRunner(client).run(double, range(500), lambda _: client.restart())


class TestErrors:
    @pytest.mark.parametrize("kind", ["threads", "processes", "client"])
    def test_of_one_task_stops_the_others(
        self, kind: str, cluster: BusyCluster, tmp_path: Path
    ) -> None:
        task = partial(fail_or_wait, tmp_path)
        with (
            pytest.raises(TransformError) as caught,
            runner_of(kind, cluster) as runner,
        ):
            runner.run(task, range(40), print)
        assert caught.type is TransformError
        assert caught.value.args == ("in.tar", "no good", "a/7")
        started = {path.name[8:] for path in tmp_path.glob("started-*")}
        stopped = {path.name[8:] for path in tmp_path.glob("stopped-*")}
        assert started == stopped
        assert 1 <= len(started) <= 4

    @pytest.mark.parametrize("kind", EVERYWHERE)
    def test_of_who_takes_the_results_stop_the_tasks(
        self, kind: str, cluster: BusyCluster
    ) -> None:
        seen: list[Any] = []

        def on_done(record: dict[str, Any]) -> None:
            seen.append(record)
            raise KeyboardInterrupt

        with (
            pytest.raises(KeyboardInterrupt),
            runner_of(kind, cluster) as runner,
        ):
            runner.run(double, range(2000), on_done)
        assert len(seen) == 1
        assert pool_processes() == []

    @pytest.mark.parametrize("kind", ["threads", "processes", "client", "workers"])
    def test_of_a_job_reads_as_on_sync(
        self, kind: str, cluster: BusyCluster, tmp_path: Path
    ) -> None:
        source = make_shards(tmp_path / "in", 60, 10)
        places: dict[str, dict[str, Any]] = {
            "client": {"scheduler": cluster.client},
            "workers": {"workers": 2},
        }
        found = []
        for place in ({"scheduler": "sync"}, places.get(kind, {"scheduler": kind})):
            with pytest.raises(TransformError) as caught:
                sb.convert(source, f"{tmp_path}/s-%06d.tar", refuse, **place)
            found.append((caught.type, str(caught.value), caught.value.args))
        assert found[0] == found[1]
        assert not (tmp_path / "s.json").exists()
        assert "sample '0/000042': the job raised ValueError: not 42" in found[0][1]


SCRIPT = """
import sys
import shardbuild as sb
sb.convert(sys.argv[1], sys.argv[2], **{options})
"""


@pytest.mark.parametrize("options", [{"workers": 2}, {"scheduler": "processes"}])
def test_a_script_without_a_guard_is_told_what_it_lacks(
    options: dict[str, Any], tmp_path: Path
) -> None:
    source = make_shards(tmp_path / "in", 10, 5)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(options=options))
    result = subprocess.run(
        [sys.executable, str(script), source, f"{tmp_path}/s-%06d.tar"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    # The last word is ours, but for what multiprocessing may say of its children.
    told = re.findall(r"^\S+Error: .*", result.stderr, re.MULTILINE)[-1]
    assert told.endswith("under if __name__ == '__main__'")
    assert told.startswith("shardbuild.errors.ShardbuildError: workers: ")


class TestATaskThatKillsItsWorker:
    @pytest.mark.parametrize(("kind", "most"), [("processes", 3), ("client", 8)])
    def test_again_and_again_ends_the_run(
        self,
        kind: str,
        most: int,
        cluster: BusyCluster,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(deaths, "MAX_DEATHS", most)
        task = partial(kill_own_worker, tmp_path, 1000)
        with (
            pytest.raises(ShardbuildError, match=f"workers: {most} workers died while"),
            runner_of(kind, cluster) as runner,
        ):
            runner.run(task, range(30), lambda _: None)
        assert len(list(tmp_path.iterdir())) == most

    @pytest.mark.parametrize(("kind", "num_times"), [("processes", 2), ("client", 6)])
    def test_a_few_times_is_given_another_chance(
        self, kind: str, num_times: int, cluster: BusyCluster, tmp_path: Path
    ) -> None:
        records: list[dict[str, Any]] = []
        with runner_of(kind, cluster) as runner:
            task = partial(kill_own_worker, tmp_path, num_times)
            runner.run(task, range(30), records.append)
        assert sorted(record["item"] for record in records) == list(range(30))
        assert len(list(tmp_path.iterdir())) == num_times

    @pytest.mark.parametrize("num_times", [6, 1000])
    def test_in_a_bag(
        self, num_times: int, cluster: BusyCluster, tmp_path: Path
    ) -> None:
        source = make_shards(tmp_path / "in", 30, 3)
        graves = tmp_path / "deaths"
        graves.mkdir()
        bag = sb.read_shards(source).map(partial(kill_in_a_bag, graves, num_times))
        pattern = f"{tmp_path}/s-%06d.tar"
        if num_times == 6:
            report = sb.write_shards(bag, pattern, scheduler=cluster.client)
            assert report.num_written == 30
            assert len(list(graves.iterdir())) == 6
        else:
            with pytest.raises(ShardbuildError, match="8 workers died"):
                sb.write_shards(bag, pattern, scheduler=cluster.client)
            assert len(list(graves.iterdir())) == 8


class TestStopping:
    def test_looks_only_at_its_own_run(self) -> None:
        stop("another run")
        assert Stoppable(looking, "this run")("a") == "a"
        stop("this run")
        assert Stoppable(looking, "this run")("a") == {}
        look()

    def test_a_run_inside_of_a_task_is_a_run_of_its_own(self) -> None:
        inner = Stoppable(looking, "an inner run")

        def outer(value: str) -> Any:
            stop("an inner run")
            found = inner(value)
            look()
            return found

        assert Stoppable(outer, "an outer run")("a") == {}
        assert Stoppable(looking, "an outer run")("a") == "a"

    def test_an_interrupt_comes_after_what_must_not_be_interrupted(self) -> None:
        reached = []

        def interrupted() -> None:
            with deferred_interrupts():
                signal.raise_signal(signal.SIGINT)
                reached.append(1)

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert reached == [1]


class TestChoice:
    @pytest.mark.parametrize("kind", LOCAL)
    def test_a_name_is_a_scheduler_of_this_machine(self, kind: str) -> None:
        assert choose_scheduler(kind, 3) == Scheduler(kind, 3)
        assert choose_scheduler(kind).num_workers >= 1

    def test_a_number_of_workers_is_a_local_cluster(self) -> None:
        assert choose_scheduler(None, 5) == Scheduler("cluster", 5)

    def test_an_address_is_a_cluster_of_others(self) -> None:
        found = choose_scheduler("tcp://host:8786")
        assert found == Scheduler("client", 0, None, "tcp://host:8786")

    def test_the_active_client_is_taken(self, cluster: BusyCluster) -> None:
        with cluster.client.as_current():
            assert choose_scheduler().client is cluster.client
        assert choose_scheduler(cluster.client).client is cluster.client

    @pytest.mark.parametrize(
        ("scheduler", "workers", "problem"),
        [
            ("thread", None, "use sync, threads, processes"),
            ("host:8786", None, "an address like tcp://host:8786"),
            (7, None, "scheduler 7: use sync"),
            (None, 0, "workers 0: use at least 1"),
            ("sync", -1, "workers -1: use at least 1"),
            ("tcp://host:8786", 2, "workers 2: a running cluster has its own"),
        ],
    )
    def test_anything_else_is_refused(
        self, scheduler: Any, workers: int | None, problem: str
    ) -> None:
        with pytest.raises(PlanError, match=problem):
            choose_scheduler(scheduler, workers)

    def test_workers_of_its_own_cluster_manage_memory_as_any_process(self) -> None:
        with open_runner(Scheduler("cluster", 1)) as runner:
            assert isinstance(runner, ClientRunner)
            trim = runner.client.run(os.environ.get, "MALLOC_TRIM_THRESHOLD_")
            threads = runner.client.run(os.environ.get, "OMP_NUM_THREADS")
        assert list(trim.values()) == [os.environ.get("MALLOC_TRIM_THRESHOLD_")]
        assert list(threads.values()) == ["1"]

    def test_processes_do_their_algebra_in_one_thread_as_those_of_a_cluster(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
        for name in names:
            monkeypatch.delenv(name, raising=False)
        before = dict(os.environ)
        with open_runner(Scheduler("processes", 1)) as runner:
            found: list[dict[str, Any]] = []
            runner.run(setting_of, names, found.append)
        assert found == [{name: "1"} for name in names]
        assert dict(os.environ) == before

    def test_threads_that_the_user_asks_for_are_his(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        with open_runner(Scheduler("processes", 1)) as runner:
            found: list[dict[str, Any]] = []
            runner.run(setting_of, ["OMP_NUM_THREADS"], found.append)
        assert found == [{"OMP_NUM_THREADS": "3"}]
        assert os.environ["OMP_NUM_THREADS"] == "3"

    def test_where_nobody_answers_is_refused(self) -> None:
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}),
            pytest.raises(PlanError, match=r"tcp://127.0.0.1:1: no Dask scheduler"),
            open_runner(choose_scheduler("tcp://127.0.0.1:1")),
        ):
            pass

    def test_an_address_is_connected_to(self, cluster: BusyCluster) -> None:
        records: list[dict[str, Any]] = []
        address = cluster.cluster.scheduler_address
        with open_runner(choose_scheduler(address)) as runner:
            runner.run(double, [4], records.append)
        assert records == [double(4)]

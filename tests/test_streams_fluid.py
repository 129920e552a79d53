"""Data sets of shards, and their stages."""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shardbuild.errors import (
    StorageError,
    TruncatedShardError,
    UsageError,
    ignore_and_continue,
    ignore_and_stop,
    warn_and_continue,
)
from shardbuild.shards.shardwriter import ShardWriter
from shardbuild.streams import curried
from shardbuild.streams.splitters import split, split_by_node
from shardbuild.train.dataset import Dataset

NUM_SAMPLES = 25
MAXCOUNT = 4

Stages = Callable[[Dataset], Dataset]

KNOWN: dict[str, Stages] = {
    "source": lambda d: d,
    "samples": lambda d: d.decode().shuffle(7).info(n=0).log_keys(),
    "dbcache": lambda d: d.dbcache(None, 9),
    "fields": lambda d: d.rename(y="cls").map_dict(y=int).associate({}),
    "tuples": lambda d: d.to_tuple("cls", "txt").map_tuple(int),
    "globs": lambda d: d.rename_keys(y="cls").extract_keys("y"),
    "batched": lambda d: d.batched(4),
    "batched, whole": lambda d: d.batched(4, partial=False),
    "listed": lambda d: d.listed(25),
    "slice": lambda d: d.slice(9),
    "slice with steps": lambda d: d.slice(3, None, 5),
    "repeat": lambda d: d.repeat(3),
    "repeat, cut": lambda d: d.repeat(3, 60),
    "repeat, endless and cut": lambda d: d.repeat(nbatches=60),
    "repeat of nothing": lambda d: d.slice(0).repeat(),
    "with_epoch": lambda d: d.with_epoch(70).listed(3),
    "with_epoch of an unknown number": lambda d: d.select(bool).with_epoch(70),
}
UNKNOWN: dict[str, Stages] = {
    "select": lambda d: d.select(bool),
    "map": lambda d: d.map(dict),
    "rsample": lambda d: d.rsample(0.5),
    "repeat": lambda d: d.repeat(),
    "resampled": lambda d: d.resampled(),
    "handler": lambda d: d.decode(handler=ignore_and_continue),
    "compose": lambda d: d.compose(iter),
    "pipe": lambda d: d.pipe(iter).listed(2),
    "unlisted": lambda d: d.listed(2).unlisted(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Seven shards, the last of one sample, and their manifest."""
    place: Path = tmp_path_factory.mktemp("shards")
    with ShardWriter(f"{place}/train-%06d.tar", maxcount=MAXCOUNT) as writer:
        for number in range(NUM_SAMPLES):
            writer.write({"__key__": f"n{number:03}", "cls": number, "txt": "x"})
    return place


@pytest.fixture
def urls(folder) -> list[str]:
    return [f"{folder}/train-{number:06}.tar" for number in range(7)]


@pytest.fixture
def manifest(folder) -> str:
    return f"{folder}/train.json"


def classes(samples) -> list[int]:
    return [int(sample["cls"]) for sample in samples]


class TestReading:
    def test_samples_have_key_url_and_bytes(self, urls) -> None:
        assert next(iter(Dataset(urls))) == {
            "__key__": "n000",
            "__url__": urls[0],
            "cls": b"0",
            "txt": b"x",
        }

    def test_any_spec_of_urls_will_do(self, folder, urls, manifest) -> None:
        listing = folder / "all.list"
        listing.write_text("\n".join(urls))
        specs = [
            manifest,
            urls,
            tuple(urls),
            f"{folder}/train-{{000000..000006}}.tar",
            f"{folder}/train-*.tar",
            f"@{listing}",
        ]
        for spec in specs:
            assert classes(Dataset(spec)) == list(range(NUM_SAMPLES))

    def test_nothing_is_opened_before_it_is_read(self) -> None:
        dataset = Dataset("/nowhere/x.json").decode().batched(3)
        with pytest.raises(StorageError, match="nowhere"):
            next(iter(dataset))

    def test_it_is_read_again_and_again(self, manifest) -> None:
        dataset = Dataset(manifest)
        assert classes(dataset) == classes(dataset) == list(range(NUM_SAMPLES))

    def test_two_iterations_at_a_time_do_not_meet(self, manifest) -> None:
        dataset = Dataset(manifest)
        pairs = list(zip(dataset, dataset, strict=True))
        assert all(a["__key__"] == b["__key__"] for a, b in pairs)


class TestOrder:
    def test_each_epoch_has_another_order_of_whole_shards(self, manifest) -> None:
        dataset = Dataset(manifest, shuffle=True, seed=5)
        epochs = [classes(dataset) for _ in range(4)]
        assert len(set(map(tuple, epochs))) == 4
        for epoch in epochs:
            assert sorted(epoch) == list(range(NUM_SAMPLES))
            shards = [number // MAXCOUNT for number in epoch]
            assert len(list(itertools.groupby(shards))) == 7

    def test_orders_are_those_of_every_program(self, manifest) -> None:
        dataset = Dataset(manifest, shuffle=True, seed=5).shuffle(10, seed=2)
        again = pickle.loads(pickle.dumps(dataset))  # noqa: S301
        epochs = [classes(dataset) for _ in range(3)]
        assert [classes(again) for _ in range(3)] == epochs
        assert classes(again.at_epoch(1)) == epochs[1]
        assert classes(dataset.iterate(2)) == epochs[2]

    def test_a_stage_that_shuffles_does_it_anew_in_each_epoch(self, manifest) -> None:
        dataset = Dataset(manifest).shuffle(100)
        epochs = [tuple(classes(dataset)) for _ in range(3)]
        assert len(set(epochs)) == 3
        plain = list(curried.shuffle(100)(range(NUM_SAMPLES)))
        assert list(epochs[0]) == plain

    def test_repeated_epochs_are_those_of_iterations(self, manifest) -> None:
        dataset = Dataset(manifest, shuffle=True).shuffle(5)
        epochs = [classes(dataset.iterate(epoch)) for epoch in range(4)]
        twice = dataset.repeat(2)
        assert classes(twice) == epochs[0] + epochs[1]
        assert classes(twice) == epochs[2] + epochs[3]
        endless = dataset.repeat()
        assert classes(itertools.islice(endless, 75)) == [
            *epochs[0],
            *epochs[1],
            *epochs[2],
        ]

    def test_an_epoch_of_other_length_begins_in_another_order(self, manifest) -> None:
        dataset = Dataset(manifest, shuffle=True).with_epoch(60)
        first, second = classes(dataset), classes(dataset)
        assert len(first) == len(second) == 60
        assert first != second

    def test_resampling_draws_shards_endlessly(self, manifest) -> None:
        dataset = Dataset(manifest, seed=1).resampled()
        numbers = classes(itertools.islice(dataset, 200))
        assert set(numbers) == set(range(NUM_SAMPLES))
        assert numbers != classes(itertools.islice(dataset, 200))
        assert numbers == classes(itertools.islice(dataset.iterate(0), 200))


class TestSplitting:
    def test_processes_share_the_shards(self, manifest) -> None:
        seen: list[int] = []
        for rank, worker in itertools.product(range(2), range(3)):
            dataset = Dataset(
                manifest,
                shuffle=True,
                nodesplitter=functools.partial(split, rank=rank, world=2),
                splitter=functools.partial(split, rank=worker, world=3),
            )
            seen += classes(dataset)
        assert sorted(seen) == list(range(NUM_SAMPLES))

    def test_workers_are_told_by_the_environment(self, manifest, monkeypatch) -> None:
        monkeypatch.setenv("NUM_WORKERS", "2")
        monkeypatch.setenv("WORKER", "1")
        dataset = Dataset(manifest)
        assert {number // MAXCOUNT for number in classes(dataset)} == {1, 3, 5}
        assert len(dataset) == NUM_SAMPLES
        assert len(classes(Dataset(manifest, splitter=None))) == NUM_SAMPLES

    def test_several_nodes_have_to_be_provided_for(self, manifest, monkeypatch) -> None:
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(UsageError, match="nodesplitter=split_by_node"):
            list(Dataset(manifest))
        dataset = Dataset(manifest, nodesplitter=split_by_node)
        assert len(dataset) == len(classes(dataset)) == 12

    def test_it_travels_to_workers_which_share_the_shards(
        self, manifest, tmp_path
    ) -> None:
        dataset = Dataset(manifest, shuffle=True).shuffle(3).to_tuple("__key__")
        (tmp_path / "dataset").write_bytes(pickle.dumps(dataset))
        script = (
            "import pickle, sys\n"
            "for key, in pickle.load(open(sys.argv[1], 'rb')): print(key)"
        )
        found: list[str] = []
        for worker in range(2):
            child = subprocess.run(
                [sys.executable, "-c", script, str(tmp_path / "dataset")],
                env={**os.environ, "WORKER": str(worker), "NUM_WORKERS": "2"},
                capture_output=True,
                text=True,
                check=True,
            )
            found += child.stdout.split()
        assert sorted(found) == sorted(key for (key,) in dataset)
        assert len(found) == NUM_SAMPLES

    def test_urls_of_an_epoch_can_be_looked_at(self, urls) -> None:
        dataset = Dataset(urls, shuffle=True, seed=3)
        assert list(dataset.shard_urls()) != urls
        assert sorted(dataset.shard_urls(7)) == urls


class TestLength:
    @pytest.mark.parametrize("name", KNOWN)
    def test_is_what_comes(self, manifest, name: str) -> None:
        dataset = KNOWN[name](Dataset(manifest))
        assert len(dataset) == len([*iter(dataset)])

    @pytest.mark.parametrize("name", UNKNOWN)
    def test_is_not_guessed(self, manifest, name: str) -> None:
        dataset = UNKNOWN[name](Dataset(manifest))
        with pytest.raises(TypeError, match="with_length"):
            len(dataset)

    def test_of_shards_alone_is_not_known(self, urls, folder, manifest) -> None:
        for url in urls:
            Path(f"{url}.npz").unlink()  # an index tells how many there are
        specs = [urls, f"{folder}/*.json", [manifest, urls[0]]]
        for dataset in [*map(Dataset, specs), Dataset(manifest, length=False)]:
            with pytest.raises(TypeError, match="not known"):
                len(dataset)

    def test_is_what_it_is_said_to_be(self, urls) -> None:
        assert len(Dataset(urls, length=7)) == 7
        assert len(Dataset(urls, length=1).listed(5)) == 1
        dataset = Dataset(urls).select(bool).with_length(30)
        assert len(dataset) == 30
        assert len(list(dataset)) == NUM_SAMPLES

    def test_of_several_manifests_is_their_sum(self, manifest) -> None:
        dataset = Dataset([manifest, manifest])
        assert len(dataset) == len(list(dataset)) == 2 * NUM_SAMPLES


class TestDamage:
    @pytest.fixture
    def damaged(self, urls, tmp_path) -> list[str]:
        """A shard that is cut, one that is not there, and a whole one."""
        cut = tmp_path / "cut.tar"
        cut.write_bytes(Path(urls[0]).read_bytes()[:2048])
        return [str(cut), f"{tmp_path}/none.tar", urls[1]]

    def test_is_an_error(self, damaged) -> None:
        with pytest.raises(TruncatedShardError, match=r"cut\.tar"):
            list(Dataset(damaged))
        with pytest.raises(StorageError, match=r"none\.tar"):
            list(Dataset(damaged[1:]))

    def test_may_be_passed_over_or_end_it(self, damaged) -> None:
        passed = classes(Dataset(damaged, handler=ignore_and_continue))
        assert passed[-4:] == [4, 5, 6, 7]
        assert classes(Dataset(damaged[1:], handler=ignore_and_stop)) == []

    def test_may_be_warned_of(self, damaged) -> None:
        with pytest.warns(UserWarning, match=r"none\.tar"):
            assert classes(Dataset(damaged[1:], handler=warn_and_continue))


class TestCache:
    @pytest.fixture
    def gone(self, urls, tmp_path) -> tuple[Dataset, Callable[[], None]]:
        """A cached data set, and what removes its shards."""
        own = []
        for url in urls:
            own.append(tmp_path / Path(url).name)
            own[-1].write_bytes(Path(url).read_bytes())

        def remove() -> None:
            for path in own:
                path.unlink()

        dataset = Dataset(f"{tmp_path}/*.tar").dbcache(f"{tmp_path}/cache.db", 1000)
        return dataset, remove

    def test_a_second_epoch_needs_no_shards(self, gone) -> None:
        dataset, remove = gone
        first = list(dataset)
        remove()
        assert list(dataset) == first
        assert classes(dataset.decode()) == list(range(NUM_SAMPLES))

    def test_each_worker_keeps_its_own(self, gone, monkeypatch) -> None:
        dataset, remove = gone
        monkeypatch.setenv("NUM_WORKERS", "2")
        epochs: list[list[int]] = []
        for epoch in range(2):
            seen: list[int] = []
            for worker in range(2):
                monkeypatch.setenv("WORKER", str(worker))
                seen += classes(dataset)
            epochs.append(seen)
            if not epoch:
                remove()
        assert sorted(epochs[0]) == list(range(NUM_SAMPLES))
        assert epochs[1] == epochs[0]

    def test_from_the_file_each_epoch_may_have_its_order(self, urls, tmp_path) -> None:
        dataset = Dataset(urls).dbcache(f"{tmp_path}/c.db", 1000, shuffle=True)
        epochs = [tuple(classes(dataset)) for _ in range(4)]
        assert len(set(epochs)) == 4
        assert all(sorted(epoch) == list(range(NUM_SAMPLES)) for epoch in epochs)
        assert tuple(classes(dataset.at_epoch(2))) == epochs[2]


class TestFluency:
    def test_a_stage_makes_a_new_data_set(self, manifest) -> None:
        dataset = Dataset(manifest)
        made = dataset.slice(3)
        assert type(made) is Dataset
        assert len(list(made)) == 3
        assert len(list(dataset)) == NUM_SAMPLES

    def test_stages_follow_each_other(self, manifest) -> None:
        dataset = (
            Dataset(manifest)
            .select(lambda sample: sample["__key__"] > "n010")
            .decode()
            .map(lambda sample: {**sample, "cls": sample["cls"] + 1})
            .to_tuple("__key__", "cls")
            .map_tuple(str.upper, None)
            .listed(2)
            .unlisted()
            .batched(10, collation_fn=None)
            .slice(1)
        )
        (batch,) = dataset
        assert batch[:2] == [("N011", 12), ("N012", 13)]
        assert len(batch) == 10

    def test_any_function_of_samples_is_a_stage(self, manifest) -> None:
        def rest(samples):
            next(samples)
            return [*samples]

        dataset = Dataset(manifest).compose(curried.slice(6), rest, classes, sorted)
        assert list(dataset) == list(dataset) == [1, 2, 3, 4, 5]

    def test_wrong_arguments_are_refused_where_they_are_written(self, urls) -> None:
        with pytest.raises(TypeError, match="batchsiz"):
            Dataset(urls).batched(batchsiz=3)  # type: ignore[call-arg]

    def test_help_shows_the_options(self) -> None:
        signature = inspect.signature(Dataset.shuffle)
        names = ["self", "bufsize", "initial", "rng", "seed"]
        assert list(signature.parameters) == names
        words = Dataset.shuffle.__doc__ or ""
        assert "bufsize: " in words
        assert "samples: " not in words
        assert Dataset.batched.__name__ == "batched"

    def test_the_signature_is_that_of_webdataset_and_more(self) -> None:
        parameters = inspect.signature(Dataset).parameters
        assert {"urls", "length", "splitter", "handler", "shuffle"} <= set(parameters)
        assert parameters["length"].default is True

    def test_closing_an_iterator_closes_the_shard(self, urls) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for dataset in (Dataset(urls), Dataset(urls).decode().listed(2)):
            iterator = iter(dataset)
            next(iterator)
            del iterator
        assert len(list(Path("/proc/self/fd").iterdir())) == before

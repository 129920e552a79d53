"""Feeds: batches in an exact order, for any ranks and workers, resumable anywhere."""

from __future__ import annotations

import functools
import gc
import json
import pickle
import threading
import weakref
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shardbuild as sb
from shardbuild.errors import SampleError, StateError, UsageError
from shardbuild.streams.splitters import split

if TYPE_CHECKING:
    from collections.abc import Iterable


def write_set(folder: Path, counts: list[int], name: str = "x") -> str:
    """A data set whose shards have so many samples."""
    manifest = f"{folder}/{name}.json"
    shards = []
    for number, count in enumerate(counts):
        url = f"{folder}/{name}-{number:03d}.tar"
        with sb.TarWriter(url) as writer:
            for i in range(count):
                key = f"{name}{number:03d}/{i:04d}"
                writer.write({"__key__": key, "cls": i, "txt": key * (i % 7)})
        shards.append(url)
    from shardbuild.shards.index import save_index
    from shardbuild.shards.manifest import ShardFacts, make_manifest, save_manifest

    facts = []
    for url in shards:
        index = sb.scan_shard(url)
        save_index(index, url)
        facts.append(ShardFacts(url, index.num_samples, index.file_bytes))
    save_manifest(make_manifest(facts, manifest), manifest)
    return manifest


def all_keys(counts: list[int], name: str = "x") -> list[str]:
    return [
        f"{name}{number:03d}/{i:04d}"
        for number, count in enumerate(counts)
        for i in range(count)
    ]


def keys_of(batch: Iterable[dict[str, Any]]) -> list[str]:
    return [sample["__key__"] for sample in batch]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("feed")


COUNTS = [7, 1, 12, 5, 9, 3]


@pytest.fixture(scope="module")
def manifest(folder):
    return write_set(folder, COUNTS, "m")


@pytest.fixture
def dataset(manifest):
    with sb.Dataset(manifest) as made:
        yield made


ORDERS = st.fixed_dictionaries(
    {
        "shuffle": st.booleans(),
        "seed": st.integers(0, 5),
        "open_shards": st.sampled_from([1, 2, 3, 256]),
        "block": st.integers(1, 5),
    }
)


class Noted:
    """A sample that tells when it is gone."""

    def __init__(self, sample: dict[str, Any]) -> None:
        self.key = sample["__key__"]


def test_a_batch_that_was_let_go_of_is_gone_before_the_next_is_made(dataset):
    batches = iter(dataset.map(Noted).feed(4, threads=0))
    for _ in range(5):
        samples = [weakref.ref(sample) for sample in next(batches)]
        assert [sample() for sample in samples] == [None] * 4


class Run:
    """A run of several ranks and workers, all in this process."""

    def __init__(self, dataset, global_batch, world, num_workers, last, order):
        self.feeds = [
            dataset.feed(
                global_batch, rank=rank, world=world, last=last, threads=0, **order
            )
            for rank in range(world)
        ]
        self.num_workers = num_workers

    def steps(self):
        """Each step's samples of all ranks, as workers make them in turn."""
        ranks = []
        for feed in self.feeds:
            copies = [pickle.loads(pickle.dumps(feed)) for _ in range(self.num_workers)]  # noqa: S301
            ranks.append(
                [
                    copy.steps(worker, self.num_workers)
                    for worker, copy in enumerate(copies)
                ]
            )
        turn = 0
        while True:
            batch = []
            for feed, workers in zip(self.feeds, ranks, strict=True):
                payload, facts = next(workers[turn % self.num_workers], (None, None))
                if payload is None:
                    return
                feed.delivered(facts)
                batch += [
                    key
                    for key, is_real in zip(
                        keys_of(payload),
                        [True] * len(payload)
                        if payload.mask is None
                        else payload.mask.tolist(),
                        strict=True,
                    )
                    if is_real
                ]
            turn += 1
            yield batch

    def state(self):
        states = {json.dumps(feed.state_dict(), sort_keys=True) for feed in self.feeds}
        assert len(states) == 1
        return json.loads(states.pop())


class TestOrder:
    @settings(max_examples=40)
    @given(
        order=ORDERS,
        shares=st.lists(
            st.tuples(
                st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers()
            ),
            min_size=1,
            max_size=5,
        ),
    )
    def test_each_sample_once_an_epoch_whatever_the_topologies(
        self, manifest, order, shares
    ):
        """Ranks, batches and workers change in the middle of an epoch, often."""
        dataset = sb.Dataset(manifest)
        state, given = None, []
        for epoch in (0, 1):
            seen: list[str] = []
            changes = list(shares)
            while state is None or state["epoch"] == epoch:
                world, per_rank, num_workers, steps = (
                    changes.pop(0) if changes else (1, 4, 1, 10**6)
                )
                run = Run(dataset, world * per_rank, world, num_workers, "mask", order)
                if state is not None:
                    for feed in run.feeds:
                        feed.load_state_dict(state)
                for number, batch in enumerate(run.steps()):
                    seen += batch
                    if number == abs(steps) % 3 and changes:
                        break
                state = run.state()
            assert Counter(seen) == Counter(all_keys(COUNTS, "m"))
            given.append(seen)
        if order["shuffle"]:
            assert given[0] != given[1]

    @settings(max_examples=15)
    @given(order=ORDERS, last=st.sampled_from(["wrap", "mask", "drop"]))
    def test_global_batches_are_the_same_for_each_topology(self, manifest, order, last):
        dataset = sb.Dataset(manifest)
        wanted = list(Run(dataset, 12, 1, 1, last, order).steps())
        for world in (2, 3, 12):
            for num_workers in (1, 3):
                run = Run(dataset, 12, world, num_workers, last, order)
                assert list(run.steps()) == wanted

    @pytest.mark.parametrize("last", ["wrap", "mask", "drop"])
    @pytest.mark.parametrize("shuffle", [False, True])
    def test_a_state_before_each_batch_restores_the_rest(self, dataset, last, shuffle):
        def make():
            return dataset.feed(
                4, shuffle=shuffle, seed=3, open_shards=2, last=last, rank=0, world=1
            )

        feed, states, batches = make(), [], []
        for _ in range(3):
            states.append(feed.state_dict())
            for batch in feed:
                batches.append((batch.epoch, keys_of(batch), batch.positions.tolist()))
                states.append(feed.state_dict())
            states.pop()  # is the first of the next epoch
        assert len(states) == len(batches)
        for number, state in enumerate(states):
            again = make()
            again.load_state_dict(json.loads(json.dumps(state)))
            rest = [
                (batch.epoch, keys_of(batch), batch.positions.tolist())
                for _ in range(3 - again.epoch)
                for batch in again
            ]
            assert rest == batches[number:]

    def test_without_shuffle_it_is_the_order_of_the_data_set(self, dataset):
        feed = dataset.feed(5, last="drop")
        keys = [key for batch in feed for key in keys_of(batch)]
        assert keys == all_keys(COUNTS, "m")[:35]

    def test_ranks_stay_with_their_lanes(self, folder):
        dataset = sb.Dataset(write_set(folder, [8] * 8, "lanes"))
        feeds = [
            dataset.feed(4, shuffle=True, open_shards=4, rank=rank, world=2)
            for rank in (0, 1)
        ]
        shards = [
            {key.split("/")[0] for batch in feed for key in keys_of(batch)}
            for feed in feeds
        ]
        assert len(shards[0] & shards[1]) <= 4  # where the line is cut


class TestLast:
    def test_wrap_fills_up_from_the_beginning_of_the_order(self, dataset):
        batches = [keys_of(batch) for batch in dataset.feed(10, shuffle=True, seed=1)]
        assert [len(batch) for batch in batches] == [10] * 4
        keys = [key for batch in batches for key in batch]
        assert Counter(keys) - Counter(all_keys(COUNTS, "m")) == Counter(
            key for key in keys if keys.count(key) == 2
        ) - Counter({key: 1 for key in keys if keys.count(key) == 2})
        assert set(keys) == set(all_keys(COUNTS, "m"))

    def test_mask_says_what_counts_and_no_other_has_one(self, dataset):
        masks = [batch.mask.tolist() for batch in dataset.feed(10, last="mask")]
        assert masks == [[True] * 10] * 3 + [[True] * 7 + [False] * 3]
        assert all(batch.mask is None for batch in dataset.feed(10))

    def test_a_batch_larger_than_the_data_set(self, dataset):
        (batch,) = dataset.feed(100)
        assert set(keys_of(batch)) == set(all_keys(COUNTS, "m"))
        (batch,) = dataset.feed(100, last="mask")
        assert batch.mask.sum() == 37
        with pytest.raises(UsageError, match="not so many samples"):
            dataset.feed(100, last="drop")

    @pytest.mark.parametrize(("last", "steps"), [("wrap", 4), ("mask", 4), ("drop", 3)])
    def test_every_rank_has_as_many_steps_as_len_says(self, dataset, last, steps):
        for rank in range(5):
            feed = dataset.feed(10, last=last, rank=rank, world=5)
            assert len(feed) == len(list(feed)) == steps


class TestState:
    def test_counts_what_was_delivered_not_what_was_read_ahead(self, dataset):
        feed = dataset.decode().feed(4, threads=3)
        batches = iter(feed)
        next(batches)
        assert feed.state_dict()["consumed"] == 4
        batches.close()
        assert keys_of(next(iter(feed))) == all_keys(COUNTS, "m")[4:8]

    def test_is_small(self, dataset):
        assert len(json.dumps(dataset.feed(4).state_dict())) < 300

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"seed": 8}, "another 'seed'"),
            ({"shuffle": False}, "another 'shuffle'"),
            ({"open_shards": 3}, "another 'open_shards'"),
            ({"block": 7}, "another 'blocks'"),
        ],
    )
    def test_another_order_is_refused(self, dataset, change, problem):
        order = {"seed": 7, "shuffle": True, "open_shards": 2, "block": 1}
        state = dataset.feed(4, **order).state_dict()
        with pytest.raises(StateError, match=problem):
            dataset.feed(4, **{**order, **change}).load_state_dict(state)

    def test_another_data_set_is_refused_and_a_copy_is_not(
        self, dataset, manifest, folder, tmp_path
    ):
        other = sb.Dataset(write_set(folder, [7, 1, 12, 5, 9, 4], "other"))
        state = dataset.feed(4).state_dict()
        with pytest.raises(StateError, match="another data set"):
            other.feed(4).load_state_dict(state)
        with pytest.raises(StateError, match="another data set"):
            dataset[1:].feed(4).load_state_dict(state)
        for path in Path(manifest).parent.glob("m*"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        sb.Dataset(f"{tmp_path}/m.json").feed(4).load_state_dict(state)

    @pytest.mark.parametrize(
        "state", [None, {}, {"version": 2}, {"version": 1}, [], "x"]
    )
    def test_what_is_no_state_is_refused(self, dataset, state):
        with pytest.raises(StateError):
            dataset.feed(4).load_state_dict(state)

    def test_numbers_out_of_range_are_refused(self, dataset):
        feed = dataset.feed(4)
        for change in ({"epoch": -1}, {"consumed": "4"}, {"epoch": None}):
            with pytest.raises(StateError, match="epoch"):
                feed.load_state_dict({**feed.state_dict(), **change})

    def test_a_state_at_whose_end_no_step_is_left_is_the_next_epoch(self, dataset):
        feed = dataset.feed(5, last="drop")
        feed.load_state_dict({**feed.state_dict(), "consumed": 35})
        assert feed.epoch == 1
        assert feed.state_dict()["consumed"] == 0

    def test_set_epoch_goes_to_its_beginning(self, dataset):
        feed = dataset.feed(4, shuffle=True)
        list(feed)
        second = [keys_of(batch) for batch in feed]
        feed.set_epoch(1)
        assert [keys_of(batch) for batch in feed] == second
        assert feed.epoch == 2


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"global_batch": 5, "rank": 0, "world": 2}, "global_batch 5: is no mult"),
            ({"global_batch": 0}, "global_batch 0"),
            ({"global_batch": 4, "rank": 2, "world": 2}, "rank 2: is none of 2"),
            ({"global_batch": 4, "rank": 0}, "rank 0, world None: say both"),
            ({"global_batch": 4, "last": "pad"}, "last 'pad'"),
            ({"global_batch": 4, "open_shards": -1}, "open_shards -1"),
            ({"global_batch": 4, "block": -1}, "block -1"),
        ],
    )
    def test_what_is_out_of_range_is_refused(self, dataset, options, problem):
        with pytest.raises(UsageError, match=problem):
            dataset.feed(**options)

    def test_rank_and_world_come_from_the_environment(self, dataset, monkeypatch):
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        feed = dataset.feed(4)
        assert (feed.rank, feed.world) == (1, 2)
        assert keys_of(next(iter(feed))) == all_keys(COUNTS, "m")[2:4]
        assert len(dataset) == 37

    @pytest.mark.parametrize(
        "stage",
        ["shuffle", "batched", "listed", "unlisted", "unbatched", "repeat", "rsample"],
    )
    def test_stages_that_do_not_make_one_of_each_are_refused(self, dataset, stage):
        staged = getattr(dataset, stage)()
        with pytest.raises(UsageError, match=f"stage {stage}: a feed has an order"):
            staged.feed(4)
        with pytest.raises(UsageError, match=f"stage {stage}"):
            staged[0]


class TestStages:
    @pytest.mark.parametrize("threads", [0, 1, 3, 16])
    def test_threads_change_nothing(self, dataset, threads):
        staged = dataset.decode().to_tuple("__key__", "cls")
        batches = list(staged.feed(6, shuffle=True, seed=2, threads=threads))
        assert batches == list(staged.feed(6, shuffle=True, seed=2, threads=0))
        assert batches[0][0][1] == int(batches[0][0][0].split("/")[1])

    def test_collate_makes_arrays(self, dataset):
        staged = dataset.decode().to_tuple("__key__", "cls")
        keys, numbers = next(iter(staged.feed(6, collate=sb.stack)))
        assert keys == all_keys(COUNTS, "m")[:6]
        assert numbers.tolist() == [0, 1, 2, 3, 4, 5]
        *_, (_, _, mask) = staged.feed(6, collate=sb.stack, last="mask")
        assert mask.tolist() == [True] + [False] * 5
        columns = next(iter(dataset.decode().feed(6, collate=sb.stack, last="mask")))
        assert columns["__mask__"].all()

    def test_only_the_fields_that_are_wanted_are_there(self, dataset):
        sample = next(iter(dataset.fields("cls").feed(1)))[0]
        assert sorted(sample) == ["__key__", "__url__", "cls"]
        with pytest.raises(UsageError, match="before any stage"):
            dataset.decode().fields("cls")


def fails_for(bad):
    def check(sample):
        if sample["__key__"] in bad:
            raise ValueError("is bad")
        return sample

    return check


class TestBadSamples:
    KEYS = all_keys(COUNTS, "m")

    @pytest.mark.parametrize("threads", [0, 2])
    def test_are_replaced_by_the_next_in_the_order_and_listed(self, dataset, threads):
        bad = {self.KEYS[1], self.KEYS[2], self.KEYS[9]}
        feed = dataset.map(fails_for(bad)).feed(4, threads=threads)
        keys = [key for batch in feed for key in keys_of(batch)]
        wanted = [*self.KEYS, *self.KEYS[:3]]
        wanted = [
            {1: wanted[3], 2: wanted[3], 9: wanted[10]}.get(at % 37, key)
            for at, key in enumerate(wanted)
        ]
        assert keys == wanted
        assert feed.skipped[:3] == [
            sb.Skipped(0, at, skipped.url, self.KEYS[at], "ValueError: is bad")
            for at, skipped in zip((1, 2, 2), feed.skipped, strict=False)
        ]
        assert feed.skipped[0].url.endswith("m-000.tar")

    def test_are_replaced_alike_in_each_topology(self, dataset):
        bad = set(self.KEYS[::3])
        staged = dataset.map(fails_for(bad))
        wanted = [keys_of(b) for b in staged.feed(8, shuffle=True, seed=5)]
        for world in (2, 4, 8):
            feeds = [
                staged.feed(8, shuffle=True, seed=5, rank=rank, world=world)
                for rank in range(world)
            ]
            steps = zip(*feeds, strict=True)
            got = [[key for part in step for key in keys_of(part)] for step in steps]
            assert got == wanted

    def test_more_than_may_be_in_a_row_are_an_error(self, dataset):
        bad = set(self.KEYS[4:7])
        staged = dataset.map(fails_for(bad))
        assert len(list(staged.feed(4, max_bad=3))) == 10
        with pytest.raises(SampleError, match=r"m000/0006.*is bad.*2 before") as caught:
            list(staged.feed(4, max_bad=2))
        assert isinstance(caught.value.__cause__, ValueError)
        with pytest.raises(SampleError, match="m000/0004"):
            list(staged.feed(4, max_bad=0))

    def test_do_not_count_where_there_is_a_mask(self, dataset):
        feed = dataset.map(fails_for({self.KEYS[1]})).feed(4, last="mask")
        assert next(iter(feed)).mask.tolist() == [True, False, True, True]

    def test_a_stage_that_drops_some_makes_them_bad(self, dataset):
        staged = dataset.map(lambda s: None if s["__key__"] == self.KEYS[0] else s)
        feed = staged.feed(4)
        assert keys_of(next(iter(feed)))[:2] == [self.KEYS[1]] * 2
        assert feed.skipped[0].problem == "a stage dropped it"

    def test_several_of_one_sample_are_an_error(self, dataset):
        def twice(samples):
            for sample in samples:
                yield sample
                yield sample

        with pytest.raises(UsageError, match="several of one sample"):
            list(dataset.compose(twice).feed(4))


class TestEndings:
    @pytest.mark.parametrize("threads", [0, 2])
    def test_stopping_early_closes_all(self, dataset, threads):
        feed = dataset.decode().feed(2, threads=threads)
        for _ in feed:
            break
        feed.close()
        names = [thread.name for thread in threading.enumerate()]
        assert not [name for name in names if name.startswith("shardbuild-feed")]
        assert not open_shards_of("m-")

    def test_an_error_in_the_consumer_closes_all(self, dataset):
        def consume():
            with dataset.decode().feed(2, threads=2) as feed:
                for batch in feed:
                    raise RuntimeError(batch[0]["__key__"])

        with pytest.raises(RuntimeError, match="m000/0000"):
            consume()
        assert not open_shards_of("m-")

    def test_an_error_of_storage_is_raised_not_replaced(self, folder):
        manifest = write_set(folder, [3, 3], "gone")
        Path(folder, "gone-001.tar").unlink()
        with pytest.raises(sb.StorageError, match=r"gone-001\.tar"):
            list(sb.Dataset(manifest).feed(2))


def open_shards_of(name: str) -> list[str]:
    gc.collect()  # other tests' feeds
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    targets = [str(link.readlink()) for link in links if link.exists()]
    return [target for target in targets if Path(target).name.startswith(name)]


class TestExplain:
    def test_tells_of_steps_and_order(self, dataset):
        feed = dataset.feed(8, shuffle=True, rank=0, world=2)
        said = str(feed.explain())
        assert "37 samples, 5 steps of 8: 4 for each of 2 ranks" in said
        assert "each one as likely as any other" in said
        assert "as the samples lie" in str(dataset.feed(8).explain())

    def test_measures_the_shuffle(self, folder):
        manifest = write_set(folder, [20] * 30, "e")
        feed = sb.Dataset(manifest).feed(16, shuffle=True, open_shards=8)
        facts = feed.explain().datasets[0]
        assert "8 of 30 shards at once" in str(feed.explain())
        assert facts.open_shards == 8
        assert 0 < facts.collisions < 8
        assert facts.shards_per_batch == pytest.approx(8, abs=2)


class TestItems:
    def test_by_number_key_slice_and_list(self, dataset):
        keys = all_keys(COUNTS, "m")
        assert len(dataset) == 37
        assert dataset[0]["__key__"] == keys[0]
        assert dataset[-1]["__key__"] == keys[-1]
        assert dataset[np.int64(9)]["__key__"] == keys[9]
        assert dataset["m002/0004"]["cls"] == b"4"
        assert keys_of(dataset.__getitems__([5, 3, 5])) == [keys[5], keys[3], keys[5]]
        assert keys_of(dataset[3:20:4]) == keys[3:20:4]
        assert keys_of(dataset[::-1]) == keys[::-1]
        assert keys_of(dataset[5:][::2][1:3]) == keys[5:][::2][1:3]
        assert len(dataset[30:]) == 7
        with pytest.raises(IndexError):
            dataset[37]
        with pytest.raises(KeyError):
            dataset["m009"]

    def test_where_chooses_by_the_index(self, dataset):
        large = dataset.where(lambda columns: columns.size("txt") > 40)
        wanted = [s["__key__"] for s in dataset if len(s["txt"]) > 40]
        assert keys_of(large) == wanted
        assert len(large) == len(wanted)
        batches = large.feed(4, shuffle=True, last="mask")
        fed = [k for b in batches for k in np.array(keys_of(b))[b.mask].tolist()]
        assert sorted(fed) == sorted(wanted)

    def test_a_shard_that_is_named_twice_is_there_twice(self, folder):
        url = write_set(folder, [4], "twice").replace(".json", "-000.tar")
        keys = all_keys([4], "twice")
        dataset = sb.Dataset([url, url])[3:]
        assert len(dataset) == 5
        assert keys_of(dataset) == [keys[3], *keys]
        halves = [functools.partial(split, rank=rank, world=2) for rank in range(2)]
        parts = [sb.Dataset([url, url], splitter=half)[3:] for half in halves]
        assert [keys_of(part) for part in parts] == [keys[3:], keys]
        nodes = [sb.Dataset([url, url], nodesplitter=half)[3:] for half in halves]
        assert [len(node) for node in nodes] == [1, 4]
        shuffled = [
            keys_of(sb.Dataset([url, url], shuffle=True, seed=seed)[3:])
            for seed in range(8)
        ]
        assert {len(each) for each in shuffled} == {5}
        assert {each[0] for each in shuffled} == {keys[0], keys[3]}

    def test_a_splitter_may_make_urls_of_its_own_where_they_are_clear(self, folder):
        url = write_set(folder, [4], "own").replace(".json", "-000.tar")

        def own(urls: Iterable[str]) -> list[str]:
            return ["".join(url) for url in urls]

        assert keys_of(sb.Dataset(url, splitter=own)[1:]) == all_keys([4], "own")[1:]
        with pytest.raises(UsageError, match="a splitter gives what it was given"):
            list(sb.Dataset([url, url], splitter=own)[1:])

    def test_stages_apply(self, dataset):
        staged = dataset.decode().to_tuple("cls")
        assert staged[8:10][1] == (1,)
        assert list(staged[:3]) == [(0,), (1,), (2,)]
        with pytest.raises(SampleError, match=r"m000/0000.*no 'jpg'|jpg"):
            _ = dataset.to_tuple("jpg")[0]

    def test_without_index_there_are_none(self, folder):
        manifest = write_set(folder, [2], "bare")
        Path(folder, "bare-000.tar.npz").unlink()
        dataset = sb.Dataset(f"{folder}/bare-000.tar")
        assert not dataset.has_index
        for use in (
            lambda: dataset[0],
            lambda: dataset.where(lambda columns: columns.has("txt")),
        ):
            with pytest.raises(UsageError, match="shardbuild index"):
                use()
        assert manifest

    def test_pickled_it_still_reads(self, dataset):
        copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301
        assert copy[5] == dataset[5]


@pytest.fixture(scope="module")
def sets(folder):
    return [
        sb.Dataset(write_set(folder, [10, 4], "a")),
        sb.Dataset(write_set(folder, [3], "b")),
    ]


class TestMixture:
    @settings(max_examples=20)
    @given(
        weights=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        shuffle=st.booleans(),
        batch=st.sampled_from([4, 12]),
    )
    def test_proportions_are_exact_in_each_batch(self, sets, weights, shuffle, batch):
        mixture = sb.Mixture(sets, weights)
        feed = mixture.feed(batch, shuffle=shuffle, seed=1)
        share = weights[0] / sum(weights)
        num_a = total = 0
        for _ in range(3):
            for one in feed:
                count = sum(key.startswith("a") for key in keys_of(one))
                assert abs(count - share * batch) < 2
                num_a, total = num_a + count, total + batch
                assert abs(num_a - share * total) < 4  # batches that wrap

    def test_each_data_set_goes_through_its_own_epochs(self, sets):
        feed = sb.Mixture(sets, [1, 1], epoch_samples=24).feed(
            4, shuffle=True, rank=0, world=1
        )
        keys = [key for batch in feed for key in keys_of(batch)]
        of_b = [key for key in keys if key.startswith("b")]
        assert len(of_b) == 12
        assert Counter(of_b) == Counter(dict.fromkeys(all_keys([3], "b"), 4))

    def test_topologies_and_resuming_change_nothing(self, sets):
        mixture = sb.Mixture(sets, ["0.7", "0.3"])
        order = {"shuffle": True, "seed": 4}
        alone = Run(mixture, 6, 1, 1, "wrap", order)
        wanted = [batch for _ in range(2) for batch in alone.steps()]
        run, got = Run(mixture, 6, 3, 2, "wrap", order), []
        for _ in range(2):
            for batch in run.steps():
                got.append(batch)
                again = Run(mixture, 6, 2, 1, "wrap", order)
                for feed in again.feeds:
                    feed.load_state_dict(run.state())
                if len(got) < len(wanted):
                    assert next(again.steps()) == wanted[len(got)]
        assert got == wanted

    def test_each_rank_has_some_of_each_data_set(self, folder):
        many = sb.Dataset(write_set(folder, [6] * 20, "many"))
        few = sb.Dataset(write_set(folder, [40], "few"))
        mixture = sb.Mixture([many, few], [1, 1])
        for rank in (0, 1):
            feed = mixture.feed(16, shuffle=True, open_shards=8, rank=rank, world=2)
            nums = [sum(k.startswith("few") for k in keys_of(b)) for b in feed]
            assert 2 <= min(nums) <= max(nums) <= 6
            assert sum(nums) / len(nums) == pytest.approx(4, abs=0.5)

    def test_weights_may_change_at_a_checkpoint(self, sets):
        feed = sb.Mixture(sets, [1, 1]).feed(4)
        next(iter(feed))
        state = feed.state_dict()
        other = sb.Mixture(sets, [3, 1]).feed(4)
        other.load_state_dict(state)
        batch = keys_of(next(iter(other)))
        assert sorted(batch) == ["a000/0002", "a000/0003", "a000/0004", "b000/0002"]
        again = sb.Mixture(sets, [3, 1]).feed(4)
        again.load_state_dict(other.state_dict())
        assert keys_of(next(iter(again))) == keys_of(next(iter(other)))

    def test_a_damaged_mixture_is_refused(self, sets):
        feed = sb.Mixture(sets, [1, 1]).feed(4)
        for mixture in ({}, {"weights": ["1"], "base": [0], "since": 0}):
            with pytest.raises(StateError, match="mixture"):
                feed.load_state_dict({**feed.state_dict(), "mixture": mixture})

    def test_bad_samples_are_replaced_by_the_next_of_their_data_set(self, sets):
        bad = sets[0].map(fails_for({"a000/0001"}))
        feed = sb.Mixture([bad, sets[1]], [1, 1]).feed(4, last="mask")
        batch = next(iter(feed))
        assert keys_of(batch) == ["a000/0000", "b000/0000", "a000/0002", "b000/0001"]
        assert batch.mask.tolist() == [True, True, False, True]
        assert [(one.position, one.key) for one in feed.skipped] == [(1, "a000/0001")]

    def test_what_has_no_index_or_no_samples_is_refused(self, sets, folder):
        write_set(folder, [2], "alone")
        Path(folder, "alone-000.tar.npz").unlink()
        bare = sb.Dataset(f"{folder}/alone-000.tar")
        with pytest.raises(UsageError, match="shardbuild index"):
            sb.Mixture([sets[0], bare])
        with pytest.raises(UsageError, match="epoch_samples 0"):
            sb.Mixture(sets, epoch_samples=0)
        with pytest.raises(UsageError, match="weights: 0 for 0"):
            sb.Mixture([])

    def test_wrong_weights_are_refused(self, sets):
        for weights in ([1], [1, -1], [0, 0]):
            with pytest.raises(UsageError):
                sb.Mixture(sets, weights).feed(4)

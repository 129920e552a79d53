"""Feeds of data sets without an index: lanes of shards, resumable all the same."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shardbuild as sb
from shardbuild.errors import (
    SampleError,
    StateError,
    TruncatedShardError,
    UsageError,
)

if TYPE_CHECKING:
    from pathlib import Path

COUNTS = [7, 1, 12, 5, 9, 3]


def write_bare(folder: Path, suffix: str = "tar") -> list[str]:
    """Shards without indexes."""
    urls = []
    for number, count in enumerate(COUNTS):
        urls.append(f"{folder}/b-{number:03d}.{suffix}")
        with sb.TarWriter(urls[-1]) as writer:
            for i in range(count):
                key = f"{number:03d}/{i:04d}"
                writer.write({"__key__": key, "cls": i, "txt": key * (i % 7)})
    return urls


KEYS = [
    f"{number:03d}/{i:04d}" for number, count in enumerate(COUNTS) for i in range(count)
]


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    return write_bare(tmp_path_factory.mktemp("streamed"))


def batches_of(feed, num_epochs=1):
    return [
        [sample["__key__"] for sample in batch]
        for _ in range(num_epochs)
        for batch in feed
    ]


class TestOrder:
    @settings(max_examples=30)
    @given(
        shuffle=st.booleans(),
        seed=st.integers(0, 3),
        open_shards=st.integers(1, 8),
        block=st.integers(1, 6),
        batch=st.integers(1, 40),
    )
    def test_each_sample_once_an_epoch(
        self, urls, shuffle, seed, open_shards, block, batch
    ):
        feed = sb.Dataset(urls).feed(
            batch,
            shuffle=shuffle,
            seed=seed,
            open_shards=open_shards,
            block=block,
            last="mask",
        )
        for _ in range(2):  # the second has an index
            real = [
                sample["__key__"]
                for batch in feed
                for sample, counts in zip(batch, batch.mask, strict=True)
                if counts
            ]
            assert Counter(real) == Counter(KEYS)

    @pytest.mark.parametrize("last", ["wrap", "mask", "drop"])
    def test_global_batches_are_the_same_for_each_topology(self, urls, last):
        def feed(**place):
            return sb.Dataset(urls).feed(
                6, shuffle=True, seed=2, open_shards=3, block=2, last=last, **place
            )

        wanted = batches_of(feed(), num_epochs=2)
        for world in (2, 6):
            for num_workers in (1, 3):
                ranks = [feed(rank=rank, world=world) for rank in range(world)]
                got = []
                for _ in range(2):
                    workers = [
                        [
                            pickle.loads(pickle.dumps(one)).steps(w, num_workers)  # noqa: S301
                            for w in range(num_workers)
                        ]
                        for one in ranks
                    ]
                    for step in range(7 if last != "drop" else 6):
                        made = [next(of[step % num_workers]) for of in workers]
                        for one, (_, facts) in zip(ranks, made, strict=True):
                            one.delivered(facts)
                        states = [json.dumps(one.state_dict()) for one in ranks]
                        assert len(set(states)) == 1
                        got.append(
                            [s["__key__"] for payload, _ in made for s in payload]
                        )
                assert got == wanted

    @pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
    @pytest.mark.parametrize("shuffle", [False, True])
    def test_a_state_before_each_batch_restores_the_rest(
        self, tmp_path, suffix, shuffle
    ):
        urls = write_bare(tmp_path, suffix)

        def make():
            return sb.Dataset(urls).feed(
                5, shuffle=shuffle, seed=3, open_shards=2, block=3
            )

        feed, states, batches = make(), [], []
        for _ in range(3):
            states.append(feed.state_dict())
            for batch in feed:
                batches.append([sample["__key__"] for sample in batch])
                states.append(feed.state_dict())
            states.pop()
        assert len(states) == len(batches) == 24
        for number, state in enumerate(states):
            again = make()
            again.load_state_dict(json.loads(json.dumps(state)))
            assert batches_of(again, 3 - again.epoch) == batches[number:]

    def test_the_second_epoch_is_that_of_an_index(self, urls):
        feed = sb.Dataset(urls).feed(4, shuffle=True, seed=5)
        with pytest.raises(TypeError, match="shardbuild index"):
            len(feed)
        batches_of(feed)
        assert len(feed) == 10
        second = batches_of(feed)
        anew = sb.Dataset(urls).feed(4, shuffle=True, seed=5)
        anew.set_epoch(1)
        assert batches_of(anew) == second

    def test_without_shuffle_it_is_the_order_of_the_data_set(self, urls):
        feed = sb.Dataset(urls).feed(37)
        assert batches_of(feed, 2) == [KEYS, KEYS]


class TestState:
    def test_another_data_set_is_refused(self, urls):
        state = sb.Dataset(urls).feed(4).state_dict()
        with pytest.raises(StateError, match="another data set"):
            sb.Dataset(urls[1:]).feed(4).load_state_dict(state)

    def test_a_damaged_cursor_is_refused(self, urls):
        feed = sb.Dataset(urls).feed(4)
        next(iter(feed))
        state = feed.state_dict()
        for cursor in ("x", [1], {"lanes": 3}):
            with pytest.raises(StateError, match="cursor"):
                feed.load_state_dict({**state, "cursor": cursor})


class TestErrors:
    def test_there_is_nothing_to_explain(self, urls):
        with pytest.raises(UsageError, match="shardbuild index"):
            sb.Dataset(urls).feed(4).explain()

    def test_a_truncated_shard_is_an_error(self, tmp_path):
        urls = write_bare(tmp_path)
        path = tmp_path / "b-002.tar"
        path.write_bytes(path.read_bytes()[:4096])
        with pytest.raises(TruncatedShardError, match=r"b-002\.tar"):
            batches_of(sb.Dataset(urls).feed(4))

    def test_bad_samples_are_replaced_within_their_step(self, urls):
        def check(sample):
            if sample["__key__"] == KEYS[1]:
                raise ValueError("is bad")
            return sample

        feed = sb.Dataset(urls).map(check).feed(4, last="drop")
        assert next(iter(batches_of(feed))) == [KEYS[0], KEYS[2], KEYS[2], KEYS[3]]
        assert [(one.position, one.key) for one in feed.skipped] == [(1, KEYS[1])]
        with pytest.raises(SampleError, match="is bad"):
            batches_of(sb.Dataset(urls).map(check).feed(4, max_bad=0))

    def test_only_the_fields_that_are_wanted_are_there(self, urls):
        for batch in sb.Dataset(urls).fields("cls").feed(1):
            assert sorted(batch[0]) == ["__key__", "__url__", "cls"]

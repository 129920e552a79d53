"""Bags of a data set: one partition a run of its index, read as it is computed."""

from __future__ import annotations

import pickle
from itertools import chain, islice

import numpy as np
import pytest

import shardbuild as sb
from shardbuild.errors import UsageError
from shardbuild.train.bag import to_bag

NUM_SAMPLES = 20


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("bag")
    with sb.ShardWriter(f"{folder}/a-%06d.tar", maxcount=6) as writer:
        for number in range(NUM_SAMPLES):
            writer.write({"__key__": f"{number:02d}", "cls": number})
    return f"{folder}/a.json"


def numbers(url: str) -> sb.Dataset:
    return sb.Dataset(url).decode().map(lambda sample: sample["cls"])


def partitions(bag, scheduler: str = "sync"):
    return bag.map_partitions(lambda part: [list(part)]).compute(scheduler=scheduler)


def test_a_partition_is_a_shard_unless_you_say_how_many(url):
    by_shard = partitions(numbers(url).to_bag(), "processes")
    assert [len(part) for part in by_shard] == [6, 6, 6, 2]
    for npartitions in (1, 3, 7, NUM_SAMPLES):
        found = partitions(numbers(url).to_bag(npartitions))
        assert list(chain(*found)) == list(range(NUM_SAMPLES))
        sizes = {len(part) for part in found}
        assert len(found) == npartitions
        assert max(sizes) - min(sizes) <= 1


def test_a_selection_is_what_it_holds(url):
    def is_odd(columns):
        return np.array([int(key) % 2 == 1 for key in columns.key])

    odd = numbers(url).where(is_odd)
    assert odd.to_bag(2).compute(scheduler="sync") == list(range(1, NUM_SAMPLES, 2))
    assert odd[2:5].to_bag().compute(scheduler="sync") == [5, 7, 9]
    assert odd[:0].to_bag().compute(scheduler="sync") == []


def test_a_task_reads_its_run_alone_whatever_its_worker_is_called(url, monkeypatch):
    bag = numbers(url).to_bag(4)
    for name, value in {
        "RANK": 1,
        "WORLD_SIZE": 2,
        "WORKER": 1,
        "NUM_WORKERS": 2,
    }.items():
        monkeypatch.setenv(name, str(value))
    assert bag.compute(scheduler="sync") == list(range(NUM_SAMPLES))


def test_stages_that_drop_and_repeat_are_applied(url):
    dataset = numbers(url).select(lambda number: number % 3 == 0).repeat(2)
    found = dataset.to_bag(1).compute(scheduler="sync")
    assert found == list(range(0, NUM_SAMPLES, 3)) * 2


def test_a_partition_is_read_as_it_is_taken(url):
    taken = []

    def note(number: int) -> int:
        taken.append(number)
        return number

    bag = numbers(url).map(note).to_bag(1).map_partitions(lambda part: islice(part, 3))
    assert bag.compute(scheduler="sync") == [0, 1, 2]
    assert len(taken) <= 4


def test_a_partition_tells_a_task_little(url):
    bag = sb.Dataset(url).to_bag(NUM_SAMPLES)
    assert len(pickle.dumps(bag)) < 20_000


@pytest.mark.parametrize("npartitions", [0, -1, NUM_SAMPLES + 1])
def test_more_partitions_than_samples_are_refused(url, npartitions):
    with pytest.raises(UsageError, match="there are 20 samples"):
        to_bag(sb.Dataset(url), npartitions)


def test_without_an_index_there_are_no_runs(tmp_path):
    with sb.TarWriter(f"{tmp_path}/a.tar") as writer:
        writer.write({"__key__": "a", "cls": 1})
    with pytest.raises(UsageError, match="index"):
        sb.Dataset(f"{tmp_path}/a.tar").to_bag()

"""Each shard is read by one process, whoever tells which process this is."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.errors import UsageError
from shardbuild.streams.splitters import (
    Place,
    current_place,
    single_node_only,
    split,
    split_by_node,
    split_by_worker,
)

URLS = [f"{i}.tar" for i in range(7)]


@pytest.fixture(autouse=True)
def _alone(monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "WORKER", "NUM_WORKERS"):
        monkeypatch.delenv(name, raising=False)


def place_in(monkeypatch, **variables: object) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


@given(st.lists(st.integers(), max_size=30), st.integers(1, 9))
def test_parts_are_all_and_even(urls, world) -> None:
    parts = [list(split(urls, rank, world)) for rank in range(world)]
    assert sorted(itertools.chain(*parts)) == sorted(urls)
    assert len(parts[0]) - len(parts[-1]) in (0, 1)


@pytest.mark.parametrize(("rank", "world"), [(-1, 2), (2, 2), (0, 0)])
def test_a_part_that_is_none_is_refused(rank: int, world: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        split(URLS, rank, world)


def test_endless_urls_are_split() -> None:
    assert list(itertools.islice(split(itertools.count(), 1, 3), 3)) == [1, 4, 7]


def test_alone_all_is_ours() -> None:
    assert current_place() == Place(0, 1, 0, 1)
    for splitter in (split_by_node, split_by_worker, single_node_only):
        assert list(splitter(URLS)) == URLS


def test_nodes_and_workers_are_told_by_the_environment(monkeypatch) -> None:
    seen: list[str] = []
    for rank, worker in itertools.product(range(2), range(3)):
        place_in(monkeypatch, RANK=rank, WORLD_SIZE=2, WORKER=worker, NUM_WORKERS=3)
        assert current_place() == Place(rank, 2, worker, 3)
        seen += split_by_worker(split_by_node(URLS))
    assert sorted(seen) == URLS


def test_several_nodes_have_to_be_provided_for(monkeypatch) -> None:
    place_in(monkeypatch, RANK=1, WORLD_SIZE=2)
    with pytest.raises(UsageError, match="there are 2 nodes"):
        single_node_only(URLS)


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("x", "2"), ("-1", "2")])
def test_an_environment_that_makes_no_sense_is_refused(
    monkeypatch, rank, world
) -> None:
    place_in(monkeypatch, RANK=rank, WORLD_SIZE=world)
    with pytest.raises(UsageError, match="RANK"):
        current_place()


def test_half_an_environment_is_none(monkeypatch) -> None:
    place_in(monkeypatch, RANK=1, NUM_WORKERS=3)
    assert current_place() == Place()


def test_the_first_worker_warns_of_idle_ones(monkeypatch) -> None:
    place_in(monkeypatch, WORKER=0, NUM_WORKERS=8)
    with pytest.warns(UserWarning, match="8 workers for 7 shards"):
        assert list(split_by_worker(URLS)) == URLS[:1]
    place_in(monkeypatch, WORKER=7)
    assert list(split_by_worker(URLS)) == []


PLACES = """
import sys
import torch.distributed as distributed
from torch.utils.data import DataLoader, IterableDataset
from shardbuild.streams.splitters import current_place, split_by_node

class Places(IterableDataset):
    def __iter__(self):
        yield current_place()

is_worker, is_node, meeting = eval(sys.argv[1]), eval(sys.argv[2]), sys.argv[3]
if is_node:
    distributed.init_process_group("gloo", f"file://{meeting}", rank=0, world_size=1)
place = current_place()
if is_worker:
    place = list(DataLoader(Places(), batch_size=None, num_workers=2))[1]
print(place.rank, place.world_size, place.worker, place.num_workers)
if is_node:
    group = distributed.new_group([0])
    assert list(split_by_node("abcdefg", group)) == list("abcdefg")
    distributed.destroy_process_group()
else:
    assert list(split_by_node("abcdefg")) == ["g"]
"""


@pytest.mark.parametrize(
    ("is_worker", "is_node", "expected"),
    [
        (True, True, "0 1 1 2"),
        (True, False, "6 7 1 2"),
        (False, True, "0 1 8 9"),
        (False, False, "6 7 8 9"),
    ],
)
def test_torch_is_asked_before_the_environment(
    tmp_path, is_worker: bool, is_node: bool, expected: str
) -> None:
    places = {"RANK": "6", "WORLD_SIZE": "7", "WORKER": "8", "NUM_WORKERS": "9"}
    arguments = [str(is_worker), str(is_node), str(tmp_path / "meeting")]
    found = subprocess.run(
        [sys.executable, "-c", PLACES, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **places},
        cwd=Path(__file__).parents[1],
    )
    assert found.stdout.strip() == expected


def test_nothing_imports_torch() -> None:
    script = (
        "import sys; from shardbuild.streams import splitters;"
        "splitters.current_place(); print('torch' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout == "False\n"

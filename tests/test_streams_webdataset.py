"""Where webdataset 1.0 is right, we do as it does: the same samples go in."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.shards.shardwriter import ShardWriter
from shardbuild.streams import curried, filters
from shardbuild.streams.mixing import RoundRobin
from shardbuild.streams.splitters import split_by_node, split_by_worker
from shardbuild.streams.tariterators import (
    group_by_keys,
    tar_file_expander,
    url_opener,
)
from shardbuild.train.dataset import Dataset

# webdataset leaves the files that it reads to the garbage collector.
leaking_peer = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

SAMPLES: list[dict[str, Any]] = [
    {"__key__": f"d/{i}", "__url__": "x.tar", "a.jpg": b"a", "b.png": b"b", "cls": i}
    for i in range(7)
]
TUPLES = [(i, str(i), [i]) for i in range(7)]
ARRAYS = [(np.full((2, 3), i), float(i), {"i": i}) for i in range(7)]


@pytest.fixture(scope="module")
def wds() -> Any:
    import webdataset

    return webdataset


def plain(value: Any) -> Any:
    """Something that can be compared: arrays as lists."""
    if isinstance(value, np.ndarray):
        return ["array", value.dtype.str, value.tolist()]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(plain, value)]
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return value


# Name: the samples, then arguments and options of a stage.
CASES: dict[str, tuple[Any, ...]] = {
    "select": (SAMPLES, lambda s: s["cls"] % 2),
    "map": (SAMPLES, lambda s: {"n": s["cls"]} if s["cls"] else None),
    "rename": (SAMPLES, {"image": "c.jpg;a.jpg", "n": "cls"}),
    "rename drop": (SAMPLES, {"keep": False, "image": "c.jpg;a.jpg"}),
    "rename_keys": (SAMPLES, ("y", "cls"), {"image": "*.p?g", "any": "a.*"}),
    "rename_keys keep": (SAMPLES, {"image": "*.jpg", "keep_unselected": True}),
    "rename_keys loose": (
        SAMPLES,
        {"x": "*.*", "y": "*.gif", "must_match": False, "duplicate_is_error": False},
    ),
    "extract_keys": (SAMPLES, "*.jpg;*.gif", "cls"),
    "extract_keys dot": (SAMPLES, ".cls", "*.p?g"),
    "extract_keys loose": (
        SAMPLES,
        "*.gif",
        "*.*",
        {"ignore_missing": True, "duplicate_is_error": False},
    ),
    "associate": (SAMPLES, {"d/3": {"x": 1}}),
    "associate by function": (SAMPLES, lambda key: {"twice": key * 2}),
    "map_dict": (SAMPLES, {"cls": str, "a.jpg": len}),
    "to_tuple": (SAMPLES, "c.jpg;a.jpg", "cls"),
    "to_tuple text": (SAMPLES, "c.jpg;a.jpg cls __key__"),
    "to_tuple missing": (SAMPLES, "x", "cls", {"missing_is_error": False}),
    "map_tuple": (TUPLES, None, int),
    "map_tuple longer": (TUPLES, str, int, len, len),
    "batched": (TUPLES, 3),
    "batched arrays": (ARRAYS, 3),
    "batched whole": (ARRAYS, 3, {"partial": False}),
    "batched dicts": (SAMPLES, 2),
    "batched lists": (TUPLES, 3, None),
    "unbatched": ([([1, 2], ["a", "b"])],),
    "unbatched dicts": ([{"x": [1, 2], "y": "ab"}],),
    "unlisted": ([[1, 2], [3]],),
    "slice": (TUPLES, 1, 6, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_stages_give_the_same(wds, case: str) -> None:
    samples, *arguments = CASES[case]
    name = case.partition(" ")[0]
    options = {}
    if arguments and isinstance(arguments[-1], dict) and name != "associate":
        options = arguments.pop()
    theirs = getattr(wds.filters, name)(*arguments, **options)
    ours = getattr(curried, name)(*arguments, **options)
    expected = list(theirs(iter(copy.deepcopy(samples))))
    found = list(ours(iter(copy.deepcopy(samples))))
    assert plain(found) == plain(expected)
    assert expected


@given(
    st.lists(st.integers(), max_size=40),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(0, 9),
)
def test_shuffling_by_one_generator_gives_the_same(
    numbers, bufsize, initial, seed
) -> None:
    import webdataset

    theirs = webdataset.filters.shuffle(bufsize, initial, rng=random.Random(seed))
    ours = filters.shuffle(numbers, bufsize, initial, rng=random.Random(seed))
    assert list(ours) == list(theirs(iter(numbers)))


def test_info_writes_the_same(wds, capsys) -> None:
    import sys

    options: dict[str, Any] = {"n": 2, "every": 3, "width": 5, "name": "x"}
    list(wds.filters.info(stream=sys.stderr, **options)(iter(SAMPLES)))
    expected = capsys.readouterr().err
    list(filters.info(SAMPLES, **options))
    assert capsys.readouterr().err == expected


def test_log_keys_writes_the_same(wds, tmp_path) -> None:
    list(wds.filters.log_keys(str(tmp_path / "theirs"))(iter(SAMPLES)))
    list(filters.log_keys(SAMPLES, str(tmp_path / "ours")))
    assert (tmp_path / "ours").read_text() == (tmp_path / "theirs").read_text()


def test_mixing_in_turn_gives_the_same(wds) -> None:
    for longest in (False, True):
        theirs = wds.mix.RoundRobin(["abcd", "x", "12"], longest=longest)
        assert list(RoundRobin(["abcd", "x", "12"], longest)) == list(theirs)


def test_splitting_gives_the_same(wds, monkeypatch) -> None:
    urls = [f"{i}.tar" for i in range(11)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("NUM_WORKERS", "3")
    for rank in range(2):
        for worker in range(3):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORKER", str(worker))
            theirs = wds.split_by_worker(wds.split_by_node(urls))
            assert list(split_by_worker(split_by_node(urls))) == list(theirs)


@pytest.fixture(scope="module")
def urls(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("shards")
    with ShardWriter(f"{folder}/x-%06d.tar", maxcount=4) as writer:
        for number in range(10):
            fields = {"cls": number, "txt": f"ä{number}", "json": {"n": number}}
            writer.write({"__key__": f"d/{number}", **fields})
    return sorted(map(str, folder.glob("*.tar")))


def without_paths(samples: Any) -> list[Any]:
    """Samples without where webdataset keeps them on disk."""
    return [
        {name: value for name, value in sample.items() if name != "__local_path__"}
        for sample in samples
    ]


@leaking_peer
def test_data_sets_give_the_same(wds, urls) -> None:
    theirs = wds.WebDataset(urls, shardshuffle=False)
    ours = Dataset(urls)
    assert without_paths(ours) == without_paths(theirs)
    expected = list(theirs.decode().to_tuple("txt", "json", "cls").batched(3))
    found = list(ours.decode().to_tuple("txt", "json", "cls").batched(3))
    assert plain(found) == plain(expected)
    assert len(found) == 4


@leaking_peer
def test_stages_of_reading_give_the_same(wds, urls) -> None:
    theirs = wds.tariterators
    sources = [{"url": url} for url in urls]
    expected = theirs.group_by_keys(
        theirs.tar_file_expander(theirs.url_opener(copy.deepcopy(sources)))
    )
    found = group_by_keys(tar_file_expander(url_opener(sources)))
    assert list(found) == without_paths(expected)

"""Finding keys that come twice, exactly, in whatever memory there is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.errors import StorageError
from shardbuild.shards import uniquekeys
from shardbuild.shards.uniquekeys import UniqueKeys

shards = st.lists(st.lists(st.text("abé/", max_size=3), max_size=30), max_size=6)


def expected_duplicates(shards):
    first: dict[str, tuple[int, int]] = {}
    found = []
    for number, keys in enumerate(shards):
        for position, key in enumerate(keys):
            place = first.setdefault(key, (number, position))
            if place != (number, position):
                found.append((number, position, key, *place))
    return found


@settings(max_examples=60, deadline=None)
@given(shards, st.sampled_from([16, 400, 2000, 1 << 20]))
def test_exactly_those_keys_are_found_that_came_before(given_shards, memory_bytes):
    with UniqueKeys(memory_bytes) as keys:
        for number, shard in enumerate(given_shards):
            keys.add(number, shard)
        found = sorted(keys.duplicates())
    assert found == expected_duplicates(given_shards)


def test_what_memory_does_not_hold_goes_to_files_that_are_deleted(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = [f"{i % 15_000:08d}" for i in range(20_000)]
    with UniqueKeys(memory_bytes=400_000) as keys:
        keys.add(0, names)
        assert list(tmp_path.iterdir())
        assert len(list(keys.duplicates())) == 5000
    assert not list(tmp_path.iterdir())


def test_equal_crcs_are_no_equal_keys(monkeypatch):
    monkeypatch.setattr(uniquekeys, "crc32", lambda raw: 7)
    with UniqueKeys(memory_bytes=400) as keys:
        keys.add(0, [str(i) for i in range(100)])
        keys.add(1, ["5"])
        assert [tuple(each) for each in keys.duplicates()] == [(1, 0, "5", 0, 5)]


def test_a_disk_that_cannot_take_the_keys_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with UniqueKeys(memory_bytes=4) as keys:
        keys.add(0, ["a"])
        [folder] = tmp_path.iterdir()
        for path in folder.iterdir():
            path.unlink()
        Path(folder).rmdir()
        with pytest.raises(StorageError, match="cannot be kept here"):
            keys.add(0, ["b"])

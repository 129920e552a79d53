"""Extents of many containers, brought into their order a window at a time."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardbuild.build.rows import EXTENT
from shardbuild.build.steps import window_bytes
from shardbuild.build.windows import (
    Containers,
    fill_window,
    read_windows,
    split_windows,
)
from shardbuild.errors import StorageError
from shardbuild.storage import metered, write_bytes


def make_containers(folder, sizes, seed=7):
    """Files of random bytes; what is in each."""
    rng = random.Random(seed)
    contents = [rng.randbytes(size) for size in sizes]
    for number, data in enumerate(contents):
        write_bytes(f"{folder}/{number}", data)
    return contents


def open_in(folder):
    return Containers(lambda number: f"{folder}/{number}")


def extents_of(places):
    return np.array(places, EXTENT)


def naive(contents, places):
    return b"".join(contents[c][start : start + num] for c, start, num in places)


def read_all(places, containers, size):
    """The windows as bytes: each is valid until the next one only."""
    windows = read_windows(extents_of(places), containers, size)
    return [(bytes(w), e.tolist(), s.tolist()) for w, e, s in windows]


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


# --- dividing --------------------------------------------------------------------


def greedy_windows(sizes, most):
    windows, start, held = [], 0, 0
    for i, size in enumerate(sizes):
        if i > start and held + size > most:
            windows.append((start, i))
            start, held = i, 0
        held += size
    return [*windows, (start, len(sizes))] if sizes else []


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 100))
@example([0, 0, 0], 1)
@example([101, 0, 0, 101], 100)
def test_a_window_is_as_much_as_fits_or_one_extent(sizes, most):
    windows = split_windows(np.array(sizes, np.uint64), most)
    assert windows == greedy_windows(sizes, most)
    for start, stop in windows:
        assert stop == start + 1 or sum(sizes[start:stop]) <= most


def test_windows_of_terabytes_do_not_overflow():
    sizes = np.full(10_000, 2**31, np.uint64)
    windows = split_windows(sizes, 2**40)
    assert windows == [(n, min(n + 512, 10_000)) for n in range(0, 10_000, 512)]


# --- reading -----------------------------------------------------------------------

SIZES = [0, 1, 700, 5000]
PLACES = st.lists(
    st.integers(0, len(SIZES) - 1).flatmap(
        lambda number: st.integers(0, SIZES[number]).flatmap(
            lambda start: st.tuples(
                st.just(number), st.just(start), st.integers(0, SIZES[number] - start)
            )
        )
    ),
    max_size=30,
)


@given(PLACES, st.integers(1, 6000))
@example([(2, 0, 10), (2, 0, 10), (2, 5, 10), (2, 3, 2)], 100)
@example([(0, 0, 0)], 1)
def test_windows_hold_the_bytes_in_the_order_of_the_extents(places, size):
    with tempfile.TemporaryDirectory() as folder:
        contents = make_containers(folder, SIZES)
        with open_in(folder) as containers:
            windows = read_all(places, containers, size)
    assert b"".join(window for window, _, _ in windows) == naive(contents, places)
    assert [place for _, mine, _ in windows for place in mine] == places
    for window, mine, starts in windows:
        assert starts == [0, *np.cumsum([num for _, _, num in mine]).tolist()]
        assert len(window) == starts[-1]
        assert len(window) <= size or len(mine) == 1


def test_a_window_is_read_in_rising_offsets_by_few_requests(tmp_path):
    contents = make_containers(tmp_path, [100_000] * 3)
    places = [(c, start, 100) for c in range(3) for start in range(0, 100_000, 100)]
    random.Random(7).shuffle(places)
    extents = extents_of(places)
    starts = np.arange(len(places) + 1) * 100
    window = memoryview(bytearray(300_000))
    with open_in(tmp_path) as containers, metered() as meter:
        fill_window(window, extents, starts, containers)
    assert bytes(window) == naive(contents, places)
    assert meter.read_bytes == 300_000
    assert meter.read_requests == 3


def test_no_more_than_one_window_is_held(tmp_path):
    make_containers(tmp_path, [1 << 20])
    places = [(0, start, 1 << 10) for start in range(0, 1 << 20, 1 << 10)]
    with open_in(tmp_path) as containers:
        windows = [w for w, _, _ in read_windows(extents_of(places), containers, 4096)]
    assert len(windows) == 256
    assert len({id(window.obj) for window in windows}) == 1
    assert memoryview(windows[0].obj).nbytes == 4096


def test_nothing_to_read_is_no_window(tmp_path):
    with open_in(tmp_path) as containers:
        assert read_all([], containers, 100) == []


# --- containers --------------------------------------------------------------------


def test_few_containers_are_open_at_once(tmp_path):
    contents = make_containers(tmp_path, [10] * 600)
    places = [(number % 600, number % 7, 3) for number in range(1300)]
    before = open_files()
    with open_in(tmp_path) as containers:
        # Windows of some extents, each of another container.
        windows = read_all(places, containers, 30)
        assert before + 10 < open_files() <= before + 257
    assert open_files() == before
    assert b"".join(window for window, _, _ in windows) == naive(contents, places)


def test_containers_are_closed_after_an_error(tmp_path):
    make_containers(tmp_path, [10])
    before = open_files()
    with pytest.raises(StorageError) as raised, open_in(tmp_path) as containers:
        read_all([(0, 0, 10), (1, 0, 10)], containers, 100)
    assert raised.value.url == f"{tmp_path}/1"
    assert open_files() == before


def test_a_container_that_was_cut_is_an_error_that_names_it(tmp_path):
    make_containers(tmp_path, [100, 100])
    os.truncate(tmp_path / "1", 60)
    with open_in(tmp_path) as containers:
        read_all([(0, 0, 100), (1, 0, 60)], containers, 1000)
        with pytest.raises(StorageError) as raised:
            read_all([(1, 50, 20)], containers, 1000)
    assert raised.value.url == f"{tmp_path}/1"


def test_windows_are_small_on_disk_and_large_in_a_store():
    memory = 128 << 20
    few, many = ([(n, 0, 1) for n in range(count)] for count in (10, 10_000))
    local = Containers(lambda number: f"in/{number}.tar")
    store = Containers(lambda number: f"s3://b/{number}.tar")
    assert local.window_bytes(memory, extents_of(few)) == window_bytes(memory, 10)
    assert local.window_bytes(memory, extents_of(few)) < window_bytes(memory)
    assert local.window_bytes(memory, extents_of(many)) == window_bytes(memory)
    assert store.window_bytes(memory, extents_of(few)) == window_bytes(memory)
    assert store.window_bytes(memory, extents_of([])) == window_bytes(memory)


def test_it_is_the_same_in_a_store(moto_bucket):
    options = moto_bucket.storage_options
    rng = random.Random(7)
    contents = [rng.randbytes(200_000) for _ in range(2)]
    for number, data in enumerate(contents):
        write_bytes(f"{moto_bucket.url}/{number}", data, storage_options=options)
    places = [(rng.randrange(2), rng.randrange(199_000), 1000) for _ in range(300)]
    found = Containers(lambda n: f"{moto_bucket.url}/{n}", storage_options=options)
    with found as containers, metered() as meter:
        windows = read_all(places, containers, 100_000)
    assert b"".join(window for window, _, _ in windows) == naive(contents, places)
    # Neighbours are fetched together: not a request an extent.
    assert meter.read_requests < 50

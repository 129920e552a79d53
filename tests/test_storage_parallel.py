"""Calls in threads: in order, bounded, counted for the caller."""

from __future__ import annotations

import threading

import pytest

from shardbuild.storage import map_parallel, metered, read_bytes, write_bytes


def test_results_come_in_order_whoever_is_first():
    second_done = threading.Event()

    def call(number: int) -> int:
        if number == 0:
            assert second_done.wait(60)
        if number == 1:
            second_done.set()
        return number

    assert list(map_parallel(call, range(5), num_parallel=2)) == [0, 1, 2, 3, 4]


def test_no_more_is_taken_than_is_under_way():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = map_parallel(lambda number: number, items(), num_parallel=4)
    for done in range(10):
        assert next(results) == done
        assert len(taken) <= done + 5
    results.close()
    assert len(taken) <= 14


def test_what_the_calls_move_counts_as_the_callers():
    for number in range(6):
        write_bytes(f"memory://parallel/{number}", bytes(number))

    def read(number: int) -> bytes:
        return read_bytes(f"memory://parallel/{number}")

    with metered() as meter:
        sizes = [len(data) for data in map_parallel(read, range(6), num_parallel=3)]
    assert sizes == [0, 1, 2, 3, 4, 5]
    assert (meter.read_requests, meter.read_bytes) == (6, 15)


def test_the_first_error_comes_in_its_place_and_ends_the_rest():
    started = []

    def call(number: int) -> int:
        started.append(number)
        if number in (3, 4):
            raise ValueError(number)
        return number

    results = map_parallel(call, range(1000), num_parallel=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert max(started) <= 5


def test_nothing_to_do():
    assert list(map_parallel(str, [])) == []

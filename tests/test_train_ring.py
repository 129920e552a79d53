"""Objects that go from one process to another through memory."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.train.ring import Ring


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3_000_000)), max_size=12),
)
def test_all_that_fits_comes_out_in_turn_whatever_its_size(num_slots, moves) -> None:
    """Puts, each followed by so many takes; sizes make slots grow in between."""
    ring = Ring(num_slots)
    waiting: list[Any] = []
    for number, (num_takes, size) in enumerate(moves):
        value = {"number": number, "data": bytes([number]) * size}
        spot = ring.put(value)
        assert (spot is None) == (len(waiting) == num_slots)
        if spot is not None:
            waiting.append((spot, value))
        for spot, value in waiting[:num_takes]:
            assert ring.take(spot) == value
        del waiting[:num_takes]
    for spot, value in waiting:
        assert ring.take(spot) == value


def test_what_was_not_taken_is_forgotten_on_demand() -> None:
    ring = Ring(1)
    assert ring.put("a") is not None
    assert ring.put("b") is None
    ring.reset()
    spot = ring.put("c")
    assert spot is not None
    assert ring.take(spot) == "c"


def test_what_was_taken_stays_when_its_slot_is_filled_again() -> None:
    ring = Ring(1)
    taken = []
    for number in range(4):
        spot = ring.put(np.full(1000, number))
        assert spot is not None
        taken.append(ring.take(spot))
    assert [array[0] for array in taken] == [0, 1, 2, 3]


def send(ring: Ring, spots: Any) -> None:
    for number in range(6):
        spot = None
        while spot is None:
            spot = ring.put((number, b"x" * 10**number))
        spots.put(spot)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_however_started_has_the_same_memory(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    ring, spots = Ring(2), context.SimpleQueue()
    child = context.Process(target=send, args=(ring, spots))
    child.start()
    found = [ring.take(spots.get()) for _ in range(6)]
    child.join()
    assert found == [(number, b"x" * 10**number) for number in range(6)]


def test_a_ring_leaves_neither_a_descriptor_nor_a_name() -> None:
    def names(folder: str) -> set[str]:
        return {path.name for path in Path(folder).iterdir()}

    before, shared = names("/proc/self/fd"), names("/dev/shm")
    rings = [Ring(2) for _ in range(5)]
    for ring in rings:
        ring.put(b"x" * 10_000)
    assert names("/dev/shm") == shared
    del ring, rings
    assert names("/proc/self/fd") == before

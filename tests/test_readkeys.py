"""Keys that come again."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from shardbuild.shards.readkeys import KeyLedger

batches = st.lists(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1))


@given(batches, st.booleans())
def test_are_found_where_they_come(some: list[list[str]], is_sorted: bool) -> None:
    ledger = KeyLedger()
    seen: set[str] = set()
    for drawn in some:
        batch = sorted(drawn) if is_sorted else drawn
        for key in batch:
            assert (key in ledger) == (key in seen)
        fresh = 0
        while fresh < len(batch) and batch[fresh] not in seen:
            seen.add(batch[fresh])
            fresh += 1
        assert ledger.add(batch) == fresh


@given(batches)
def test_growing_keys_are_all_kept(some: list[list[str]]) -> None:
    ledger = KeyLedger()
    keys = sorted({key for batch in some for key in batch})
    for start in range(0, len(keys), 3):
        batch = keys[start : start + 3]
        assert ledger.add(batch) == len(batch)
    assert ledger.add(["0"]) == 1  # smaller than all: from now on a set
    assert all(key in ledger for key in keys)
    assert "c" not in ledger


def test_growing_keys_take_little_memory() -> None:
    tracemalloc.start()
    try:
        ledger = KeyLedger()
        for start in range(0, 200_000, 500):
            ledger.add([f"{i:09}" for i in range(start, start + 500)])
        assert tracemalloc.get_traced_memory()[0] < 12 * 200_000
    finally:
        tracemalloc.stop()

"""Several sources as one."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.streams.together import (
    read_in_order,
    read_in_turns,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from shardbuild.shards.samples import Sample


class Sources:
    """Sources of numbered samples that know how many are open, and were read."""

    def __init__(self, sizes: list[int], num_bytes: int = 10) -> None:
        self.sizes = sizes
        self.num_open = 0
        self.most_open = 0
        self.num_read = 0
        self._data = b"x" * num_bytes
        self._lock = threading.Lock()

    def openers(self) -> list[Callable[[], AbstractContextManager[Iterator[Sample]]]]:
        return [partial(self._open, i) for i in range(len(self.sizes))]

    @contextmanager
    def _open(self, number: int) -> Iterator[Iterator[Sample]]:
        with self._lock:
            self.num_open += 1
            self.most_open = max(self.most_open, self.num_open)
        try:
            yield self._samples(number)
        finally:
            with self._lock:
                self.num_open -= 1

    def _samples(self, number: int) -> Iterator[Sample]:
        for position in range(self.sizes[number]):
            with self._lock:
                self.num_read += 1
            yield {"__key__": f"{number}/{position}", "x": self._data}

    def keys(self) -> list[str]:
        return [f"{n}/{i}" for n, size in enumerate(self.sizes) for i in range(size)]


def keys_of(samples: Iterator[Sample]) -> list[str]:
    return [sample["__key__"] for sample in samples]


class TestInOrder:
    @given(st.lists(st.integers(0, 9), max_size=9), st.integers(1, 5))
    def test_all_samples_come_in_the_order_of_the_sources(self, sizes, num_parallel):
        sources = Sources(sizes)
        read = read_in_order(sources.openers(), num_parallel, buffer_bytes=50)
        assert keys_of(read) == sources.keys()
        assert sources.num_open == 0
        assert sources.most_open <= num_parallel

    def test_more_sources_than_workers_lose_nothing(self):
        sources = Sources([30] * 40)
        assert keys_of(read_in_order(sources.openers(), 3)) == sources.keys()

    @pytest.mark.parametrize("num_parallel", [1, 4])
    def test_leaving_early_closes_all(self, num_parallel):
        sources = Sources([1000] * 8, num_bytes=10_000)
        read = read_in_order(sources.openers(), num_parallel, buffer_bytes=100_000)
        assert next(read)["__key__"] == "0/0"
        read.close()
        assert sources.num_open == 0

    def test_no_more_is_read_ahead_than_the_buffer_holds(self):
        sources = Sources([1000] * 4, num_bytes=100_000)
        read = read_in_order(sources.openers(), 4, buffer_bytes=4_000_000)
        next(read)
        read.close()
        # One buffer's worth, what was taken of it, and of each source a batch more.
        assert sources.num_read <= 40 + 3 + 4 * 3

    def test_an_error_comes_in_its_place(self):
        @contextmanager
        def broken() -> Iterator[Iterator[Sample]]:
            yield self._breaks()

        sources = Sources([5, 5])
        first, second = sources.openers()
        read = read_in_order([first, broken, second], 3)
        seen = [next(read)["__key__"] for _ in range(6)]
        with pytest.raises(OSError, match="gone"):
            next(read)
        assert seen == [*[f"0/{i}" for i in range(5)], "broken/0"]

    def _breaks(self) -> Iterator[Sample]:
        yield {"__key__": "broken/0"}
        raise OSError("gone")


class TestInTurns:
    @given(st.lists(st.integers(0, 9), max_size=9), st.integers(1, 5))
    def test_nothing_is_lost(self, sizes, num_open):
        sources = Sources(sizes)
        read = keys_of(read_in_turns(sources.openers(), num_open))
        assert Counter(read) == Counter(sources.keys())
        assert sources.num_open == 0
        assert sources.most_open <= num_open

    def test_leaving_early_closes_all(self):
        sources = Sources([9] * 5)
        read = read_in_turns(sources.openers(), 3)
        assert [next(read)["__key__"] for _ in range(4)] == ["0/0", "1/0", "2/0", "0/1"]
        read.close()
        assert sources.num_open == 0

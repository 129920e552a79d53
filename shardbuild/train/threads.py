"""Work in threads whose results come in the order of the work."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["map_ordered"]

T = TypeVar("T")
R = TypeVar("R")


def map_ordered(
    function: Callable[[T], R],
    items: Generator[list[T]],
    *,
    num_threads: int,
    num_ahead: int = 0,
) -> Generator[list[R]]:
    """Apply a function to each item of lists: a list of results for each, in order.

    At most ``num_ahead`` lists are under way beside the one that is waited for;
    without threads, none. An error is raised in its turn. When the generator is
    closed, what has not begun does not begin, and what has is waited for: no thread
    is left. The items are closed too.

    >>> items = (list(text) for text in ("ab", "c"))
    >>> list(map_ordered(str.upper, items, num_threads=2, num_ahead=1))
    [['A', 'B'], ['C']]
    """
    with closing(items):
        if not num_threads:
            for pieces in items:
                yield [function(piece) for piece in pieces]
            return
        under_way: deque[list[Future[R]]] = deque()
        pool = ThreadPoolExecutor(num_threads, thread_name_prefix="shardbuild-feed")
        try:
            for pieces in items:
                under_way.append([pool.submit(function, piece) for piece in pieces])
                if len(under_way) > num_ahead:
                    yield [future.result() for future in under_way.popleft()]
            while under_way:
                yield [future.result() for future in under_way.popleft()]
        finally:
            under_way.clear()
            pool.shutdown(wait=True, cancel_futures=True)

"""Small requests to a store, several at once: each alone is a wait for an answer."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from shardbuild.storage.meter import current_meter, metered

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future

    from shardbuild.storage.meter import Meter

__all__ = ["map_parallel"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_NUM_PARALLEL = 16


def map_parallel(
    call: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_parallel: int = _NUM_PARALLEL,
) -> Generator[Result, None, None]:
    """Like `map`, in order, with ``num_parallel`` calls under way in threads.

    No more items are taken, and no more results kept, than that. The storage I/O of
    the calls counts as the caller's. The first error is raised in its place; calls
    that are under way end, and no others start.

    >>> list(map_parallel(str.upper, ["a", "b", "c"], num_parallel=2))
    ['A', 'B', 'C']
    """

    def counted(item: Item) -> tuple[Result, Meter]:
        with metered() as meter:
            return call(item), meter

    waiting = iter(items)
    under_way: deque[Future[tuple[Result, Meter]]] = deque()
    meter = current_meter()
    with ThreadPoolExecutor(num_parallel) as pool:

        def submit(most: int) -> None:
            for item in islice(waiting, most):
                under_way.append(pool.submit(counted, item))

        try:
            submit(num_parallel)
            while under_way:
                result, moved = under_way.popleft().result()
                meter.add(moved)
                submit(1)
                yield result
        finally:
            for future in under_way:
                future.cancel()

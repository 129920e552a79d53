"""Several iterators of samples as one: one after the other, or in turns."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from shardbuild.shards.samples import Sample

    Opener = Callable[[], AbstractContextManager[Iterator[Sample]]]

__all__ = ["read_in_order", "read_in_turns"]

BUFFER_BYTES = 64 << 20
"""Most bytes that are read before they are wanted, but for one sample a source."""
_BATCH_BYTES = 256 << 10


def read_in_order(
    sources: Iterable[Opener],
    num_parallel: int = 1,
    *,
    buffer_bytes: int = BUFFER_BYTES,
) -> Generator[Sample]:
    """All samples of the first source, then of the second, and so on.

    With ``num_parallel`` above 1 as many sources are read at once, by threads; the
    samples and their order are the same, and so is the error of a source that
    fails: it comes after its samples. What is not wanted yet is held in at most
    ``buffer_bytes``.

    >>> from contextlib import nullcontext
    >>> sources = [lambda i=i: nullcontext(iter([{"__key__": f"{i}"}])) for i in (1, 2)]
    >>> [sample["__key__"] for sample in read_in_order(sources, 2)]
    ['1', '2']
    """
    if num_parallel < 2:
        for opener in sources:
            with opener() as samples:
                yield from samples
        return
    waiting = iter(sources)
    under_way: deque[_Channel] = deque()
    jobs: list[Future[None]] = []
    most = buffer_bytes // num_parallel
    with ThreadPoolExecutor(num_parallel) as pool:

        def start(count: int) -> None:
            for opener in islice(waiting, count):
                channel = _Channel(most)
                under_way.append(channel)
                jobs.append(pool.submit(_fill, channel, opener))

        try:
            start(num_parallel)
            while under_way:
                yield from under_way[0].samples()
                jobs.pop(0)
                under_way.popleft()
                start(1)
        finally:
            for channel in under_way:
                channel.close()


def _fill(channel: _Channel, opener: Opener) -> None:
    """Put the samples of a source into a channel, and then how it ended."""
    batch: list[Sample] = []
    num_bytes = 0
    ending: BaseException | None = None
    try:
        with opener() as samples:
            for sample in samples:
                batch.append(sample)
                num_bytes += _size(sample)
                if num_bytes >= _BATCH_BYTES:
                    if not channel.put(batch, num_bytes):
                        return
                    batch, num_bytes = [], 0
    except BaseException as error:  # noqa: BLE001 - raised again where it is read
        ending = error
    channel.put(batch, num_bytes)
    channel.end(ending)


def _size(sample: Sample) -> int:
    return sum(len(v) if isinstance(v, bytes | str) else 64 for v in sample.values())


class _Channel:
    """Batches of samples from one thread to another, of limited bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._batches: deque[tuple[list[Sample], int]] = deque()
        self._held = 0
        self._is_ended = False
        self._is_closed = False
        self._error: BaseException | None = None

    def put(self, batch: list[Sample], num_bytes: int) -> bool:
        """Hand on a batch; False if no more is wanted."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._is_closed
                    or not self._batches
                    or self._held + num_bytes <= self._max_bytes
                )
            )
            self._batches.append((batch, num_bytes))
            self._held += num_bytes
            self._changed.notify_all()
            return not self._is_closed

    def end(self, error: BaseException | None) -> None:
        """Say that no more comes, and why."""
        with self._changed:
            self._error = error
            self._is_ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Want no more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def samples(self) -> Iterator[Sample]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._batches or self._is_ended)
                if not self._batches:
                    break
                batch, num_bytes = self._batches.popleft()
                self._held -= num_bytes
                self._changed.notify_all()
            yield from batch
        if self._error is not None:
            raise self._error


def read_in_turns(sources: Iterable[Opener], num_open: int) -> Generator[Sample]:
    """One sample of each of ``num_open`` sources in turn; the next where one ends.

    >>> from contextlib import nullcontext
    >>> texts = ("abc", "xy", "m")
    >>> sources = [lambda t=t: nullcontext(iter(t)) for t in texts]
    >>> "".join(read_in_turns(sources, 2))
    'axbycm'
    """
    waiting = iter(sources)
    turns = deque(_opened(opener) for opener in islice(waiting, num_open))
    try:
        while turns:
            samples = turns.popleft()
            for sample in samples:
                turns.append(samples)
                yield sample
                break
            else:
                turns.extend(_opened(opener) for opener in islice(waiting, 1))
    finally:
        for samples in turns:
            samples.close()


def _opened(opener: Opener) -> Generator[Sample]:
    with opener() as samples:
        yield from samples

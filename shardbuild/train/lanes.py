"""Reading shards that have no index, in an order that any process can go on with.

Lanes walk through the shards, each through one after the other, and give a sample
each in turn. What comes next follows from the shards' order, the options and the
cursor alone; a cursor says in a few numbers where each lane stands.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np

from shardbuild.errors import ShardError, UsageError
from shardbuild.shards.hashing import text_hash
from shardbuild.shards.reader import read_lots
from shardbuild.shards.readfacts import ReadFacts
from shardbuild.storage.gopen import gopen_at
from shardbuild.storage.ranges import BUDGET_BYTES
from shardbuild.train.permutation import derived_keys, root_key

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, MutableMapping, Sequence

    from numpy.typing import NDArray

    from shardbuild.shards.index import ShardIndex
    from shardbuild.shards.readruns import Lot
    from shardbuild.shards.samples import KeyRule, Sample
    from shardbuild.storage.urlparts import StorageOptions

    Words = NDArray[np.uint64]

__all__ = ["Cursor", "LaneStream"]

Cursor = dict[str, Any]
"""Where a stream stands: plain numbers, texts, lists, and None, as JSON has them."""

_AT_ONCE: Final = 1024
"""Samples whose turns, or whose places in windows, are computed together."""


class LaneStream:
    """An iterator of the samples of an epoch, from where a cursor stands.

    Without ``shuffle`` shards are read one after the other. With it they are
    shuffled and dealt to as many lanes as may be open; each round takes one sample
    of each lane, in an order of its own, and a lane that is through leaves. In a
    lane, samples come by windows of ``block``, each shuffled.

    A plain shard of a local file or of a store is entered where its window begins;
    any other is read again, and what was given is left out. Each sample carries
    the url of its shard as ``__url__``. Memory: for each open shard a few MiB and
    a window of samples.

    >>> import tempfile
    >>> from shardbuild.shards.writer import TarWriter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     urls = [f"{folder}/{name}.tar" for name in "ab"]
    ...     for url in urls:
    ...         with TarWriter(url) as writer:
    ...             for key in "123":
    ...                 _ = writer.write({"__key__": url[-5] + key, "cls": 1})
    ...     with LaneStream(urls, seed=1, shuffle=True) as stream:
    ...         first = [next(stream)["__key__"] for _ in range(4)]
    ...         cursor = stream.cursor()
    ...     with LaneStream(urls, seed=1, shuffle=True, cursor=cursor) as stream:
    ...         first, [sample["__key__"] for sample in stream]
    (['a1', 'b2', 'a3', 'b3'], ['a2', 'b1'])

    Args:
        urls: The shards, in order.
        seed: Another seed, another order.
        epoch: Another epoch, another order.
        shuffle: Whether shards and samples are shuffled.
        open_shards: How many shards are read at once, if shuffled.
        block: How many neighbours of a shard are shuffled among each other.
        cursor: Where to go on: what `cursor` gave, of a stream with these options.
        storage_options: What to pass on to fsspec.
        key_rule: Where the key of a name ends.

    Raises:
        UsageError: An option is not positive, or the cursor is of another stream.
        ShardError: A shard is damaged, or its samples are not whole.
        StorageError: It cannot be read.
    """

    def __init__(  # noqa: PLR0913  # what an order depends on, and how to read
        self,
        urls: Sequence[str],
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = False,
        open_shards: int = 16,
        block: int = 16,
        cursor: Cursor | None = None,
        storage_options: StorageOptions | None = None,
        key_rule: KeyRule = "first-dot",
        learned: MutableMapping[int, ShardIndex] | None = None,
    ) -> None:
        for name, value in (("open_shards", open_shards), ("block", block)):
            if value < 1:
                raise UsageError(f"{name} {value}", "is not positive")
        num_lanes = min(open_shards, len(urls)) if shuffle else 1
        order = f"{len(urls)} {seed} {epoch} {shuffle} {num_lanes} {block} {key_rule}"
        self._name = f"{text_hash(order):016x}"
        self.learned = {} if learned is None else learned
        """The indexes of the shards that were read from their beginning to their end,
        by number. They say nothing of a shard's form (``canonical``)."""
        budget = BUDGET_BYTES // max(1, num_lanes)
        shards = _Shards(urls, storage_options, key_rule, budget, self.learned)
        if cursor is None:
            cursor = {"of": self._name, "round": 0, "after": -1}
            cursor["lanes"] = [_START] * num_lanes
        if cursor.get("of") != self._name:
            problem = "is of a stream of other shards, or with other options"
            raise UsageError("cursor", problem)
        self._walk: _InOrder | _InRounds
        if shuffle:
            name = f"{seed} {epoch}"
            self._walk = _InRounds(shards, name, block, cursor)
        else:
            self._walk = _InOrder(shards, cursor)
        self._samples = _closing(self._walk)

    def __iter__(self) -> Iterator[Sample]:
        return self._samples

    def __next__(self) -> Sample:
        return next(self._samples)

    def cursor(self) -> Cursor:
        """Where the stream stands, after the samples that it gave."""
        return {"of": self._name, **self._walk.cursor()}

    def close(self) -> None:
        """Close what is open; `cursor` and `learned` stay."""
        self._samples.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _closing(walk: _InOrder | _InRounds) -> Generator[Sample]:
    # Without a reference to the stream: what is forgotten is closed at once.
    with closing(walk):
        yield from walk.samples()


class _Place(NamedTuple):
    """Where a lane stands."""

    turn: int
    """The how-many-th of its shards it reads."""
    offset: int | None
    """Where in the tar its window begins; None if that cannot be entered there."""
    before: int
    """Samples of the shard that lie before the window."""
    given: int
    """Samples of the window that were given."""


_START: Final = _Place(0, 0, 0, 0)


class _Shards(NamedTuple):
    """The shards, and how they are read."""

    urls: Sequence[str]
    storage_options: StorageOptions | None
    key_rule: KeyRule
    budget_bytes: int
    learned: MutableMapping[int, ShardIndex]

    def lots(self, shard: int, place: _Place, facts: ReadFacts) -> Generator[Lot]:
        """Read a shard from where a window begins, or else from its beginning."""
        url, start = self.urls[shard], place.offset or 0
        with gopen_at(
            url,
            start,
            storage_options=self.storage_options,
            budget_bytes=self.budget_bytes,
        ) as stream:
            yield from read_lots(
                stream,
                url,
                start=start,
                key_rule=self.key_rule,
                facts=facts,
                on_index=partial(self.learned.__setitem__, shard),
            )

    def changed(self, shard: int, place: _Place) -> ShardError:
        """The error for a shard that has not what was given already."""
        problem = "has fewer samples than when the cursor was taken"
        return ShardError(self.urls[shard], problem, place.offset or 0)


class _InOrder:
    """All shards one after the other; each window is one sample."""

    def __init__(self, shards: _Shards, cursor: Cursor) -> None:
        self._shards = shards
        (place,) = cursor["lanes"]
        self._place = _Place(*place)
        self._lots: Generator[Lot] | None = None
        self._facts = ReadFacts()
        self._heads: list[int] = []
        self._base = 0
        """Samples of the shard that lie before those of ``_heads``."""
        self._count = 0
        """Samples given of those of ``_heads``; with none, ``_place`` holds."""

    def cursor(self) -> Cursor:
        return {"round": 0, "after": -1, "lanes": [list(self._stands())]}

    def _stands(self) -> _Place:
        if not self._count:
            return self._place
        last = self._count - 1
        offset = None if self._facts.compression else self._heads[last]
        return _Place(self._place.turn, offset, self._base + last, 1)

    def samples(self) -> Generator[Sample]:
        urls = self._shards.urls
        while self._place.turn < len(urls):
            url = urls[self._place.turn]
            for samples, first in self._parts(self._place.turn):
                for self._count, sample in enumerate(samples, first):
                    sample["__url__"] = url
                    yield sample
            self._place, self._count = _Place(self._place.turn + 1, 0, 0, 0), 0

    def _parts(self, shard: int) -> Iterator[tuple[Iterator[Sample], int]]:
        """Samples of a shard that were not given, and the number of the first."""
        place = self._place
        is_entered = place.offset is not None
        self._base = place.before if is_entered else 0
        self._heads = []
        rest = place.given if is_entered else place.before + place.given
        self._facts = ReadFacts()
        self._lots = self._shards.lots(shard, place, self._facts)
        for lot in self._lots:
            self._place = self._stands()
            self._base += len(self._heads)
            self._heads, self._count = lot.heads, 0
            samples = iter(lot.samples)
            skipped = min(rest, len(lot.heads))
            rest -= skipped
            deque(islice(samples, skipped), maxlen=0)
            yield samples, skipped + 1
        if rest:
            raise self._shards.changed(shard, place)

    def close(self) -> None:
        if self._lots:
            self._lots.close()


class _InRounds:
    """Lanes that give a sample each in turn."""

    def __init__(self, shards: _Shards, name: str, block: int, cursor: Cursor) -> None:
        turns = np.argsort(
            derived_keys(root_key(f"shards {name}"), range(len(shards.urls)))
        )
        places = [_Place(*place) for place in cursor["lanes"]]
        key = root_key(f"windows {name}")
        self._lanes = [
            _Lane(shards, turns[number :: len(places)].tolist(), place, key, block)
            for number, place in enumerate(places)
        ]
        self._key = root_key(f"rounds {name}")
        self._round: int = cursor["round"]
        self._after: int = cursor["after"]
        """The lane of the round that gave the last sample; -1 if none did."""

    def cursor(self) -> Cursor:
        lanes = [list(lane.place) for lane in self._lanes]
        return {"round": self._round, "after": self._after, "lanes": lanes}

    def samples(self) -> Generator[Sample]:
        lanes = self._lanes
        live = list(range(len(lanes)))  # lanes that are through give nothing
        while live:
            for order in self._orders(live):
                first = order.index(self._after) + 1 if self._after >= 0 else 0
                for number in order[first:]:
                    sample = lanes[number].next_sample()
                    if sample is not None:
                        self._after = number
                        yield sample
                self._round, self._after = self._round + 1, -1
                count = len(live)
                live = [number for number in live if not lanes[number].is_through]
                if len(live) < count:
                    break

    def _orders(self, live: list[int]) -> list[list[int]]:
        """The orders of the next rounds; lanes that have left change no order."""
        numbers = np.array(live)
        rounds = self._round + np.arange(max(1, _AT_ONCE // len(live)))
        turns = _shuffles(derived_keys(self._key, rounds), numbers)
        return [[live[i] for i in turn] for turn in turns.tolist()]

    def close(self) -> None:
        for lane in self._lanes:
            lane.close()


class _Lane:
    """Walks through its shards by windows of samples, each shuffled."""

    def __init__(
        self, shards: _Shards, own: list[int], place: _Place, key: Words, block: int
    ) -> None:
        self.place = place
        self._shards = shards
        self._own = own
        self._key = key
        self._block = block
        self._facts = ReadFacts()
        self._entries: Generator[tuple[int, Sample]] | None = None
        self._window: list[Sample] = []
        """What is left of the window, the next one last."""
        self._size = 0
        """How many samples the window had; 0 as long as it is not read."""
        self._orders: tuple[int, int, list[list[int]]] = (-1, -1, [])

    @property
    def is_through(self) -> bool:
        return not self._window and self.place.turn == len(self._own)

    def next_sample(self) -> Sample | None:
        """The next sample; None if the lane is through."""
        while not self._window:
            if self.is_through:
                return None
            self._fill()
        self.place = self.place._replace(given=self.place.given + 1)
        return self._window.pop()

    def _fill(self) -> None:
        """Read the next window; without one, go to the next shard."""
        place = self.place
        shard = self._own[place.turn]
        if self._entries is None:
            self._facts = ReadFacts()
            self._entries = self._entered(shard, place)
        entries = list(islice(self._entries, self._block))
        given = 0 if self._size else place.given
        if len(entries) < given:
            raise self._shards.changed(shard, place)
        if not entries:
            self._entries, self._size = None, 0
            self.place = _START._replace(turn=place.turn + 1)
            return
        before = place.before + self._size
        offset = None if self._facts.compression else entries[0][0]
        url = self._shards.urls[shard]
        order = self._order(shard, before // self._block)
        window = [entries[i][1] for i in order if i < len(entries)][given:]
        for sample in window:
            sample["__url__"] = url
        self._window, self._size = window[::-1], len(entries)
        self.place = _Place(place.turn, offset, before, given)

    def _entered(self, shard: int, place: _Place) -> Generator[tuple[int, Sample]]:
        """Samples from where a window begins, and where each begins."""
        with closing(self._shards.lots(shard, place, self._facts)) as lots:
            entries = chain.from_iterable(
                zip(lot.heads, lot.samples, strict=True) for lot in lots
            )
            skipped = place.before if place.offset is None else 0
            yield from islice(entries, skipped, None)

    def _order(self, shard: int, window: int) -> list[int]:
        """The order of a window's samples, if it is full; else it holds more."""
        at_once = max(1, _AT_ONCE // self._block)
        part, row = divmod(window, at_once)
        if self._orders[:2] != (shard, part):
            windows = part * at_once + np.arange(at_once)
            keys = derived_keys(derived_keys(self._key, shard), windows)
            orders = _shuffles(keys, np.arange(self._block)).tolist()
            self._orders = (shard, part, orders)
        return self._orders[2][row]

    def close(self) -> None:
        if self._entries:
            self._entries.close()


def _shuffles(keys: Words, numbers: NDArray[np.int64]) -> NDArray[np.intp]:
    """For each key a shuffle of numbers: their positions, by a hash of each.

    A number that is left out does not change the order of the others.
    """
    return np.argsort(derived_keys(keys[:, None], numbers), axis=1)

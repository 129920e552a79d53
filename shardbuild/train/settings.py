"""The data sets of a feed, and the order they are read in."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from shardbuild.shards.reader import scan_shard
from shardbuild.storage.schemes import is_stream
from shardbuild.storage.urlparts import local_path
from shardbuild.train.catalog import Catalog
from shardbuild.train.indexed import IndexedSource, Mixing
from shardbuild.train.learned import LearnedIndexes
from shardbuild.train.order import Order
from shardbuild.train.reading import MAX_OPEN, SampleReader
from shardbuild.train.state import FeedState, Identity
from shardbuild.train.strand import Strand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from shardbuild.shards.index import ShardIndex
    from shardbuild.storage.partcache import PartCache
    from shardbuild.storage.urls import StorageOptions
    from shardbuild.train.schedule import Schedule
    from shardbuild.train.streamed import StreamedSource

__all__ = ["Choice", "IndexedSetting", "StreamedSetting", "strand_of"]

OPEN_SHARDS = 256
"""Lanes of a data set with an index."""
STREAMED_SHARDS = 16
"""Lanes of one without; and samples that each of them permutes at a time."""
_BLOCK_BYTES = 1 << 20
_SCANS = 8


class OrderOptions(TypedDict, total=False):
    """The options of `Choice` that a user gives to a feed."""

    shuffle: bool
    seed: int
    open_shards: int | None
    block: int | None
    max_bad: int
    cache: PartCache | None


@dataclass(frozen=True)
class Choice:
    """What the user says of the order and of reading."""

    seed: int = 0
    shuffle: bool = False
    open_shards: int | None = None
    block: int | None = None
    max_bad: int = 10
    cache: PartCache | None = None
    fields: tuple[str, ...] | None = None
    storage_options: StorageOptions | None = None
    stages: Sequence[Callable[[Iterable[Any]], Iterable[Any]]] = ()


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def strand_of(catalog: Catalog, choice: Choice) -> Strand:
    """A data set in the order that is chosen.

    Samples of a shard that together make a MiB stay together, so that a store is
    asked for them at once, and a cache holds what is read soon.
    """
    block = choice.block
    if block is None:
        block = max(1, round(_BLOCK_BYTES / max(catalog.mean_bytes, 1.0)))
    order = Order(
        counts=catalog.counts,
        seed=choice.seed,
        shuffle=choice.shuffle,
        open_shards=_or(choice.open_shards, OPEN_SHARDS),
        block=block,
    )
    num_lanes = order.open_shards if order.shuffle else 1
    reader = SampleReader(
        catalog,
        fields=choice.fields,
        cache=choice.cache,
        storage_options=choice.storage_options,
        # A lane's shard and its next; the shards behind it are not kept open.
        max_open=min(2 * num_lanes + 8, MAX_OPEN),
    )
    return Strand(catalog, order, reader, choice.stages, choice.max_bad)


class IndexedSetting:
    """One data set with an index, or several that are mixed."""

    def __init__(
        self,
        name: str,
        strands: Sequence[Strand],
        *,
        schedule: Schedule | None = None,
        epoch_samples: int | None = None,
    ) -> None:
        self.name = name
        self.has_stages = any(strand.has_stages for strand in strands)
        self.is_remote = any(
            local_path(strand.catalog.urls[0]) is None
            for strand in strands
            if strand.catalog.urls
        )
        self._strands = strands
        self._schedule = schedule
        total = sum(strand.num_samples for strand in strands)
        self._num_positions = total if epoch_samples is None else epoch_samples

    def identity(self) -> Identity:
        """What decides about the order."""
        orders = [strand.order for strand in self._strands]
        return Identity(
            data=tuple(strand.catalog.fingerprint for strand in self._strands),
            seed=orders[0].seed,
            shuffle=orders[0].shuffle,
            open_shards=tuple(order.open_shards for order in orders),
            blocks=tuple(order.block for order in orders),
        )

    def first_state(self) -> FeedState:
        """The beginning."""
        mixing = self._mixing()
        return FeedState(mixture={} if mixing is None else mixing.to_json())

    def _mixing(self) -> Mixing | None:
        if self._schedule is None:
            return None
        return Mixing(self._schedule, (0,) * len(self._strands))

    def adopt(self, saved: FeedState) -> FeedState:
        """A saved state; from there on our weights hold.

        Raises:
            StateError: Its mixture is damaged.
        """
        mixing = self._mixing()
        mixture: dict[str, Any] = {}
        if mixing is not None:
            position = saved.epoch * self._num_positions + saved.consumed
            mixture = mixing.going_on(saved.mixture, position, self.name).to_json()
        return FeedState(saved.epoch, saved.consumed, mixture=mixture)

    def num_positions(self, epoch: int) -> int:
        """Positions of an epoch."""
        del epoch
        return self._num_positions

    def source(self, at: FeedState) -> IndexedSource:
        """What gives the samples of an epoch."""
        mixing = self._mixing()
        if mixing is not None and at.mixture:
            mixing = Mixing(
                mixing.schedule, tuple(at.mixture["base"]), at.mixture["since"]
            )
        return IndexedSource(self._strands, self._num_positions, mixing)

    def close(self) -> None:
        """Close what is open."""
        for strand in self._strands:
            strand.close()


@dataclass
class StreamedSetting:
    """A data set without an index; after its first epoch it has one."""

    name: str
    urls: tuple[str, ...]
    choice: Choice
    _learned: LearnedIndexes = field(default_factory=LearnedIndexes, repr=False)
    _is_learned: bool = False
    _strand: Strand | None = field(default=None, repr=False)

    @property
    def has_stages(self) -> bool:
        """Whether samples pass stages."""
        return bool(self.choice.stages)

    @property
    def is_remote(self) -> bool:
        """Whether threads have to wait for a store."""
        return self._strand is not None and local_path(self.urls[0]) is None

    def identity(self) -> Identity:
        """What decides about the order: names of shards, as no more is known."""
        names = "\0".join(url.rpartition("/")[2] for url in self.urls)
        digest = hashlib.blake2b(names.encode(), digest_size=16).hexdigest()
        return Identity(
            data=(f"names:{digest}",),
            seed=self.choice.seed,
            shuffle=self.choice.shuffle,
            open_shards=(self.choice.open_shards or STREAMED_SHARDS,),
            blocks=(self.choice.block or STREAMED_SHARDS,),
        )

    def first_state(self) -> FeedState:
        """The beginning."""
        return FeedState()

    def adopt(self, saved: FeedState) -> FeedState:
        """A saved state.

        Raises:
            StateError: Its cursor is damaged.
        """
        if saved.cursor is not None:
            self._streamed().check(saved, self.name)
        return saved

    def num_positions(self, epoch: int) -> int | None:
        """Positions of an epoch; of the first one nobody knows."""
        strand = self._indexed() if epoch else None
        return None if strand is None else strand.num_samples

    def source(self, at: FeedState) -> IndexedSource | StreamedSource:
        """What gives the samples of an epoch."""
        strand = self._indexed() if at.epoch else None
        if strand is not None:
            return IndexedSource([strand], strand.num_samples, None)
        return self._streamed()

    def _streamed(self) -> StreamedSource:
        from shardbuild.train.streamed import StreamedSource

        choice = self.choice
        return StreamedSource(
            urls=self.urls,
            seed=choice.seed,
            shuffle=choice.shuffle,
            open_shards=_or(choice.open_shards, STREAMED_SHARDS),
            block=_or(choice.block, STREAMED_SHARDS),
            stages=choice.stages,
            fields=choice.fields,
            max_bad=choice.max_bad,
            storage_options=choice.storage_options,
            learned=self._learned,
        )

    def _indexed(self) -> Strand | None:
        """The same data set with an index; None if it can have none.

        What this process has not read it looks through now: every process, and every
        later run, has to have the same order.
        """
        if not self._is_learned and not any(map(is_stream, self.urls)):
            unknown = [i for i in range(len(self.urls)) if i not in self._learned]
            with ThreadPoolExecutor(_SCANS) as pool:
                for number, index in zip(
                    unknown, pool.map(self._scan, unknown), strict=True
                ):
                    self._learned[number] = index
            options = self.choice.storage_options
            catalog = Catalog.of_indexes(self.urls, self._learned, options)
            if catalog is not None:
                self._strand = strand_of(catalog, self.choice)
            self._is_learned = True
        return self._strand

    def _scan(self, number: int) -> ShardIndex:
        options = self.choice.storage_options
        return scan_shard(self.urls[number], storage_options=options)

    def close(self) -> None:
        """Close what is open."""
        if self._strand is not None:
            self._strand.close()
        self._learned.close()
        self._strand, self._is_learned = None, False

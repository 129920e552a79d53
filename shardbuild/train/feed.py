"""A feed: the batches of a data set for one rank, in an exact order."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from shardbuild.errors import UsageError
from shardbuild.train.batches import Batch, Collate, Facts, Skipped
from shardbuild.train.positions import Last, Share, Steps
from shardbuild.train.state import FeedState, Identity
from shardbuild.train.threads import map_ordered

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from shardbuild.train.explain import Explanation
    from shardbuild.train.indexed import IndexedSource
    from shardbuild.train.loader import Loader, StatefulIterable
    from shardbuild.train.strand import Results
    from shardbuild.train.work import Work

__all__ = ["Feed", "Options", "Setting"]

logger = logging.getLogger(__name__)

_REMOTE_THREADS = 8
_PIECE = 32
"""Most samples that a thread takes at a time."""


@dataclass(frozen=True)
class Options:
    """How batches are made."""

    global_batch: int
    rank: int
    world: int
    last: Last
    threads: int | None
    collate: Collate | None


class Source(Protocol):
    """What gives the work of each step."""

    def work(
        self, at: FeedState, steps: Steps, share: Share, num_pieces: int
    ) -> Generator[Work]:
        """The steps from a state to the end of its epoch."""
        ...

    def run(self, piece: Any) -> Results:
        """Do a piece of a step."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class Setting(Protocol):
    """The data sets of a feed and their order."""

    name: str

    @property
    def has_stages(self) -> bool:
        """Whether samples pass stages."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether threads have to wait for a store."""
        ...

    def identity(self) -> Identity:
        """What decides about the order."""
        ...

    def first_state(self) -> FeedState:
        """The beginning."""
        ...

    def adopt(self, saved: FeedState) -> FeedState:
        """A saved state, as it goes on here."""
        ...

    def num_positions(self, epoch: int) -> int | None:
        """Positions of an epoch; None if nobody knows before it is read."""
        ...

    def source(self, at: FeedState) -> Source:
        """What gives the samples of an epoch."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class Feed:
    """Batches of samples for one of ``world`` ranks, epoch after epoch.

    Iterate over it once for each epoch: it goes on where it stands, and ends where
    the epoch ends. A step takes the next ``global_batch`` samples of the order, which
    is the same for any number of ranks, workers and threads; each rank gets an equal
    part. `Dataset.feed` and `Mixture.feed` make feeds.

    ``state_dict`` says where the feed stands: what was given out of it, not what was
    read ahead. It is small, fit for JSON, and the same on all ranks. A feed of the
    same data, seed and order takes it, with any number of ranks and any batch size.
    """

    def __init__(self, setting: Setting, options: Options) -> None:
        self._setting = setting
        self._options = options
        self._state = setting.first_state()
        self.skipped: list[Skipped] = []
        """The samples that were bad, and replaced, in what was given out."""
        self._steps().check(Share(options.rank, options.world))
        if not self._steps().count():
            problem = f"there are not so many samples in {setting.name}"
            raise UsageError(f"global_batch {options.global_batch}", problem)

    @property
    def epoch(self) -> int:
        """The epoch that is being read, from 0 on."""
        return self._state.epoch

    @property
    def rank(self) -> int:
        """Which rank this is."""
        return self._options.rank

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return self._options.world

    @property
    def global_batch(self) -> int:
        """Samples of a step, of all ranks together."""
        return self._options.global_batch

    def __len__(self) -> int:
        """Steps of a whole epoch: the same for every rank.

        Raises:
            TypeError: The data set has no index, and nobody knows before it is read.
        """
        if self._setting.num_positions(self.epoch) is None:
            problem = "nobody knows its length before it is read: shardbuild index"
            raise TypeError(f"{self._setting.name}: {problem}")
        return self._steps().count()

    def _steps(self) -> Steps:
        num_positions = self._setting.num_positions(self.epoch)
        return Steps(
            num_positions if num_positions is not None else 1 << 62,
            self._options.global_batch,
            self._options.last,
        )

    def __iter__(self) -> Iterator[Any]:
        """The batches from here to the end of the epoch."""
        with closing(self.steps()) as steps:
            for payload, facts in steps:
                self.delivered(facts)
                given = [payload]
                del payload  # what the caller lets go of is held by nobody here
                yield given.pop()

    def steps(
        self, worker: int = 0, num_workers: int = 1
    ) -> Generator[tuple[Any, Facts]]:
        """What worker ``worker`` makes: every ``num_workers``-th batch, with facts.

        The feed itself stays where it is, until it is told what was `delivered`.
        """
        options, at = self._options, self._state
        share = Share(options.rank, options.world, worker, num_workers)
        source = self._setting.source(at)
        size = options.global_batch // options.world
        num_threads = self._num_threads(num_workers)
        num_pieces = 1
        if num_threads:
            # None so long that the end of an interrupted feed has to wait for it.
            num_pieces = min(size, max(num_threads, -(-size // _PIECE)))
        under_way: deque[Work] = deque()

        def pieces() -> Generator[list[Any]]:
            works = source.work(at, self._steps(), share, num_pieces)
            with closing(works):
                for work in works:
                    under_way.append(work)
                    yield work.pieces

        made = map_ordered(
            source.run,
            pieces(),
            num_threads=num_threads,
            num_ahead=max(2, -(-2 * num_threads // num_pieces)),
        )
        with closing(made) as results:
            for parts in results:
                given = [self._assembled(at.epoch, under_way.popleft(), parts)]
                del parts  # as in `__iter__`
                yield given.pop()

    def _num_threads(self, num_workers: int) -> int:
        if self._options.threads is not None:
            return self._options.threads
        if self._setting.is_remote:
            return _REMOTE_THREADS
        if not self._setting.has_stages or num_workers > 1:
            return 0
        return len(os.sched_getaffinity(0))

    def _assembled(
        self, epoch: int, work: Work, parts: list[Results]
    ) -> tuple[Any, Facts]:
        facts, is_real = work.facts, work.is_real
        values = parts[0].values
        skipped = parts[0].skipped
        bad = parts[0].bad
        for part in parts[1:]:
            bad = [*bad, *(at + len(values) for at in part.bad)]
            values = values + part.values
            skipped = skipped + part.skipped
        if skipped:
            facts = facts._replace(skipped=tuple(skipped))
            for one in skipped:
                logger.warning("%s: sample %r: %s", one.url, one.key, one.problem)
        if is_real is not None and bad:
            is_real = is_real.copy()
            is_real[bad] = False
        batch = Batch(values, epoch=epoch, positions=work.positions, mask=is_real)
        collate = self._options.collate
        return (batch if collate is None else collate(batch)), facts

    def delivered(self, facts: Facts) -> None:
        """Count a batch that was given to the caller."""
        self._state = dataclasses.replace(
            self._state,
            epoch=facts.epoch,
            consumed=facts.consumed,
            cursor=facts.cursor,
        )
        self.skipped += facts.skipped

    def state_dict(self) -> dict[str, Any]:
        """Where the feed stands, fit for JSON: the same on all ranks."""
        return self._state.to_json(self._setting.identity())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another feed of the same data and order stood.

        It may have had other ranks, workers and batch sizes.

        Raises:
            StateError: It is of another data set, seed or order, or no state.
        """
        setting = self._setting
        saved = FeedState.from_json(state, setting.identity(), setting.name)
        self._state = setting.adopt(saved)
        if not self._steps().count(self._state.consumed):
            self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self._state = dataclasses.replace(
            self._state, epoch=epoch, consumed=0, cursor=None
        )

    def explain(self) -> Explanation:
        """What the order is like, and how well it is shuffled; print it.

        Raises:
            UsageError: The data set has no index.
        """
        from shardbuild.train.explain import explain

        source: Any = self._setting.source(FeedState())
        strands = getattr(source, "strands", None)
        if strands is None:
            problem = "has no index: make one with 'shardbuild index'"
            raise UsageError(self._setting.name, problem)
        indexed: IndexedSource = source
        return explain(indexed, self._options, len(self))

    def loader(self, num_workers: int = 0, **options: Any) -> Loader:
        """A loader of torch for this feed: batches are made by worker processes.

        Args:
            num_workers: Processes; 0 makes batches here, by threads.
            options: Those of `Loader`.

        Raises:
            MissingExtraError: torch is not installed.
        """
        from shardbuild.train.loader import Loader

        return Loader(self, num_workers, **options)

    def iterable(self) -> StatefulIterable:
        """An iterable for torchdata's ``StatefulDataLoader``, with ``batch_size=None``.

        Raises:
            MissingExtraError: torch is not installed.
        """
        from shardbuild.train.loader import StatefulIterable

        return StatefulIterable(self)

    def close(self) -> None:
        """Close what is open; iterating opens it again."""
        self._setting.close()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

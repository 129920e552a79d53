"""Steps of a data set without an index: its shards are read front to back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shardbuild.errors import StateError, UsageError
from shardbuild.streams.sources import only_fields
from shardbuild.train.applying import NoResult, apply_stages
from shardbuild.train.batches import Facts
from shardbuild.train.lanes import LaneStream
from shardbuild.train.replacing import Candidate, value_of_next
from shardbuild.train.strand import Results
from shardbuild.train.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from shardbuild.shards.samples import Sample
    from shardbuild.storage.urls import StorageOptions
    from shardbuild.train.batches import Skipped
    from shardbuild.train.learned import LearnedIndexes
    from shardbuild.train.positions import Share, Steps
    from shardbuild.train.state import FeedState

__all__ = ["StreamedSource"]


class _Piece(NamedTuple):
    batch: list[Sample]
    """All samples of the step, of all ranks."""
    start: int
    stop: int
    epoch: int
    position: int
    """Of the first sample of the step."""

    def candidate(self, at: int, sample: Sample) -> Candidate:
        """A sample of the step, with its position."""
        return Candidate(self.epoch, self.position + at, sample)


class _Cut(NamedTuple):
    """How the samples of a step become the work of one process."""

    steps: Steps
    share: Share
    num_pieces: int

    def is_step(self, samples: Sequence[Sample]) -> bool:
        """Whether what there is makes a step."""
        is_whole = len(samples) == self.steps.global_batch
        return is_whole or (bool(samples) and self.steps.last != "drop")

    def work(
        self,
        samples: list[Sample],
        num_real: int,
        epoch: int,
        position: int,
        facts: Facts,
    ) -> Work:
        size = len(samples) // self.share.world
        first, stop = self.share.rank * size, (self.share.rank + 1) * size
        length = -(-size // self.num_pieces)
        pieces = [
            _Piece(samples, start, min(start + length, stop), epoch, position)
            for start in range(first, stop, length)
        ]
        places = np.arange(first, stop, dtype=np.int64)
        is_real = places < num_real if self.steps.last == "mask" else None
        return Work(pieces, position + places, is_real, facts)


@dataclass(frozen=True)
class StreamedSource:
    """A data set in lanes of shards.

    Every process reads all samples of an epoch and keeps those of its own steps and
    rank: only so they all know when it ends.
    """

    urls: tuple[str, ...]
    seed: int
    shuffle: bool
    open_shards: int
    block: int
    stages: Sequence[Callable[[Iterable[Any]], Iterable[Any]]]
    fields: tuple[str, ...] | None
    max_bad: int
    storage_options: StorageOptions | None
    learned: LearnedIndexes
    """The index of each shard that was read to its end."""

    def work(
        self, at: FeedState, steps: Steps, share: Share, num_pieces: int
    ) -> Generator[Work]:
        """What is to be done, step by step, from a state to the end of its epoch."""
        cut = _Cut(steps, share, num_pieces)
        batch = steps.global_batch
        position, number = at.consumed, 0
        with self._lanes(at.epoch, at.cursor) as lanes:
            samples = list(islice(lanes, batch))
            while cut.is_step(samples):
                cursor = lanes.cursor()
                following = list(islice(lanes, batch))
                facts = Facts(at.epoch + 1, 0)
                if cut.is_step(following):
                    facts = Facts(at.epoch, position + batch, cursor=cursor)
                if number % share.num_workers == share.worker:
                    missing = batch - len(samples)
                    filling = self._first(at.epoch, missing) if missing else []
                    whole = [*samples, *filling]
                    yield cut.work(whole, len(samples), at.epoch, position, facts)
                position, number, samples = position + batch, number + 1, following
            # What is left out of the last step belongs to the shards all the same.
            for _ in lanes:
                pass

    def check(self, at: FeedState, name: str) -> None:
        """Refuse a state whose cursor is not one of these shards.

        Raises:
            StateError: As said.
        """
        try:
            self._lanes(at.epoch, at.cursor).close()
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise StateError(name, "the state's cursor is damaged") from error
        except UsageError as error:
            raise StateError(name, f"the state's cursor {error.problem}") from error

    def _lanes(self, epoch: int, cursor: Any = None) -> LaneStream:
        return LaneStream(
            self.urls,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            open_shards=self.open_shards,
            block=self.block,
            cursor=cursor,
            storage_options=self.storage_options,
            learned=self.learned,
        )

    def _first(self, epoch: int, count: int) -> list[Sample]:
        """The first samples of an epoch, over and over if there are too few."""
        found: list[Sample] = []
        while len(found) < count:
            with self._lanes(epoch) as lanes:
                found += islice(lanes, count - len(found))
        return found

    def run(self, piece: _Piece) -> Results:
        """Do a piece of a step; a bad sample is replaced by the next of its step.

        Raises:
            SampleError: More than ``max_bad`` in a row are bad.
        """
        samples = [
            only_fields(s, self.fields) for s in piece.batch[piece.start : piece.stop]
        ]
        values = apply_stages(self.stages, samples)
        bad = [at for at, value in enumerate(values) if isinstance(value, NoResult)]
        skipped: list[Skipped] = []
        for at in bad:
            here = piece.start + at
            first = piece.candidate(here, samples[at])
            values[at] = value_of_next(
                self.stages, first, values[at], self._following(piece, here), skipped
            )
        return Results(values, skipped, bad)

    def _following(self, piece: _Piece, at: int) -> Iterator[Candidate]:
        others = [*range(at + 1, len(piece.batch)), *range(at)]
        for other in others[: self.max_bad]:
            yield piece.candidate(other, only_fields(piece.batch[other], self.fields))

    def close(self) -> None:
        """Nothing stays open between epochs."""

"""Steps of data sets with an index, which know each sample's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shardbuild.errors import StateError, UsageError
from shardbuild.train.batches import Facts
from shardbuild.train.positions import Draw, Share, Step, Steps
from shardbuild.train.strand import Results, Strand
from shardbuild.train.work import Work

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from shardbuild.train.schedule import Schedule
    from shardbuild.train.state import FeedState

    Ints = NDArray[np.int64]

__all__ = ["IndexedSource", "Mixing"]

_LANE_BITS = 32
_GOLDEN = 0x9E3779B9
"""2^32 by the golden ratio: its multiples are spread evenly below 2^32."""


@dataclass(frozen=True)
class Mixing:
    """How several data sets take turns.

    Positions are counted on through all epochs. Up to ``since`` other weights held,
    by which ``base`` samples of each data set were drawn.
    """

    schedule: Schedule
    base: tuple[int, ...]
    since: int = 0

    def draws(self, first: int, stop: int) -> tuple[Ints, Ints]:
        """The data set of each position, and the number of its sample there."""
        dataset, number = self.schedule.draws(first - self.since, stop - self.since)
        return dataset, number + np.array(self.base, dtype=np.int64)[dataset]

    def counts_at(self, position: int) -> list[int]:
        """How many samples of each data set were drawn before a position."""
        counts = self.schedule.counts_at(position - self.since)
        return [a + b for a, b in zip(self.base, counts, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """As a part of the state."""
        weights = [str(weight) for weight in self.schedule.weights]
        return {"weights": weights, "base": list(self.base), "since": self.since}

    def going_on(self, saved: dict[str, Any], position: int, name: str) -> Mixing:
        """These weights from a position on, after those of a saved state."""
        try:
            before = Mixing.from_json(saved)
            if len(before.base) == len(self.base) and before.since <= position:
                if before.schedule.weights == self.schedule.weights:
                    return before
                counts = before.counts_at(position)
                return Mixing(self.schedule, tuple(counts), position)
        except (KeyError, TypeError, ValueError, UsageError) as error:
            problem = f"the state's mixture is damaged: {str(saved)[:200]}"
            raise StateError(name, problem) from error
        raise StateError(name, f"the state's mixture does not fit: {str(saved)[:200]}")

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Mixing:
        """What `to_json` made."""
        from shardbuild.train.schedule import Schedule

        base = tuple(int(count) for count in saved["base"])
        return cls(Schedule(saved["weights"]), base, int(saved["since"]))


class IndexedSource:
    """One data set or several that are mixed, read by their places."""

    def __init__(
        self,
        strands: Sequence[Strand],
        num_positions: int,
        mixing: Mixing | None,
    ) -> None:
        self.strands = strands
        self.mixing = mixing
        self.num_positions = num_positions
        self._num_lanes = [strand.num_lanes for strand in strands]

    def work(
        self, at: FeedState, steps: Steps, share: Share, num_pieces: int
    ) -> Generator[Work]:
        """What is to be read, step by step, from a state to the end of its epoch."""
        epoch = at.epoch

        def draw(first: int, stop: int) -> Draw:
            return self.draw(epoch, first, stop)

        for step in steps.of_share(draw, at.consumed, share):
            yield Work(
                pieces=_cut(step.draw, num_pieces),
                positions=step.draw.position,
                is_real=step.is_real,
                facts=_facts(steps, epoch, step),
            )

    def draw(self, epoch: int, first: int, stop: int) -> Draw:
        """The samples at positions of an epoch, and on from its end."""
        if self.mixing is None:
            return self._wrapped(epoch, first, stop)
        begin = epoch * self.num_positions
        dataset, number = self.mixing.draws(begin + first, begin + stop)
        columns = [np.empty(stop - first, np.int64) for _ in range(5)]
        for k, strand in enumerate(self.strands):
            where = np.flatnonzero(dataset == k)
            if len(where):
                found = strand.draw_at(number[where])
                lane = self._common_lane(k, found)
                parts = found.epoch, found.position, found.shard, found.row, lane
                for column, part in zip(columns, parts, strict=True):
                    column[where] = part
        return Draw(dataset, *columns)

    def _common_lane(self, k: int, draw: Draw) -> Ints:
        """Lanes of all data sets on one scale, so that each rank has some of each.

        Samples without lanes are spread over it.
        """
        if self._num_lanes[k]:
            return (draw.lane << _LANE_BITS) // self._num_lanes[k]
        if not any(self._num_lanes):
            return draw.lane
        return draw.position * _GOLDEN % (1 << _LANE_BITS)

    def _wrapped(self, epoch: int, first: int, stop: int) -> Draw:
        """What fills up the last step is from the beginning of the same epoch."""
        positions = np.arange(first, stop, dtype=np.int64) % self.num_positions
        return self.strands[0].draw_at(positions + epoch * self.num_positions)

    def run(self, draw: Draw) -> Results:
        """Read a piece of a step."""
        if len(self.strands) == 1:
            return self.strands[0].read(draw)
        values: list[Any] = [None] * len(draw.dataset)
        skipped, bad = [], []
        for k in sorted(set(draw.dataset.tolist())):
            where = np.flatnonzero(draw.dataset == k)
            results = self.strands[k].read(draw.take(where))
            for at, value in zip(where.tolist(), results.values, strict=True):
                values[at] = value
            skipped += results.skipped
            bad += where[results.bad].tolist()
        return Results(values, skipped, bad)

    def close(self) -> None:
        """Close what is open."""
        for strand in self.strands:
            strand.close()


def _cut(draw: Draw, num_pieces: int) -> list[Any]:
    if num_pieces == 1:
        return [draw]
    size = -(-len(draw.shard) // num_pieces)
    return [
        Draw(*(column[start : start + size] for column in draw))
        for start in range(0, len(draw.shard), size)
    ]


def _facts(steps: Steps, epoch: int, step: Step) -> Facts:
    if steps.count(step.end):
        return Facts(epoch, step.end)
    return Facts(epoch + 1, 0)

"""One data set of a feed: samples by their places in its order, through its stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shardbuild.errors import SampleError
from shardbuild.train.applying import NoResult, apply_stages
from shardbuild.train.batches import Skipped
from shardbuild.train.positions import Draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from shardbuild.shards.samples import Sample
    from shardbuild.train.catalog import Catalog
    from shardbuild.train.order import Order
    from shardbuild.train.reading import SampleReader

    Ints = NDArray[np.int64]

__all__ = ["Results", "Strand"]


class Results(NamedTuple):
    """What some places gave: one value for each."""

    values: list[Any]
    skipped: list[Skipped]
    """The bad ones, whose values are of other samples."""
    bad: list[int]
    """Where among the values those are."""


class Strand:
    """A data set in an order of its own, with stages."""

    def __init__(
        self,
        catalog: Catalog,
        order: Order,
        reader: SampleReader,
        stages: Sequence[Callable[[Iterable[Any]], Iterable[Any]]],
        max_bad: int,
    ) -> None:
        self.catalog = catalog
        self.order = order
        self.num_samples = order.num_samples
        """Samples of an epoch."""
        self._reader = reader
        self._stages = stages
        self._max_bad = max_bad

    @property
    def has_stages(self) -> bool:
        """Whether samples pass stages."""
        return bool(self._stages)

    @property
    def num_lanes(self) -> int:
        """How many lanes it is read in; 0 if there are none."""
        order = self.order
        num_shards = int(np.count_nonzero(order.counts))
        has_lanes = order.shuffle and num_shards > order.open_shards
        return order.open_shards if has_lanes else 0

    def draw_at(self, numbers: Ints) -> Draw:
        """The samples at positions that are counted on through the epochs."""
        size = self.num_samples
        epochs, positions = np.divmod(numbers, size)
        # No np.unique: its first call imports numpy.ma, which takes 30 ms.
        found = sorted(set(epochs.tolist()))
        if len(found) == 1:
            places = self.order.in_epoch(found[0]).places_at(positions)
            columns = [places.shard, places.row, places.lane]
        else:
            columns = [np.empty(len(numbers), np.int64) for _ in range(3)]
            for epoch in found:
                where = np.flatnonzero(epochs == epoch)
                places = self.order.in_epoch(epoch).places_at(positions[where])
                for column, part in zip(columns, places, strict=True):
                    column[where] = part
        shard, row, lane = columns
        dataset = np.zeros(len(numbers), np.int64)
        return Draw(dataset, epochs, positions, shard, row, lane)

    def read(self, draw: Draw) -> Results:
        """What the stages make of the samples at some places.

        A sample that is bad is replaced by the next one in the order: which one that
        is does not depend on who reads it.

        Raises:
            SampleError: More than ``max_bad`` in a row are bad.
        """
        samples = self._reader.read(draw.shard, draw.row)
        if not self._stages:
            return Results(samples, [], [])
        values = apply_stages(self._stages, samples)
        bad = [at for at, value in enumerate(values) if isinstance(value, NoResult)]
        skipped: list[Skipped] = []
        for at in bad:
            values[at] = self._replaced(
                draw.take(np.array([at])), samples[at], values[at], skipped
            )
        return Results(values, skipped, bad)

    def _replaced(
        self, draw: Draw, sample: Sample, why: NoResult, skipped: list[Skipped]
    ) -> Any:
        """The value of the next sample that is good."""
        number = int(draw.epoch[0]) * self.num_samples + int(draw.position[0])
        for _ in range(self._max_bad):
            skipped.append(_skipped(draw, sample, why))
            number += 1
            draw = self.draw_at(np.array([number], dtype=np.int64))
            (sample,) = self._reader.read(draw.shard, draw.row)
            (value,) = apply_stages(self._stages, [sample])
            if not isinstance(value, NoResult):
                return value
            why = value
        problem = why.problem
        if self._max_bad:
            problem += f" (and {self._max_bad} before it in the order: see max_bad)"
        key = str(sample["__key__"])
        raise SampleError(str(sample["__url__"]), problem, key) from why.error

    def close(self) -> None:
        """Close what is open."""
        self._reader.close()


def _skipped(draw: Draw, sample: Sample, why: NoResult) -> Skipped:
    return Skipped(
        epoch=int(draw.epoch[0]),
        position=int(draw.position[0]),
        url=str(sample["__url__"]),
        key=str(sample["__key__"]),
        problem=why.problem,
    )

"""What the order of a feed is like, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardbuild.train.quality import shuffle_quality

if TYPE_CHECKING:
    from shardbuild.train.feed import Options
    from shardbuild.train.indexed import IndexedSource

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True, slots=True)
class DataSetFacts:
    """One data set of a feed."""

    num_samples: int
    num_shards: int
    open_shards: int
    """Shards that are read in turns at one time; all, if there are no more."""
    block: int
    """Samples of a shard that stay together, where not all shards are open."""
    collisions: float
    """How often two samples of a batch share a shard, to how often they would in a
    uniform random order."""
    shards_per_batch: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a feed does; ``str`` tells it in words."""

    num_samples: int
    """Of an epoch."""
    num_steps: int
    global_batch: int
    world: int
    last: str
    shuffle: bool
    datasets: tuple[DataSetFacts, ...]

    def __str__(self) -> str:
        share = self.global_batch // self.world
        lines = [
            (
                f"epoch      {self.num_samples:,} samples, {self.num_steps:,} steps of "
                f"{self.global_batch:,}: {share:,} for each of {self.world} ranks"
            ),
            f"last step  {_LAST[self.last]}",
        ]
        if not self.shuffle:
            lines.append("order      as the samples lie in the shards")
        for facts in self.datasets if self.shuffle else ():
            order = "each one as likely as any other"
            if facts.open_shards < facts.num_shards:
                order = (
                    f"{facts.open_shards:,} of {facts.num_shards:,} shards at once, "
                    f"{facts.block:,} of their samples together"
                )
            lines.append(f"order      {order}")
            lines.append(
                f"shuffled   a batch is of {facts.shards_per_batch:.0f} shards; two of "
                f"its samples share one {facts.collisions:.2f} times as often as in a "
                "uniform order"
            )
        return "\n".join(lines)


_LAST = {
    "wrap": "filled up from the beginning of the order",
    "mask": "filled up, and masked",
    "drop": "left out, if it is not full",
}


def explain(source: IndexedSource, options: Options, num_steps: int) -> Explanation:
    """Measure what a feed's order is like."""
    found = []
    for strand in source.strands:
        order = strand.order
        quality = shuffle_quality(order, options.global_batch)
        num_shards = int((order.counts > 0).sum())
        found.append(
            DataSetFacts(
                num_samples=order.num_samples,
                num_shards=num_shards,
                open_shards=min(order.open_shards, num_shards),
                block=order.block,
                collisions=quality.collision_ratio,
                shards_per_batch=quality.shards_per_batch,
            )
        )
    return Explanation(
        num_samples=source.num_positions,
        num_steps=num_steps,
        global_batch=options.global_batch,
        world=options.world,
        last=options.last,
        shuffle=source.strands[0].order.shuffle,
        datasets=tuple(found),
    )

"""Several data sets in one feed, by exact proportions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from shardbuild.errors import UsageError
from shardbuild.train.dataset import Dataset, feed_options
from shardbuild.train.feed import Feed
from shardbuild.train.schedule import Schedule
from shardbuild.train.settings import IndexedSetting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

    from shardbuild.train.batches import Collate
    from shardbuild.train.positions import Last
    from shardbuild.train.settings import OrderOptions

__all__ = ["Mixture"]


class Mixture:
    """Data sets that take turns by exact proportions, whatever their sizes.

    Of any run of positions, and so of each batch, each data set has its share to
    within a sample or two. One that is through goes on with its next epoch. Each data
    set has its own stages; they should make samples that are alike.

    >>> import tempfile
    >>> from shardbuild.shards.shardwriter import ShardWriter
    >>> folder = tempfile.TemporaryDirectory()
    >>> for name in "ab":
    ...     with ShardWriter(f"{folder.name}/{name}-%06d.tar") as writer:
    ...         for number in range(4):
    ...             _ = writer.write({"__key__": f"{name}{number}", "cls": number})
    >>> datasets = [Dataset(f"{folder.name}/{name}.json") for name in "ab"]
    >>> mixture = Mixture(datasets, weights=[3, 1])
    >>> with mixture.feed(global_batch=4) as feed:
    ...     [[sample["__key__"] for sample in batch] for batch in feed]
    [['a0', 'a1', 'a2', 'b0'], ['a3', 'a0', 'a1', 'b1']]
    >>> folder.cleanup()

    Args:
        datasets: Data sets whose shards have indexes.
        weights: What the shares are proportional to; equal, if not said.
        epoch_samples: Samples of an epoch; if not said, as many as all have together.

    Raises:
        UsageError: There is not one weight for each, or one is out of range; or a
            data set has no index.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        weights: Sequence[float | str | Fraction] | None = None,
        *,
        epoch_samples: int | None = None,
    ) -> None:
        self._datasets = tuple(datasets)
        self._weights = [1] * len(self._datasets) if weights is None else list(weights)
        self._epoch_samples = epoch_samples
        if not self._datasets or len(self._weights) != len(self._datasets):
            problem = f"{len(self._weights)} for {len(self._datasets)} data sets"
            raise UsageError("weights", problem)
        if epoch_samples is not None and epoch_samples < 1:
            raise UsageError(f"epoch_samples {epoch_samples}", "is not positive")
        for dataset in self._datasets:
            dataset.catalog()  # refuses one without an index now

    def feed(  # those of a data set's feed
        self,
        global_batch: int,
        *,
        rank: int | None = None,
        world: int | None = None,
        last: Last = "wrap",
        threads: int | None = None,
        collate: Collate | None = None,
        **order: Unpack[OrderOptions],
    ) -> Feed:
        """Batches of all data sets; the options are those of `Dataset.feed`.

        A feed with other weights takes the state of this one: from there on its own
        weights hold.

        Raises:
            UsageError: As `Dataset.feed`.
        """
        setting = IndexedSetting(
            ", ".join(dataset.name for dataset in self._datasets),
            [dataset.strand(**order) for dataset in self._datasets],
            schedule=Schedule(self._weights),
            epoch_samples=self._epoch_samples,
        )
        options = feed_options(
            global_batch, rank, world, last=last, threads=threads, collate=collate
        )
        return Feed(setting, options)

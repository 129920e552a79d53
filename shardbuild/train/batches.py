"""What a feed gives: batches, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from shardbuild.streams.filters_batches import default_collation_fn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Batch", "Collate", "Facts", "Skipped", "stack"]


class Skipped(NamedTuple):
    """A sample that could not be used, and whose position another one took."""

    epoch: int
    position: int
    """Its place in the order of that epoch."""
    url: str
    key: str
    problem: str


class Batch(list[Any]):
    """This rank's samples of one step, in a list.

    >>> Batch(["a", "b"], epoch=0), Batch(["a", "b"], epoch=0).mask
    (['a', 'b'], None)
    """

    __slots__ = ("epoch", "mask", "positions")

    def __init__(
        self,
        samples: list[Any],
        *,
        epoch: int = 0,
        positions: NDArray[np.int64] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        super().__init__(samples)
        self.epoch = epoch
        self.positions = positions
        """Where in the order of the epoch they are from."""
        self.mask = mask
        """With ``last="mask"``: False for what only fills up the batch."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (list(self), self.epoch, self.positions, self.mask)


def _rebuilt(samples: list[Any], epoch: int, positions: Any, mask: Any) -> Batch:
    return Batch(samples, epoch=epoch, positions=positions, mask=mask)


class Facts(NamedTuple):
    """Where a feed stands after a batch."""

    epoch: int
    consumed: int
    """Positions of the epoch that were given out, by all ranks together."""
    skipped: tuple[Skipped, ...] = ()
    cursor: Any = None
    """Where the shards of a data set without an index stand."""


Collate = Callable[[Batch], Any]


def stack(batch: Batch) -> Any:
    """Make arrays of a batch: a dict of columns of dicts, a tuple of them of tuples.

    With ``last="mask"`` one column more says what counts: ``"__mask__"`` of dicts,
    the last one of tuples.

    >>> stack(Batch([(1, "a"), (2, "b")]))
    (array([1, 2]), ['a', 'b'])

    Raises:
        ValueError: The samples differ in their fields, or in their arrays' shapes.
    """
    columns = default_collation_fn(batch)
    if batch.mask is None:
        return columns
    if isinstance(columns, dict):
        return {**columns, "__mask__": batch.mask}
    return (*columns, batch.mask)

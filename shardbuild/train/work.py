"""One step of a feed, as it is handed to who does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shardbuild.train.batches import Facts

__all__ = ["Work"]


class Work(NamedTuple):
    """The pieces of a step, whose results one after the other are its batch."""

    pieces: list[Any]
    positions: NDArray[np.int64]
    is_real: NDArray[np.bool_] | None
    facts: Facts
    """Where the feed stands afterwards."""

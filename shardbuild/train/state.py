"""What of a feed is saved in a checkpoint, and what a saved one must agree with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shardbuild.errors import StateError

__all__ = ["FeedState", "Identity"]

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides which samples come in which order."""

    data: tuple[str, ...]
    """A fingerprint of each data set."""
    seed: int
    shuffle: bool
    open_shards: tuple[int, ...]
    blocks: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As a part of the state."""
        return {
            "data": list(self.data),
            "seed": self.seed,
            "shuffle": self.shuffle,
            "open_shards": list(self.open_shards),
            "blocks": list(self.blocks),
        }


@dataclass(frozen=True, slots=True)
class FeedState:
    """Where a feed stands: the same for all of its ranks.

    >>> state = FeedState(epoch=2, consumed=512)
    >>> me = Identity(("3f",), 7, True, (256,), (10,))
    >>> FeedState.from_json(state.to_json(me), me, "a.json") == state
    True
    """

    epoch: int = 0
    consumed: int = 0
    """Positions of the epoch that were given to the callers of all ranks."""
    cursor: Any = None
    """Where the shards of a data set without an index stand."""
    mixture: dict[str, Any] = field(default_factory=dict)
    """Weights, and what was drawn of each data set before they held."""

    def to_json(self, identity: Identity) -> dict[str, Any]:
        """What JSON can hold."""
        made = {
            "version": _VERSION,
            **identity.to_json(),
            "epoch": self.epoch,
            "consumed": self.consumed,
        }
        if self.cursor is not None:
            made["cursor"] = self.cursor
        if self.mixture:
            made["mixture"] = self.mixture
        return made

    @classmethod
    def from_json(cls, state: Any, identity: Identity, name: str) -> FeedState:
        """The state that `to_json` made.

        Raises:
            StateError: it is none, or it is of other data, or of another order.
        """
        if not isinstance(state, dict) or state.get("version") != _VERSION:
            raise StateError(name, f"no state of a feed: {str(state)[:200]}")
        for key, ours in identity.to_json().items():
            theirs = state.get(key)
            if theirs != ours:
                what = "another data set" if key == "data" else f"another {key!r}"
                problem = f"the state is of {what}: {theirs!r}, and this is {ours!r}"
                raise StateError(name, problem)
        numbers = state.get("epoch"), state.get("consumed")
        if not all(type(number) is int and number >= 0 for number in numbers):
            problem = f"the state has epoch {numbers[0]!r}, consumed {numbers[1]!r}"
            raise StateError(name, problem)
        return cls(
            epoch=state["epoch"],
            consumed=state["consumed"],
            cursor=state.get("cursor"),
            mixture=state.get("mixture", {}),
        )

"""Which keys a shard has had so far."""

from __future__ import annotations

from itertools import islice
from operator import lt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["KeyLedger"]


class KeyLedger:
    """Tells keys that come again.

    While keys only grow, as in most shards, none can come again: then it is enough
    to compare neighbours, and keys are kept as text that takes a fifth of a set.
    """

    __slots__ = ("_grown", "_keys", "_top")

    def __init__(self) -> None:
        self._top: str | None = ""
        """The largest key so far; None once a key was smaller than one before it."""
        self._grown: list[str] = []
        self._keys: set[str] = set()

    def __contains__(self, key: str) -> bool:
        if self._top is not None:
            if key > self._top:
                return False
            self._look_up_from_now_on()
        return key in self._keys

    def add(self, keys: Sequence[str]) -> int:
        """Note keys, up to the first that was there before; give how many.

        >>> ledger = KeyLedger()
        >>> ledger.add(["a", "c"]), ledger.add(["d", "b", "c", "e"]), "e" in ledger
        (2, 2, False)
        """
        if self._top is not None:
            is_growing = keys[0] > self._top and all(
                map(lt, keys, islice(keys, 1, None))
            )
            if is_growing:
                self._top = keys[-1]
                self._grown.append("\0".join(keys))
                return len(keys)
            self._look_up_from_now_on()
        known = self._keys
        if known.isdisjoint(keys) and len(set(keys)) == len(keys):
            known.update(keys)
            return len(keys)
        count = 0
        while keys[count] not in known:
            known.add(keys[count])
            count += 1
        return count

    def _look_up_from_now_on(self) -> None:
        self._top = None
        for keys in self._grown:
            self._keys.update(keys.split("\0"))
        self._grown.clear()

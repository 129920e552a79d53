"""Which keys a shard has had so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["KeyLedger"]


class KeyLedger:
    """Tells keys that come again."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, keys: Sequence[str]) -> int:
        """Note keys, up to the first that was there before; give how many.

        >>> KeyLedger().add(["a", "b", "a", "c"])
        2
        """
        known = self._keys
        before = len(known)
        if known.isdisjoint(keys):
            known.update(keys)
            if len(known) == before + len(keys):
                return len(keys)
            known.difference_update(keys)
        for count, key in enumerate(keys):
            if key in known:
                return count
            known.add(key)
        return len(keys)

"""What folders of copies have in common: room, leftovers, and who goes first."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from shardbuild.storage.claims import Claim, claim_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Copy", "evict", "hold_room", "remove_torso"]


@dataclass(frozen=True, slots=True)
class Copy:
    """A whole file in a folder of copies."""

    path: str
    num_bytes: int
    used: int
    """When it was used last, in nanoseconds."""


def hold_room(folder: str) -> Claim:
    """Hold the only right to make room in a folder; waits for it."""
    return cast("Claim", claim_file(os.path.join(folder, ".room.claim"), wait=True))


def remove_torso(path: str, claim_path: str) -> bool:
    """Remove what a dead process was making; False if a living one makes it."""
    claim = claim_file(claim_path)
    if claim is None:
        return False
    with claim, contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return True


def evict(copies: Iterable[Copy], excess: int, remove: Callable[[str], bool]) -> int:
    """Remove what was used longest ago, until so many bytes are gone.

    ``remove`` says whether it could. What comes is how many bytes went.

    >>> copies = [Copy("new", 5, 9), Copy("old", 5, 1), Copy("open", 5, 0)]
    >>> evict(copies, 3, lambda path: path != "open")
    5
    """
    gone = 0
    for copy in sorted(copies, key=lambda copy: (copy.used, copy.path)):
        if gone >= excess:
            break
        if remove(copy.path):
            gone += copy.num_bytes
    return gone

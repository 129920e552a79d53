"""What a reading of one shard noted besides its samples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["ReadFacts"]


@dataclass(slots=True)
class ReadFacts:
    """Counts of one reading, complete when its iterator is exhausted."""

    num_samples: int = 0
    num_members: int = 0
    """Members that are fields of samples."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Members that belong to no sample, by reason.

    ``directory``, ``link``, ``device``, ``unknown type``; and files that are
    ``meta``, ``hidden`` or have ``no extension``.
    """
    num_archives: int = 1
    """More than 1 if archives were joined, as by ``cat a.tar b.tar``."""
    num_bytes: int = 0
    """Length of the tar stream, with its end blocks and padding."""
    compression: str | None = None
    """``gzip``, ``bzip2``, ``xz``, ``zstd``, or None for a plain tar."""

    @property
    def num_skipped(self) -> int:
        """Members that belong to no sample.

        >>> facts = ReadFacts()
        >>> facts.skipped["directory"] += 2
        >>> facts.num_skipped
        2
        """
        return self.skipped.total()

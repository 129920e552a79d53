"""An index in the forms that other readers of tar shards keep theirs in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardbuild.shards.index import ShardIndex

__all__ = ["dali_index", "energon_index"]


def energon_index(index: ShardIndex) -> bytes:
    """The index as Megatron-Energon keeps it, in ``{shard}.tar.idx``."""
    return index.sample_offsets.astype("<u8").tobytes()


def dali_index(index: ShardIndex) -> str:
    """The index as DALI's ``wds2idx`` writes it, in its version 1.2.

    Raises:
        ValueError: a name has white space in it, which that form cannot hold.
    """
    lines = [f"v1.2 {index.num_samples}"]
    for i, key in enumerate(index.keys()):
        parts = []
        for extension, offset, size in index.members(i):
            name = f"{key}.{extension}"
            if not extension or name.split() != [name]:
                problem = f"DALI's index cannot hold the member name {name!r}"
                raise ValueError(problem)
            parts.append(f"{extension} {offset} {size} {name}")
        lines.append(" ".join(parts))
    return "\n".join(lines) + "\n"

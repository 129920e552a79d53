"""What the C library does with memory that was given back to it."""

from __future__ import annotations

from typing import Final

__all__ = ["keep_freed_memory"]

_KEPT_BYTES: Final = 31 << 20
"""Just below the 32 MiB up to which glibc takes a block for a sign."""


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for what is read next.

    At first glibc hands freed memory back to the system wherever 128 KiB of it lie
    together, and asks for it again with the next sample: each page of 4 KiB then costs
    a fault, more time than reading into it takes. It learns from the largest block
    that it mapped and saw freed (mallopt(3), ``M_MMAP_THRESHOLD`` and
    ``M_TRIM_THRESHOLD``), so it is shown one, which nobody ever touches. At most
    twice that, 62 MiB, stay with the process. Whoever sets ``MALLOC_TRIM_THRESHOLD_``
    or its kin has decided otherwise, and other C libraries go their own ways.

    >>> keep_freed_memory()
    """
    bytes(_KEPT_BYTES)

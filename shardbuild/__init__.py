"""Convert, transform, shuffle and verify data sets of tar shards."""

from __future__ import annotations

__version__ = "0.1.0"

"""Copy samples as they are.

The new shards may have another order, other sizes or another compression; the
samples in them are byte for byte those of the source. Where the source is
uncompressed shards, nothing is decoded and each output shard is gathered by
ranged reads.
"""

from __future__ import annotations

transform = None

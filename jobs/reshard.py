"""Copy samples as they are into shards of about one gigabyte.

As ``copy.py``, with a size that suits training from an object store: large
enough for long reads, small enough to give each worker several.
"""

from __future__ import annotations

transform = None

defaults: dict[str, object] = {"maxsize": "1GB"}

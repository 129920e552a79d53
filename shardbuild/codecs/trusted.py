"""Codecs that can run code: the only module that knows pickle.

It is imported when a caller says ``allow_pickle=True``, and never before.
"""

from __future__ import annotations

import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

from shardbuild.codecs.torchdata import decode_pth

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["trusting_decoders", "trusting_encoders"]

trusting_encoders: dict[str, Callable[[Any], bytes]] = dict.fromkeys(
    ("pyd", "pickle", "pkl"), pickle.dumps
)
"""Encoders by extension that are used instead of the others."""

trusting_decoders: dict[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(("pyd", "pickle", "pkl"), pickle.loads),
    "pth": partial(decode_pth, allow_pickle=True),
}
"""Decoders by extension that are used instead of the others."""

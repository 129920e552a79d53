"""Which protocols a user opens in a way of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardbuild.storage.urlparts import protocol_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["gopen_schemes", "handler_of", "is_stream"]

gopen_schemes: dict[str, Callable[..., Any]] = {}
"""Handlers by protocol, in lower case: ``handler(url, mode)`` gives a binary file.

What is in here goes before all that `gopen` knows itself: ``gopen_schemes["s3"]``
opens every ``s3://``. Reading needs the file's ``readinto`` and ``read``; local
paths, ``pipe:`` and ``-`` are never looked up.
"""


def handler_of(url: str) -> Callable[..., Any] | None:
    """The user's own way to open a url, if there is one.

    >>> handler_of("s3://b/k"), handler_of("x.tar")
    (None, None)
    """
    protocol = protocol_of(url)
    if not gopen_schemes or protocol in (None, "pipe", "file"):
        return None
    return gopen_schemes.get(str(protocol))


def is_stream(url: str) -> bool:
    """Whether a url can only be read from its beginning to its end.

    >>> is_stream("-"), is_stream("pipe:cat x"), is_stream("s3://b/k")
    (True, True, False)
    """
    return protocol_of(url) in (None, "pipe") or handler_of(url) is not None

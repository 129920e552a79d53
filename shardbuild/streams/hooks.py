"""Functions to be called at a moment that somebody else knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Hooks", "add_hook", "call_hook"]

Hook = Callable[..., Any]
Hooks = Hook | list[Hook] | None
"""No function, one, or some."""


def add_hook(fs: Hooks, f: Hook) -> list[Hook]:
    """Give the hooks ``fs`` with ``f`` after them; ``fs`` itself stays as it is.

    >>> add_hook(None, print) == [print]
    True
    >>> add_hook(repr, print) == add_hook([repr], print) == [repr, print]
    True
    """
    return [*_as_list(fs), f]


def call_hook(fs: Hooks, *args: Any, **kw: Any) -> None:
    """Call each hook, in order, with the same arguments.

    >>> call_hook(add_hook(None, print), "shard", 7, sep="-")
    shard-7
    >>> call_hook(None, "nobody listens")
    """
    for hook in _as_list(fs):
        hook(*args, **kw)


def _as_list(hooks: Hooks) -> list[Hook]:
    if hooks is None:
        return []
    return hooks if isinstance(hooks, list) else [hooks]

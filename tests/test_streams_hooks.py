"""Hooks: none, one or several functions, called in order."""

from __future__ import annotations

from shardbuild.streams.hooks import add_hook, call_hook


def test_hooks_are_called_in_the_order_in_which_they_were_added() -> None:
    calls: list[tuple[str, int, int]] = []
    hooks = add_hook(None, lambda number, twice: calls.append(("a", number, twice)))
    hooks = add_hook(hooks, lambda number, twice: calls.append(("b", number, twice)))
    call_hook(hooks, 3, twice=6)
    assert calls == [("a", 3, 6), ("b", 3, 6)]


def test_one_function_is_a_hook_and_none_is_no_hook() -> None:
    calls: list[int] = []
    call_hook(calls.append, 1)
    call_hook(None, 2)
    assert calls == [1]
    assert add_hook(print, repr) == [print, repr]


def test_adding_leaves_the_old_hooks_as_they_are() -> None:
    hooks = [print]
    assert add_hook(hooks, repr) == [print, repr]
    assert hooks == [print]

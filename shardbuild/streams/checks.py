"""Checks of arguments: each raises a ValueError that says what was expected.

A ValueError for a wrong type too: who checks catches one kind of error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Container

__all__ = [
    "check",
    "checkcallable",
    "checkmember",
    "checknotnone",
    "checkrange",
    "checktype",
]


def checktype(value: Any, types: type | tuple[type, ...], msg: str = "") -> None:
    """Check the type of a value.

    >>> checktype("7", (int, float), "size")
    Traceback (most recent call last):
    ValueError: ERROR size: '7' should be of type int or float

    Raises:
        ValueError: It is of none of the types.
    """
    if not isinstance(value, types):
        kinds = types if isinstance(types, tuple) else (types,)
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"ERROR {msg}: {value!r} should be of type {names}")  # noqa: TRY004


def checkmember(value: Any, values: Container[Any], msg: str = "") -> None:
    """Check that a value is one of some.

    >>> checkmember("random", ["round_robin"], "output_mode")
    Traceback (most recent call last):
    ValueError: ERROR output_mode: 'random' should be one of ['round_robin']

    Raises:
        ValueError: It is not.
    """
    if value not in values:
        raise ValueError(f"ERROR {msg}: {value!r} should be one of {values!r}")


def checkrange(value: Any, lo: Any, hi: Any, msg: str = "") -> None:
    """Check that a value is not below ``lo`` and not above ``hi``.

    >>> checkrange(1, 0, 1)
    >>> checkrange(2, 0, 1, "p")
    Traceback (most recent call last):
    ValueError: ERROR p: 2 should be in the range [0, 1]

    Raises:
        ValueError: It is outside, or not a number.
    """
    if not lo <= value <= hi:
        raise ValueError(f"ERROR {msg}: {value!r} should be in the range [{lo}, {hi}]")


def check(value: Any, msg: str = "") -> None:
    """Check that a value is true.

    >>> check([], "there are no shards")
    Traceback (most recent call last):
    ValueError: ERROR there are no shards: [] should be true

    Raises:
        ValueError: It is not.
    """
    if not value:
        raise ValueError(f"ERROR {msg}: {value!r} should be true")


def checkcallable(value: Any, msg: str = "") -> None:
    """Check that a value can be called.

    >>> checkcallable("jpg", "decoder")
    Traceback (most recent call last):
    ValueError: ERROR decoder: 'jpg' should be callable

    Raises:
        ValueError: It cannot.
    """
    if not callable(value):
        raise ValueError(f"ERROR {msg}: {value!r} should be callable")  # noqa: TRY004


def checknotnone(value: Any, msg: str = "") -> None:
    """Check that there is a value.

    >>> checknotnone(None, "url")
    Traceback (most recent call last):
    ValueError: ERROR url: None should be a value

    Raises:
        ValueError: It is None.
    """
    if value is None:
        raise ValueError(f"ERROR {msg}: None should be a value")

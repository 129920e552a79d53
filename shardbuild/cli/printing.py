"""How the commands print: plain text, and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence, Set

__all__ = ["count_of", "plain", "print_json", "printable"]


def printable(text: str) -> str:
    r"""Return ``text`` with what a terminal would obey written as escapes.

    >>> printable("naïve\x1b[31m")
    'naïve\\x1b[31m'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def count_of(number: int, noun: str) -> str:
    """Say a number of things.

    >>> count_of(1, "shard"), count_of(12_000, "sample")
    ('1 shard', '12,000 samples')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def plain(value: object) -> object:
    """Return a record as what JSON has: dicts, lists, text, numbers.

    >>> import dataclasses
    >>> @dataclasses.dataclass
    ... class Facts:
    ...     sizes: tuple[int, ...]
    >>> plain(Facts((1, 2)))
    {'sizes': [1, 2]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(map(str, value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def print_json(value: object) -> None:
    """Print ``value`` as one line of JSON, with sorted keys."""
    print(json.dumps(plain(value), sort_keys=True, ensure_ascii=True))

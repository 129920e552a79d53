"""Brace expansion as the shell does it: ``{a,b}``, ``{000..999}``, ``{a..z..2}``."""

from __future__ import annotations

import math
import re
from itertools import pairwise, product
from typing import TYPE_CHECKING

from shardbuild.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["expand_braces"]

MAX_EXPANSIONS = 10_000_000

_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.(-?\d+))?")
_SPECIAL = re.compile(r"\\.|[{},]", re.DOTALL)


def expand_braces(text: str) -> list[str]:
    r"""All that a text with braces stands for, in order.

    Braces nest. Numbers are padded with zeros to the wider end when one end is.
    What is no list and no range stays as it is: ``{}``, ``{a}``, a brace alone. A
    backslash takes the meaning from ``{``, ``}`` and ``,``.

    >>> expand_braces("s3://b/{train-{00..02},val}.tar")
    ['s3://b/train-00.tar', 's3://b/train-01.tar', 's3://b/train-02.tar', 's3://b/val.tar']
    >>> expand_braces("pipe:awk '{print}' x-{b..a}")
    ["pipe:awk '{print}' x-b", "pipe:awk '{print}' x-a"]

    Raises:
        StorageError: It stands for more than ten million texts.
    """
    return _expand(text, text) if "{" in text else [text]


def _expand(text: str, whole: str) -> list[str]:
    """Expand a text: literal pieces and alternatives, multiplied out."""
    pieces: list[Sequence[str]] = []
    rest = text
    while found := _first_group(rest):
        start, stop, commas = found
        pieces.append((_unescape(rest[:start]),))
        pieces.append(_group(rest[start + 1 : stop], commas, whole))
        rest = rest[stop + 1 :]
    pieces.append((_unescape(rest),))
    _check_count(math.prod(map(len, pieces)), whole)
    return list(map("".join, product(*pieces)))


def _group(inside: str, commas: list[int], whole: str) -> list[str]:
    if not commas:
        return _range(inside, whole)
    ends = [-1, *commas, len(inside)]
    parts = (inside[a + 1 : b] for a, b in pairwise(ends))
    return [text for part in parts for text in _expand(part, whole)]


def _check_count(count: int, whole: str) -> None:
    if count > MAX_EXPANSIONS:
        raise StorageError(whole, f"stands for more than {MAX_EXPANSIONS:,} urls")


def _first_group(text: str) -> tuple[int, int, list[int]] | None:
    """The first braces that mean something: start, stop, commas inside.

    One pass with a stack: an opening brace is decided when its partner comes.
    """
    stack: list[tuple[int, list[int]]] = []
    best: tuple[int, int, list[int]] | None = None
    for match in _SPECIAL.finditer(text):
        sign, at = match[0], match.start()
        if sign == "{":
            stack.append((at, []))
        elif sign == "," and stack:
            stack[-1][1].append(at)
        elif sign == "}" and stack:
            start, commas = stack.pop()
            means = commas or _is_range(text[start + 1 : at])
            if means and (best is None or start < best[0]):
                best = (start, at, [comma - start - 1 for comma in commas])
            if best is not None and not any(opened < best[0] for opened, _ in stack):
                return best
    return best


def _is_range(inside: str) -> bool:
    return bool(_NUMBERS.fullmatch(inside) or _LETTERS.fullmatch(inside))


def _range(inside: str, whole: str) -> list[str]:
    match = _LETTERS.fullmatch(inside)
    if match is not None:
        return list(map(chr, _steps(ord(match[1]), ord(match[2]), match[3])))
    first, last, step = (*re.split(r"\.\.", inside), None)[:3]
    numbers = _steps(int(first or 0), int(last or 0), step)
    _check_count(len(numbers), whole)
    padded = any(re.match(r"-?0\d", end or "") for end in (first, last))
    width = max(len(first or ""), len(last or "")) if padded else 0
    return [f"{number:0{width}d}" for number in numbers]


def _steps(first: int, last: int, step: str | None) -> range:
    size = abs(int(step or 1)) or 1
    if first <= last:
        return range(first, last + 1, size)
    return range(first, last - 1, -size)


def _unescape(text: str) -> str:
    return re.sub(r"\\([{},])", r"\1", text)

"""Picking and transforming the fields of one sample."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "alternatives",
    "compose",
    "getfirst",
    "parse_field_spec",
    "pipeline",
    "transform_with",
    "transformer",
]


def alternatives(names: str | Iterable[str]) -> list[str]:
    """The names in ``"a;b;c"``, or in a list of them.

    >>> alternatives("jpg;png"), alternatives(["jpg", "png"])
    (['jpg', 'png'], ['jpg', 'png'])

    Raises:
        ValueError: There is a blank in the text: these are several fields.
    """
    if not isinstance(names, str):
        return list(names)
    if " " in names:
        raise ValueError(f"{names!r} has a blank: alternatives are joined by ';'")
    return names.split(";")


def getfirst(
    sample: Mapping[str, Any],
    keys: str | Iterable[str],
    default: Any = None,
    missing_is_error: bool = True,  # noqa: FBT001, FBT002  # as in webdataset
) -> Any:
    """Give the first field that a sample has, of ``"a;b;c"`` or a list of names.

    >>> getfirst({"__key__": "7", "png": b"..."}, "jpg;png")
    b'...'
    >>> getfirst({"__key__": "7"}, "jpg;png", default=b"", missing_is_error=False)
    b''

    Raises:
        ValueError: It has none of them, and that is an error.
    """
    names = alternatives(keys)
    for name in names:
        if name in sample:
            return sample[name]
    if missing_is_error:
        raise ValueError(f"no field {' or '.join(names)!r} among {sorted(sample)}")
    return default


def parse_field_spec(fields: str | Iterable[str]) -> list[list[str]]:
    """Split ``"jpg;png cls"``, or a list of fields, into alternatives.

    >>> parse_field_spec("jpg;png cls")
    [['jpg', 'png'], ['cls']]
    """
    names = fields.split() if isinstance(fields, str) else fields
    return [alternatives(name) for name in names]


def transform_with(
    sample: Sequence[Any], transformers: Sequence[Callable[[Any], Any] | None] | None
) -> list[Any]:
    """Apply to each value the transformer at its place; None leaves it as it is.

    >>> transform_with(("a", "7", "b"), [str.upper, int])
    ['A', 7, 'b']

    Raises:
        ValueError: There are more transformers than values.
    """
    transformers = transformers or []
    if len(transformers) > len(sample):
        raise ValueError(
            f"{len(transformers)} transformers are too many for {len(sample)} values"
        )
    rest = [None] * (len(sample) - len(transformers))
    return [
        value if transform is None else transform(value)
        for value, transform in zip(sample, [*transformers, *rest], strict=True)
    ]


def transformer(
    transformers: Sequence[Callable[[Any], Any] | None] | None,
) -> Callable[[Sequence[Any]], list[Any]]:
    """`transform_with` as a function of the sample alone.

    >>> transformer([int, None])(("7", "x"))
    [7, 'x']
    """
    return functools.partial(transform_with, transformers=transformers)


def compose(*functions: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function that applies all of these, from left to right.

    >>> compose(str.strip, int)(" 7 ")
    7
    """
    return functools.partial(pipeline_of, functions)


def pipeline(source: Any, *stages: Callable[[Any], Any]) -> Any:
    """Apply stages to a source, from left to right.

    >>> from shardbuild.streams import curried
    >>> list(pipeline(range(6), curried.select(bool), curried.listed(2)))
    [[1, 2], [3, 4], [5]]
    """
    return pipeline_of(stages, source)


def pipeline_of(functions: Iterable[Callable[[Any], Any]], value: Any) -> Any:
    """`pipeline`, with the functions first."""
    for function in functions:
        value = function(value)
    return value

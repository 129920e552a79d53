"""Stages between samples and tuples, and on tuples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardbuild.errors import Handler, reraise_exception
from shardbuild.streams.fields import getfirst, transform_with
from shardbuild.streams.guarding import apply_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["map_tuple", "to_tuple"]


def to_tuple(
    samples: Iterable[Sample],
    /,
    *fields: str | Iterable[str],
    handler: Handler = reraise_exception,
    missing_is_error: bool = True,
    none_is_error: bool | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Make tuples of fields: ``"jpg;png", "cls"``, or ``"jpg;png cls"`` in one.

    >>> samples = [{"__key__": "a", "png": b"...", "cls": b"3"}]
    >>> list(to_tuple(samples, "jpg;png", "cls")), list(to_tuple(samples, "png cls"))
    ([(b'...', b'3')], [(b'...', b'3')])
    >>> list(to_tuple(samples, "jpg", "cls", missing_is_error=False))
    [(None, b'3')]

    Args:
        samples: Samples.
        fields: Names, or alternatives joined by ``;``: the first there is counts.
        handler: What decides about errors.
        missing_is_error: Whether all have to be there; else None takes the place.
        none_is_error: Whether a field may not be None; as ``missing_is_error``,
            if not said.

    Raises:
        ValueError: As said above, unless the handler bears it.
    """
    if none_is_error is None:
        none_is_error = missing_is_error
    names: Sequence[str | Iterable[str]] = fields
    if len(fields) == 1 and isinstance(fields[0], str) and " " in fields[0]:
        names = fields[0].split()

    def picked(sample: Sample) -> tuple[Any, ...]:
        values = tuple(
            getfirst(sample, name, missing_is_error=missing_is_error) for name in names
        )
        if none_is_error and None in map(type_or_none, values):
            raise ValueError(f"a field of {names} is None among {sorted(sample)}")
        return values

    return apply_each(samples, picked, handler)


def type_or_none(value: Any) -> type | None:
    """None for None: values themselves may compare in ways of their own."""
    return None if value is None else type(value)


def map_tuple(
    samples: Iterable[Sequence[Any]],
    /,
    *functions: Callable[[Any], Any] | None,
    handler: Handler = reraise_exception,
) -> Iterator[tuple[Any, ...]]:
    """Apply to each value of a tuple the function at its place; None is no change.

    Values without a function, and functions without a value, are no matter.

    >>> list(map_tuple([("a", "7", "b")], str.upper, int))
    [('A', 7, 'b')]

    Raises:
        TypeError: A function cannot be called, or a sample is no tuple or list.
    """
    for function in functions:
        if function is not None and not callable(function):
            raise TypeError(f"{function!r} cannot be called")

    def mapped(sample: Sequence[Any]) -> tuple[Any, ...]:
        if not isinstance(sample, (tuple, list)):
            raise TypeError(
                f"a {type(sample).__name__}, where a tuple is expected: put to_tuple"
                " before map_tuple"
            )
        return tuple(transform_with(sample, functions[: len(sample)]))

    return apply_each(samples, mapped, handler)

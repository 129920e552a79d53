"""Stages that choose, name and change the fields of samples.

A stage never changes the sample that it was given: it makes a new one.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from shardbuild.errors import Handler, reraise_exception
from shardbuild.streams.fields import alternatives, getfirst
from shardbuild.streams.guarding import apply_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from shardbuild.shards.samples import Sample

__all__ = ["associate", "extract_keys", "map_dict", "rename", "rename_keys"]


def rename(
    samples: Iterable[Sample],
    /,
    handler: Handler = reraise_exception,
    keep: bool = True,  # noqa: FBT001, FBT002  # as in webdataset
    **fields: str | Iterable[str],
) -> Iterator[Sample]:
    """Give fields new names: ``new="old"``, or the first there is of ``"old1;old2"``.

    Without ``keep`` no other field stays, not even ``__key__``.

    >>> samples = [{"__key__": "a", "png": b"...", "cls": b"3"}]
    >>> list(rename(samples, image="jpg;png"))
    [{'__key__': 'a', 'cls': b'3', 'image': b'...'}]
    >>> list(rename(samples, keep=False, image="jpg;png", key="__key__"))
    [{'image': b'...', 'key': 'a'}]

    Raises:
        ValueError: A sample has none of the old names, unless the handler bears it.
    """
    olds = {new: alternatives(old) for new, old in fields.items()}
    replaced = {name for names in olds.values() for name in names}

    def renamed(sample: Sample) -> Sample:
        others = {k: v for k, v in sample.items() if keep and k not in replaced}
        return {**others, **{new: getfirst(sample, old) for new, old in olds.items()}}

    return apply_each(samples, renamed, handler)


def rename_keys(
    samples: Iterable[Sample],
    /,
    *pairs: tuple[str, str],
    keep_unselected: bool = False,
    must_match: bool = True,
    duplicate_is_error: bool = True,
    handler: Handler = reraise_exception,
    **patterns: str,
) -> Iterator[Sample]:
    """Give new names to the fields that match patterns: ``new="*.jpg"``.

    ``pairs`` are (new name, pattern), for new names that are no identifiers. A
    pattern stands for a field's lower-case name without folders; of several that
    match, the last one counts.

    >>> samples = [{"__key__": "a", "left.jpg": b"...", "cls": b"3"}]
    >>> list(rename_keys(samples, image="*.jpg", key="__key__"))
    [{'key': 'a', 'image': b'...'}]
    >>> list(rename_keys(samples, ("l.jpg", "left.*"), keep_unselected=True))
    [{'__key__': 'a', 'l.jpg': b'...', 'cls': b'3'}]

    Args:
        samples: Samples.
        pairs: New names and patterns.
        keep_unselected: Whether fields stay that no pattern matches.
        must_match: Whether each pattern has to match some field.
        duplicate_is_error: Whether two fields may not get one name; if they may,
            the first one stays.
        handler: What decides about errors.
        patterns: New names and patterns.

    Raises:
        ValueError: As said above, unless the handler bears it.
    """
    renamings = [*pairs, *patterns.items()][::-1]

    def renamed(sample: Sample) -> Sample:
        result: Sample = {}
        matched = set()
        for name, value in sample.items():
            found = _renaming_of(name, renamings)
            if found is None:
                if not keep_unselected:
                    continue
                found = (name, "")
            new, pattern = found
            matched.add(pattern)
            if new not in result:
                result[new] = value
            elif duplicate_is_error:
                raise ValueError(f"two fields of {sorted(sample)} become {new!r}")
        missing = sorted({pattern for _, pattern in renamings} - matched)
        if must_match and missing:
            raise ValueError(f"no field among {sorted(sample)} matches {missing}")
        return result

    return apply_each(samples, renamed, handler)


def _renaming_of(
    field: str, renamings: Iterable[tuple[str, str]]
) -> tuple[str, str] | None:
    name = field.rpartition("/")[2].lower()
    matching = (pair for pair in renamings if fnmatchcase(name, pair[1]))
    return next(matching, None)


def extract_keys(
    samples: Iterable[Sample],
    /,
    *patterns: str | Iterable[str],
    duplicate_is_error: bool = True,
    ignore_missing: bool = False,
    handler: Handler = reraise_exception,
) -> Iterator[tuple[Any, ...]]:
    """Make tuples of the fields that match patterns, such as ``"*.jpg;*.png"``.

    >>> samples = [{"__key__": "a", "left.jpg": b"...", "cls": b"3"}]
    >>> list(extract_keys(samples, "*.jpg", "*.cls"))
    [(b'...', b'3')]

    Args:
        samples: Samples.
        patterns: Of fields; a field's name may also be matched with a dot before.
        duplicate_is_error: Whether only one field may match a pattern; else the
            sample's first that does is taken.
        ignore_missing: Whether a pattern that matches no field is left out; the
            tuple is shorter by one then.
        handler: What decides about errors.

    Raises:
        ValueError: As said above, unless the handler bears it.
    """
    wanted = [alternatives(pattern) for pattern in patterns]

    def extracted(sample: Sample) -> tuple[Any, ...]:
        found = []
        for names in wanted:
            matches = _matching(sample, names)
            if not matches and not ignore_missing:
                raise ValueError(f"no field among {sorted(sample)} matches {names}")
            if len(matches) > 1 and duplicate_is_error:
                raise ValueError(f"{matches} match {names}, and only one may")
            found += [sample[name] for name in matches[:1]]
        return tuple(found)

    return apply_each(samples, extracted, handler)


def _matching(sample: Sample, patterns: list[str]) -> list[str]:
    return [
        field
        for field in sample
        if any(
            fnmatchcase(field, pattern) or fnmatchcase(f".{field}", pattern)
            for pattern in patterns
        )
    ]


def associate(
    samples: Iterable[Sample],
    /,
    associator: Mapping[str, Mapping[str, Any]] | Callable[[str], Mapping[str, Any]],
    handler: Handler = reraise_exception,
) -> Iterator[Sample]:
    """Add the fields that a mapping, or a function, has for each sample's key.

    >>> samples = [{"__key__": "a"}, {"__key__": "b"}]
    >>> list(associate(samples, {"a": {"cls": 3}}))
    [{'__key__': 'a', 'cls': 3}, {'__key__': 'b'}]
    """

    def associated(sample: Sample) -> Sample:
        key = sample["__key__"]
        found = associator(key) if callable(associator) else associator.get(key, {})
        return {**sample, **found}

    return apply_each(samples, associated, handler)


def map_dict(
    samples: Iterable[Sample],
    /,
    handler: Handler = reraise_exception,
    **functions: Callable[[Any], Any],
) -> Iterator[Sample]:
    """Apply to each of these fields the function of its name.

    >>> list(map_dict([{"__key__": "a", "cls": "3"}], cls=int))
    [{'__key__': 'a', 'cls': 3}]

    Raises:
        KeyError: A sample lacks a field, unless the handler bears it.
        ValueError: No field is named.
        TypeError: What is to be applied to one cannot be called.
    """
    if not functions:
        raise ValueError("no field is named: map_dict(cls=int) names one")
    for field, function in functions.items():
        if not callable(function):
            raise TypeError(f"{field}={function!r} cannot be called")

    def mapped(sample: Sample) -> Sample:
        return {**sample, **{k: f(sample[k]) for k, f in functions.items()}}

    return apply_each(samples, mapped, handler)

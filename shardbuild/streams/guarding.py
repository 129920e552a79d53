"""Errors in stages: what a stage does to one sample, and what its handler says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardbuild.errors import Handler, MissingExtraError, reraise_exception

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["apply_each", "goes_on", "note_sample"]


def apply_each(
    samples: Iterable[Any],
    function: Callable[[Any], Any],
    handler: Handler = reraise_exception,
) -> Iterator[Any]:
    """Apply a function to each sample; its errors, and no others, go to the handler.

    >>> from shardbuild.errors import ignore_and_continue, ignore_and_stop
    >>> list(apply_each(["1", "x", "3"], int, ignore_and_continue))
    [1, 3]
    >>> list(apply_each(["1", "x", "3"], int, ignore_and_stop))
    [1]
    """
    for sample in samples:
        try:
            result = function(sample)
        except Exception as error:  # noqa: BLE001  # the handler decides
            note_sample(error, sample)
            if goes_on(error, handler):
                continue
            return
        yield result


def goes_on(error: Exception, handler: Handler) -> bool:
    """What a handler says of an error.

    It is not asked about those that would hit every sample: these are raised.

    >>> from shardbuild.errors import ignore_and_continue
    >>> goes_on(ValueError("x"), ignore_and_continue)
    True
    """
    if isinstance(error, (MemoryError, MissingExtraError)):
        raise error
    return handler(error)


def note_sample(error: Exception, sample: Any) -> None:
    """Add to an error which sample it is about, if the sample tells.

    >>> error = ValueError("too small")
    >>> note_sample(error, {"__key__": "a/7", "__url__": "x.tar"})
    >>> error.__notes__
    ["x.tar: sample 'a/7'"]
    """
    if isinstance(sample, dict) and "__key__" in sample:
        url = sample.get("__url__")
        place = f"{url}: " if isinstance(url, str) else ""
        error.add_note(f"{place}sample {sample['__key__']!r}")

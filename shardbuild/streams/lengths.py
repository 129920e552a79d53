"""How many samples come out of a stage, where that is known before reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardbuild.errors import reraise_exception
from shardbuild.streams import filters
from shardbuild.streams.filters_epochs import epoch_length

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardbuild.streams.stages import Stage

__all__ = ["length_after"]

Options = dict[str, Any]


def length_after(stage: Callable[..., Any], length: int | None) -> int | None:
    """How many samples a stage gives of ``length``; None if nobody knows.

    A stage whose handler leaves samples out, and one that drops by what is in them
    (``select``, and ``map``, where None drops), has no length.

    >>> from shardbuild.streams import curried
    >>> length_after(curried.batched(4), 10), length_after(curried.select(bool), 10)
    (3, None)
    """
    function = getattr(stage, "function", None)
    if function is filters.with_length or function is filters.with_epoch:
        return _given(_options(stage))
    if length is None:
        return None
    rule = _RULES.get(function)
    if rule is None:
        return None
    options = _options(stage)
    if options.get("handler", reraise_exception) is not reraise_exception:
        return None
    return rule(length, options)


def _options(stage: Any) -> Options:
    checked: Stage = stage
    return checked.arguments()


def _given(options: Options) -> int:
    if "n" in options:
        return int(options["n"])
    return epoch_length(options["nsamples"], options["nbatches"])


def _same(length: int, options: Options) -> int:
    del options
    return length


def _batches(length: int, options: Options) -> int:
    size: int = options["batchsize"]
    return -(-length // size) if options["partial"] else length // size


def _slice(length: int, options: Options) -> int:
    return len(range(length)[slice(*options["args"])])


def _repeated(length: int, options: Options) -> int | None:
    epochs: int = options["nepochs"]
    limit: int = options["nbatches"]
    if not length:
        return 0
    if epochs < 1:
        return limit if limit > 0 else None
    return min(length * epochs, limit) if limit > 0 else length * epochs


_RULES: dict[Any, Callable[[int, Options], int | None]] = {
    filters.batched: _batches,
    filters.listed: _batches,
    filters.slice: _slice,
    filters.repeat: _repeated,
    **dict.fromkeys(
        (
            filters.associate,
            filters.dbcache,
            filters.decode,
            filters.extract_keys,
            filters.info,
            filters.log_keys,
            filters.map_dict,
            filters.map_tuple,
            filters.rename,
            filters.rename_keys,
            filters.shuffle,
            filters.to_tuple,
        ),
        _same,
    ),
}

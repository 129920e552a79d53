"""Stages on the samples of a batch: one result for each, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from shardbuild.errors import MissingExtraError, UsageError
from shardbuild.streams import filters
from shardbuild.streams.stages import Stage

__all__ = ["NoResult", "apply_stages", "check_stages"]

AnyStage = Callable[[Iterable[Any]], Iterable[Any]]

_INSTEAD = {
    "batched": "say global_batch, and collate",
    "dbcache": "say cache",
    "listed": "say global_batch",
    "repeat": "iterate over the feed again for each epoch",
    "rsample": "say where(...)",
    "select": "say where(...), or let map raise for what is bad",
    "shuffle": "say shuffle=True to the feed",
    "slice": "slice the data set itself, before its stages",
    "with_epoch": "a feed knows its epochs",
    "with_length": "a feed knows its length",
}


class NoResult:
    """A sample that came out of no stage, and the error that kept it, if any."""

    __slots__ = ("error",)

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    @property
    def problem(self) -> str:
        """Why, in words."""
        if self.error is None:
            return "a stage dropped it"
        return f"{type(self.error).__name__}: {self.error}"


def check_stages(stages: Sequence[AnyStage]) -> None:
    """Refuse stages that do not make one of each sample.

    >>> from shardbuild.streams import curried
    >>> check_stages([curried.to_tuple("jpg", "cls")])
    >>> check_stages([curried.shuffle(100)])
    Traceback (most recent call last):
    shardbuild.errors.UsageError: stage shuffle: a feed has an order of its own: ...

    Raises:
        UsageError: As said.
    """
    for stage in stages:
        name = getattr(getattr(stage, "function", None), "__name__", "")
        is_ours = isinstance(stage, Stage) and stage.function is vars(filters).get(name)
        if is_ours and name in {*_INSTEAD, "pipe", "unbatched", "unlisted"}:
            instead = _INSTEAD.get(name, "use stages that make one of each sample")
            problem = f"a feed has an order of its own: {instead}"
            raise UsageError(f"stage {name}", problem)


def apply_stages(
    stages: Sequence[AnyStage], samples: Sequence[Any]
) -> list[Any | NoResult]:
    """What the stages make of each sample; each passes through them once.

    >>> from shardbuild.streams import curried
    >>> made = apply_stages([curried.map(lambda text: 6 // int(text))], "1x02")
    >>> made[0], made[1].problem, made[2].problem, made[3]
    (6, "ValueError: invalid literal for int() with base 10: 'x'", \
'ZeroDivisionError: integer division or modulo by zero', 3)

    Raises:
        UsageError: A stage made several of one sample.
        MissingExtraError: A stage needs a package that is not installed.
    """
    if not stages:
        return list(samples)
    results: list[Any | NoResult] = []
    while len(results) < len(samples):
        source = _Source(samples, len(results))
        error = None
        try:
            for result in _chained(stages, source):
                _fill(results, source.taken - 1)
                results.append(result)
                _check_count(results, source.taken)
        except (MemoryError, MissingExtraError, UsageError):
            raise
        except Exception as caught:  # noqa: BLE001  # the caller decides about it
            error = caught
        if error is None and source.taken == len(results):
            # A stage that wants no more, though there is more.
            source.taken += source.taken < len(samples)
        _fill(results, source.taken - (error is not None))
        if error is not None:
            results.append(NoResult(error))
    return results


def _check_count(results: list[Any | NoResult], most: int) -> None:
    if len(results) > most:
        raise UsageError("stages", "made several of one sample")


def _chained(stages: Sequence[AnyStage], samples: Iterable[Any]) -> Iterator[Any]:
    for stage in stages:
        samples = stage(iter(samples))
    return iter(samples)


def _fill(results: list[Any | NoResult], count: int) -> None:
    while len(results) < count:
        results.append(NoResult(None))


class _Source:
    """Samples from one of them on, that counts what was taken."""

    def __init__(self, samples: Sequence[Any], start: int) -> None:
        self._samples = samples
        self.taken = start

    def __iter__(self) -> Iterator[Any]:
        while self.taken < len(self._samples):
            self.taken += 1
            yield self._samples[self.taken - 1]

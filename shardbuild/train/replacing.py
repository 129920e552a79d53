"""Samples that are bad, and the others that take their positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from shardbuild.errors import SampleError
from shardbuild.train.applying import NoResult, apply_stages
from shardbuild.train.batches import Skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from shardbuild.shards.samples import Sample

__all__ = ["Candidate", "value_of_next"]


class Candidate(NamedTuple):
    """A sample, and where in the order it is."""

    epoch: int
    position: int
    sample: Sample


def value_of_next(
    stages: Sequence[Callable[[Iterable[Any]], Iterable[Any]]],
    bad: Candidate,
    why: NoResult,
    following: Iterable[Candidate],
    skipped: list[Skipped],
) -> Any:
    """What the stages make of the first good sample that follows a bad one.

    Those that are bad are added to ``skipped``.

    Raises:
        SampleError: None that follows is good.
    """
    num_before = 0
    for candidate in following:
        skipped.append(_skipped(bad, why))
        num_before += 1
        (value,) = apply_stages(stages, [candidate.sample])
        if not isinstance(value, NoResult):
            return value
        bad, why = candidate, value
    problem = why.problem
    if num_before:
        problem += f" (and {num_before} before it in the order: see max_bad)"
    last = _skipped(bad, why)
    raise SampleError(last.url, problem, last.key) from why.error


def _skipped(bad: Candidate, why: NoResult) -> Skipped:
    url, key = str(bad.sample["__url__"]), str(bad.sample["__key__"])
    return Skipped(bad.epoch, bad.position, url, key, why.problem)

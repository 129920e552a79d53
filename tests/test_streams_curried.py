"""Filters without samples: functions that wait for them."""

from __future__ import annotations

import inspect
import pickle

import pytest

from shardbuild.streams import curried, filters
from shardbuild.streams.fluid import Pipeline
from shardbuild.streams.stages import Stage

NAMES = sorted(set(vars(curried)) & set(filters.__all__))


def test_every_stage_has_its_curried_form_and_its_method() -> None:
    plain = {
        name
        for name in filters.__all__
        if next(iter(inspect.signature(getattr(filters, name)).parameters)) == "samples"
    }
    stages = plain - {"default_collation_fn"}
    assert set(NAMES) == stages
    assert set(vars(Pipeline)) & stages == stages - {"resampled"}


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_those_of_the_filters(name: str) -> None:
    own = list(inspect.signature(getattr(filters, name)).parameters.values())[1:]
    made = getattr(curried, name)
    assert list(inspect.signature(made).parameters.values()) == own
    assert made.__name__ == name
    assert made.__doc__
    assert ">>>" not in made.__doc__
    if name != "resampled":
        method = getattr(Pipeline, name)
        assert list(inspect.signature(method).parameters.values())[1:] == own


def test_stages_and_their_makers_travel() -> None:
    stage = curried.batched(2, collation_fn=sum)
    again = pickle.loads(pickle.dumps(stage))  # noqa: S301
    assert isinstance(again, Stage)
    assert list(again([1, 2, 3])) == [3, 3]
    for made in (curried.map, Pipeline.map):
        assert pickle.loads(pickle.dumps(made)) is made  # noqa: S301


def test_wrong_arguments_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match="batchsiz"):
        curried.batched(batchsiz=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="predicate"):
        curried.select()  # type: ignore[call-arg]

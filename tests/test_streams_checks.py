"""Checks raise ValueError, and say which value was wrong."""

from __future__ import annotations

import math

import pytest

from shardbuild.streams import checks


def test_what_is_right_passes() -> None:
    checks.checktype(7, (str, int), "n")
    checks.checkmember("a", {"a", "b"}, "n")
    checks.checkrange(0, 0, 1)
    checks.checkrange(1, 0, 1)
    checks.check([0])
    checks.checkcallable(print)
    checks.checknotnone(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checks.checktype("7", int, "n"), "ERROR n: '7' should be of type int"),
        (lambda: checks.checkmember("c", ["a"], "n"), "ERROR n: 'c' should be one of"),
        (lambda: checks.checkrange(-1, 0, 1, "n"), "ERROR n: -1 should be in"),
        (lambda: checks.checkrange(2, 0, 1, "n"), "ERROR n: 2 should be in"),
        (lambda: checks.checkrange(math.nan, 0, 1, "n"), "ERROR n: nan should be in"),
        (lambda: checks.check("", "n"), "ERROR n: '' should be true"),
        (lambda: checks.checkcallable(7, "n"), "ERROR n: 7 should be callable"),
        (lambda: checks.checknotnone(None, "n"), "ERROR n: None should be a value"),
    ],
)
def test_what_is_wrong_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match="ERROR") as caught:
        call()
    assert message in str(caught.value)

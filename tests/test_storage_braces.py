"""Braces expand as the shell expands them."""

from __future__ import annotations

import shutil
import subprocess

import braceexpand
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbuild.errors import StorageError
from shardbuild.storage import braces
from shardbuild.storage.braces import expand_braces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x.tar", ["x.tar"]),
        ("{a,b}", ["a", "b"]),
        ("x-{008..011}.tar", [f"x-{n:03d}.tar" for n in range(8, 12)]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..10..5}", ["0", "5", "10"]),
        ("{10..0..-5}", ["10", "5", "0"]),
        ("{-01..1}", ["-01", "000", "001"]),
        ("{a..e..2}", ["a", "c", "e"]),
        ("{a,}x", ["ax", "x"]),
        ("{a,{b,c}}{1,2}", ["a1", "a2", "b1", "b2", "c1", "c2"]),
        ("{}", ["{}"]),
        ("{a}", ["{a}"]),
        ("${VAR}/{a,b}", ["${VAR}/a", "${VAR}/b"]),
        ("{a,b", ["{a,b"]),
        ("a}b{c,d}", ["a}bc", "a}bd"]),
        ("{x{a,b}", ["{xa", "{xb"]),
        ("{{a,b}}", ["{a}", "{b}"]),
        (r"\{a,b}-{c,d}", ["{a,b}-c", "{a,b}-d"]),
        (r"{a\,b,c}", ["a,b", "c"]),
        ("awk '{print $1}'", ["awk '{print $1}'"]),
    ],
)
def test_expands(text, expected):
    assert expand_braces(text) == expected


_words = st.recursive(
    st.text("abz019/.-_", max_size=4)
    | st.builds("{{{}..{}}}".format, st.integers(-12, 12), st.integers(-12, 12))
    | st.builds("{{{:03d}..{}}}".format, st.integers(0, 12), st.integers(0, 12))
    | st.builds(
        "{{{}..{}}}".format, st.sampled_from("abcxyz"), st.sampled_from("abyz")
    ),
    lambda inner: (
        st.lists(inner, min_size=2, max_size=3).map(
            lambda parts: "{" + ",".join(parts) + "}"
        )
        | st.lists(inner, max_size=3).map("".join)
    ),
    max_leaves=6,
)


@given(_words)
def test_agrees_with_the_package_that_peers_use(text):
    assert expand_braces(text) == list(braceexpand.braceexpand(text))


_plain = st.lists(
    st.sampled_from(["{", "}", ",", "a", "b", "1", "{1..2}", "{a,b}"]), max_size=8
)


@settings(max_examples=60, deadline=None)
@given(_plain.map("".join))
def test_agrees_with_bash_also_when_unbalanced(text):
    bash = shutil.which("bash")
    assert bash is not None
    command = f"printf '%s\\n' x{text}x"
    answer = subprocess.run([bash, "-c", command], capture_output=True, check=True)
    assert expand_braces(f"x{text}x") == answer.stdout.decode().splitlines()


def test_what_stands_for_too_much_is_refused_at_once():
    with pytest.raises(StorageError, match="more than 10,000,000 urls"):
        expand_braces("{0..99999}{0..99999}.tar")
    with pytest.raises(StorageError, match="more than"):
        expand_braces("{0..999999999999}")


def test_the_limit_is_no_smaller_than_it_says(monkeypatch):
    monkeypatch.setattr(braces, "MAX_EXPANSIONS", 100)
    assert len(expand_braces("{00..99}")) == 100
    with pytest.raises(StorageError):
        expand_braces("{000..100}")

"""Names of members, and the samples that they make."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbuild.shards.samples import (
    KEY_RULES,
    NameSplitter,
    base_plus_ext,
    is_meta,
    skip_reason,
    split_member,
)

SEED_RULE = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")

EXTENSIONS = ["JPG", "jpg", "seg.PNG", "x.y", "b__", "İ", "a/b", ".c", ""]

names = st.text(st.sampled_from("ab./_ä\n"), max_size=12)


class TestBasePlusExt:
    @pytest.mark.parametrize(
        ("name", "key", "extension"),
        [
            ("a.jpg", "a", "jpg"),
            ("a.b/c.jpg", "a.b/c", "jpg"),
            ("a.seg.PNG", "a", "seg.PNG"),
            ("a.", "a", ""),
            ("a..b", "a", ".b"),
            ("a/../b.txt", "a/../b", "txt"),
            ("../b.txt", "../b", "txt"),
            ("Track 2.0 (C).mp3", "Track 2", "0 (C).mp3"),
            ("v1.5/x.y.a", "v1.5/x", "y.a"),
            ("/abs/a.jpg", "/abs/a", "jpg"),
        ],
    )
    def test_is_the_seeds_rule(self, name: str, key: str, extension: str) -> None:
        assert base_plus_ext(name) == (key, extension)
        assert SEED_RULE.match(name).groups() == (key, extension)  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "name", ["x", "dir/a", "a.b/c", ".hidden", ".a.txt", "..a", "", "a/", "a.b/"]
    )
    def test_gives_nothing_where_the_seed_gave_nothing(self, name: str) -> None:
        assert base_plus_ext(name) is None
        assert base_plus_ext(name, "last-dot") is None
        assert SEED_RULE.match(name) is None

    @pytest.mark.parametrize("name", ["a/.hidden", "dir/.a.txt", "d/._x.jpg", "./.a.b"])
    def test_hidden_files_belong_to_no_sample(self, name: str) -> None:
        assert base_plus_ext(name) is None
        assert base_plus_ext(name, "last-dot") is None

    @pytest.mark.parametrize("here", ["./", "././", ".//", ".///./"])
    def test_a_leading_dot_folder_is_removed(self, here: str) -> None:
        assert base_plus_ext(here + "d/a.jpg") == ("d/a", "jpg")

    @pytest.mark.parametrize(
        ("name", "key", "extension"),
        [
            ("v1.5.jpg", "v1.5", "jpg"),
            ("a.", "a", ""),
            ("a..b", "a.", "b"),
            ("d.e/a", None, None),
            ("Track 2.0 (C).mp3", "Track 2.0 (C)", "mp3"),
        ],
    )
    def test_the_last_dot_may_end_the_key(
        self, name: str, key: str | None, extension: str | None
    ) -> None:
        expected = None if key is None else (key, extension)
        assert base_plus_ext(name, "last-dot") == expected

    @given(names)
    def test_differs_from_the_seed_only_where_it_says_so(self, name: str) -> None:
        old = SEED_RULE.match(name)
        new = base_plus_ext(name)
        file_name = name.rsplit("/", 1)[-1]
        if file_name.startswith("."):
            assert new is None
        elif name.startswith("./") or "\n" in name:
            return
        else:
            assert new == (old.groups() if old else None)

    @given(names, st.sampled_from(KEY_RULES))
    def test_key_and_extension_make_the_name(self, name: str, rule: str) -> None:
        parts = base_plus_ext(name, rule)  # type: ignore[arg-type]
        if parts is not None:
            assert name.endswith(".".join(parts))
            assert "/" not in parts[1]
            assert parts[0]


class TestMeta:
    @pytest.mark.parametrize(
        "name", ["__key__", "__x__/a.jpg", "./__x__/a.jpg", "____", "__a.b__"]
    )
    def test_top_level_names_in_low_lines_are_meta(self, name: str) -> None:
        assert is_meta(name)
        assert split_member(name) is None
        assert skip_reason(name) == "meta"

    @pytest.mark.parametrize(
        "name", ["x/__a__/q.txt", "__x.jpg", "__x__.jpg", "a.__b__"]
    )
    def test_others_are_not(self, name: str) -> None:
        assert not is_meta(name)
        assert split_member(name) is not None


class TestNameSplitter:
    @given(st.lists(names, max_size=12), st.sampled_from(KEY_RULES))
    def test_does_as_split_member_does(self, some: list[str], rule: str) -> None:
        splitter = NameSplitter(rule)  # type: ignore[arg-type]
        for name in [*some, *some]:
            expected = split_member(name, rule)  # type: ignore[arg-type]
            assert splitter.split(name) == expected

    @given(
        st.lists(
            st.sampled_from(["JPG", "jpg", "seg.PNG", "x.y", "b__", "İ", "a/b", ".c"])
        )
    )
    def test_does_so_for_one_key(self, extensions: list[str]) -> None:
        for rule in KEY_RULES:
            for key in ("7", "./7", "__a__", "v1.2/7", "v1.2"):
                splitter = NameSplitter(rule)
                for extension in extensions:
                    name = f"{key}.{extension}"
                    assert splitter.split(name) == split_member(name, rule)


def test_extensions_are_lower_cased_and_keys_are_not() -> None:
    assert split_member("A/B.Seg.PNG") == ("A/B", "seg.png")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("README", "no extension"), ("a/.b", "hidden"), ("__x__/b.c", "meta")],
)
def test_what_is_skipped_has_a_reason(name: str, reason: str) -> None:
    assert split_member(name) is None
    assert skip_reason(name) == reason

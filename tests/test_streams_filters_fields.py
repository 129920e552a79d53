"""Stages on the fields of samples."""

from __future__ import annotations

from typing import Any

import pytest

from shardbuild.errors import ignore_and_continue
from shardbuild.streams import filters

A: dict[str, Any] = {
    "__key__": "a",
    "__url__": "x.tar",
    "left.jpg": b"l",
    "Right.JPG": b"r",
    "cls": 3,
}


def unchanged(stage, **options):
    """The one sample that a stage makes of A, which it leaves alone."""
    sample = dict(A)
    (made,) = stage([sample], **options)
    assert sample == A
    return made


class TestRename:
    def test_gives_a_new_name(self) -> None:
        made = unchanged(filters.rename, target="cls")
        assert made == {**{k: v for k, v in A.items() if k != "cls"}, "target": 3}

    def test_takes_the_first_alternative_and_drops_the_others(self) -> None:
        made = unchanged(filters.rename, image="none;left.jpg;cls")
        assert made["image"] == b"l"
        assert not made.keys() & {"left.jpg", "cls"}

    def test_takes_lists_of_alternatives(self) -> None:
        assert unchanged(filters.rename, image=["none", "cls"])["image"] == 3

    def test_may_keep_only_what_is_named(self) -> None:
        assert unchanged(filters.rename, keep=False, y="cls") == {"y": 3}

    def test_a_missing_field_goes_to_the_handler(self) -> None:
        samples = [{"__key__": "b"}, A]
        with pytest.raises(ValueError, match="cls") as caught:
            list(filters.rename(samples, y="cls"))
        assert caught.value.__notes__ == ["sample 'b'"]
        assert len(list(filters.rename(samples, ignore_and_continue, y="cls"))) == 1

    def test_names_may_be_exchanged(self) -> None:
        (made,) = filters.rename([{"x": 1, "y": 2}], x="y", y="x")
        assert made == {"x": 2, "y": 1}


class TestRenameKeys:
    def test_patterns_match_names_in_lower_case(self) -> None:
        assert unchanged(filters.rename_keys, image="right.jpg") == {"image": b"r"}

    def test_the_last_pattern_that_matches_counts(self) -> None:
        made = unchanged(filters.rename_keys, any="*.jpg", left="left.*")
        assert made == {"left": b"l", "any": b"r"}

    def test_others_may_stay(self) -> None:
        made = unchanged(filters.rename_keys, y="cls", keep_unselected=True)
        assert made == {**{k: v for k, v in A.items() if k != "cls"}, "y": 3}

    def test_a_pattern_has_to_match(self) -> None:
        with pytest.raises(ValueError, match="png"):
            unchanged(filters.rename_keys, image="*.png")
        assert unchanged(filters.rename_keys, image="*.png", must_match=False) == {}

    def test_two_fields_may_not_get_one_name(self) -> None:
        with pytest.raises(ValueError, match="image"):
            unchanged(filters.rename_keys, image="*.jpg")
        made = unchanged(filters.rename_keys, image="*.jpg", duplicate_is_error=False)
        assert made == {"image": b"l"}

    def test_pairs_give_any_name(self) -> None:
        (made,) = filters.rename_keys([A], ("a.jpg", "left.*"), ("key", "__key__"))
        assert made == {"key": "a", "a.jpg": b"l"}

    def test_folders_do_not_count(self) -> None:
        assert list(filters.rename_keys([{"d/x.jpg": 1}], y="x.*")) == [{"y": 1}]


class TestExtractKeys:
    def test_patterns_give_a_tuple(self) -> None:
        assert list(filters.extract_keys([A], "cls", "*.jpg")) == [(3, b"l")]
        assert list(filters.extract_keys([A], ".cls", ["x", "left.*"])) == [(3, b"l")]

    def test_one_field_has_to_match(self) -> None:
        with pytest.raises(ValueError, match="png"):
            list(filters.extract_keys([A], "*.png"))
        loose = filters.extract_keys([A], "*.png", "cls", ignore_missing=True)
        assert list(loose) == [(3,)]

    def test_only_one_field_may_match(self) -> None:
        with pytest.raises(ValueError, match="only one"):
            list(filters.extract_keys([A], "*.jpg;*.JPG"))
        loose = filters.extract_keys([A], "*.jpg;*.JPG", duplicate_is_error=False)
        assert list(loose) == [(b"l",)]

    def test_errors_go_to_the_handler(self) -> None:
        samples = [{"__key__": "b"}, A]
        made = filters.extract_keys(samples, "cls", handler=ignore_and_continue)
        assert list(made) == [(3,)]


class TestAssociate:
    def test_takes_mappings_and_functions(self) -> None:
        assert unchanged(filters.associate, associator={"a": {"y": 1}})["y"] == 1
        assert unchanged(filters.associate, associator={}) == A
        made = unchanged(filters.associate, associator=lambda key: {"y": key * 2})
        assert made["y"] == "aa"

    def test_errors_go_to_the_handler(self) -> None:
        samples = [{"cls": 1}, A]
        made = filters.associate(samples, {}, ignore_and_continue)
        assert list(made) == [A]


class TestMapDict:
    def test_applies_functions_by_field(self) -> None:
        assert unchanged(filters.map_dict, cls=str) == {**A, "cls": "3"}

    def test_refuses_no_functions_and_what_is_none(self) -> None:
        with pytest.raises(ValueError, match="no field is named"):
            filters.map_dict([])
        with pytest.raises(TypeError, match="cls='x' cannot be called"):
            filters.map_dict([], cls="x")  # type: ignore[arg-type]

    def test_errors_go_to_the_handler(self) -> None:
        samples = [{"__key__": "b"}, A]
        with pytest.raises(KeyError):
            list(filters.map_dict(samples, cls=str))
        assert len(list(filters.map_dict(samples, ignore_and_continue, cls=str))) == 1

"""``shardbuild mix``: several sets by weights."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from shardbuild import TarWriter
from shardbuild.cli.main import main
from shardbuild.cli.mix import parse_mix
from tests.streamed import keys_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    for name, count in (("a", 200), ("b", 50)):
        with TarWriter(f"{tmp_path}/{name}.tar") as writer:
            for i in range(count):
                writer.write({"__key__": f"{name}/{i:03d}", "cls": i})
    monkeypatch.chdir(tmp_path)


def mix(folder: Path, spec: Any, *argv: str) -> list[str]:
    """Mix by a spec and return the keys."""
    (folder / "spec.json").write_text(json.dumps(spec))
    assert main(["mix", "spec.json", "-o", "x.tar", *argv]) == 0
    return keys_of("x.tar")


SETS = [{"shards": "a.tar", "weight": 4}, {"shards": ["b.tar"]}]


def test_all_are_there_by_weight_and_the_seed_decides(tmp_path):
    keys = mix(tmp_path, SETS)
    assert sorted(keys) == sorted(keys_of("a.tar") + keys_of("b.tar"))
    assert [key for key in keys if key[0] == "a"] == keys_of("a.tar")
    assert Counter(key[0] for key in keys[:100])["a"] == pytest.approx(80, abs=12)
    assert mix(tmp_path, SETS) == keys
    assert mix(tmp_path, SETS, "--seed", "1") != keys


def test_yaml_too(tmp_path):
    (tmp_path / "spec.yaml").write_text("- {shards: 'a.tar'}\n- shards: [b.tar]\n")
    assert main(["mix", "spec.yaml", "-o", "x.tar", "-c", "10"]) == 0
    assert len(keys_of("x.tar")) == 10


def test_until_the_first_is_empty(tmp_path):
    keys = mix(tmp_path, SETS, "--until", "first")
    assert 50 < len(keys) <= 250
    counts = Counter(key[0] for key in keys)
    assert counts["a"] == 200 or counts["b"] == 50


def test_again_in_part_and_shuffled(tmp_path):
    spec = [{"shards": "b.tar", "nrepeats": 3, "shuffle": 20}]
    keys = mix(tmp_path, spec, "-R", "{record:03d}/{key}")
    old = [key.partition("/")[2] for key in keys]
    assert Counter(old) == Counter(3 * keys_of("b.tar"))
    assert old[:50] != keys_of("b.tar")
    assert old[:50] != old[50:100]
    part = mix(tmp_path, [{"shards": "a.tar", "probability": 0.5}])
    assert len(part) == pytest.approx(100, abs=25)
    assert mix(tmp_path, [{"shards": "a.tar", "probability": 0.5}]) == part


def test_commands_in_a_spec_run_only_when_that_is_permitted(tmp_path, capsys):
    spec = [{"shards": "pipe:touch ran; cat b.tar"}]
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert main(["mix", "spec.json", "-o", "x.tar"]) == 2
    assert "--allow-pipe permits that" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert mix(tmp_path, spec, "--allow-pipe") == keys_of("b.tar")


def test_missing_shards_of_a_set_may_be_permitted(tmp_path, capsys):
    spec = [{"shards": ["b.tar", "c.tar"], "allow_missing": True}]
    assert mix(tmp_path, spec) == keys_of("b.tar")
    assert capsys.readouterr().err == "shardbuild: c.tar: is missing: left out\n"
    spec[0]["allow_missing"] = False
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert main(["mix", "spec.json", "-o", "x.tar"]) == 1


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({}, "no list"),
        ([], "no list"),
        (["a.tar"], "set 1 has no 'shards'"),
        ([{"shards": "a.tar"}, {"weight": 1}], "set 2 has no 'shards'"),
        ([{"shards": [3]}], "'shards' is a url"),
        ([{"shards": "a.tar", "weight": 0}], "'weight' is a number above 0"),
        ([{"shards": "a.tar", "weight": True}], "'weight'"),
        ([{"shards": "a.tar", "weight": float("inf")}], "'weight'"),
        ([{"shards": "a.tar", "probability": 2}], "at most 1"),
        ([{"shards": "a.tar", "nrepeats": 0}], "'nrepeats' is a whole number"),
        ([{"shards": "a.tar", "shuffle": 1.5}], "'shuffle'"),
        ([{"shards": "a.tar", "allow_missing": 1}], "'allow_missing' is true or"),
        ([{"shards": "a.tar", "rename": {}}], "has 'rename': known are"),
    ],
)
def test_a_spec_that_is_wrong_says_where(spec, problem):
    with pytest.raises(ValueError, match=problem):
        parse_mix(spec)


@pytest.mark.parametrize("text", ["[", "!!python/object/apply:os.getcwd []", "7"])
def test_what_is_no_spec_is_wrong_usage(tmp_path, text, capsys):
    (tmp_path / "spec.yaml").write_text(text)
    assert main(["mix", "spec.yaml"]) == 2
    assert capsys.readouterr().err.startswith("shardbuild: spec.yaml: ")

"""Every name that the seeds documented has its place here, and tests."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from shardbuild.cli.main import COMMANDS
from tests import seeds
from tests.seeds import SEEDS, Name

ROOT = Path(__file__).parents[1]
NAMES = [(module, name) for module, names in SEEDS.items() for name in names]


def find(path: str) -> Any:
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(
    ("module", "name"), NAMES, ids=[f"{m}.{n.seed}" for m, n in NAMES]
)
def test_the_name_and_its_parameters_are_here(module: str, name: Name) -> None:
    found = find(name.ours)
    if not name.parameters:
        assert found is not None
        return
    there = inspect.signature(found).parameters
    for parameter in name.parameters.split():
        assert parameter.rpartition("=")[2] in there, f"{module}.{name.seed}"


def test_each_is_used_by_a_test_of_behaviour() -> None:
    files = (ROOT / "tests").glob("test_*.py")
    text = "\n".join(path.read_text() for path in files if path.name != "test_seeds.py")
    words = set(re.findall(r"\w+", text))
    missing = {
        name.ours
        for _, name in NAMES
        if name.ours.rpartition(":")[2].rpartition(".")[2] not in words
        and not name.ours.endswith("__")
    }
    assert missing == set()


def test_readme_tells_where_each_is() -> None:
    text = (ROOT / "README.md").read_text()
    table = text.partition("## From tarproc and webdataset 0.1")[2].partition("\n## ")[
        0
    ]
    rows = {
        cells[1].strip().strip("`"): cells[2]
        for line in table.splitlines()
        if len(cells := line.split("|")) > 3
    }
    for module, name in NAMES:
        shown = name.ours.rpartition(":")[2]
        if "." in name.seed or "." in shown:
            continue
        assert f"`{shown}`" in rows[module], f"{module}.{name.seed}"
        if shown != name.seed:
            assert f"`{name.seed}`" in rows[module], f"{module}.{name.seed}"
    for theirs, ours in seeds.COMMANDS.items():
        assert f"`{theirs}`" in table
        assert ours in COMMANDS

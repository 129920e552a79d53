"""What the package promises as a whole."""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import shardbuild
from shardbuild.storage import filesystems

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "shardbuild").rglob("*.py"))
HEAVY = {"PIL", "dask", "distributed", "fsspec", "numpy", "torch", "zmq"}


def loaded_by(code: str) -> set[str]:
    """Run ``code`` in a child process and return the packages it loaded."""
    report = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    child = [sys.executable, "-c", f"{code}\n{report}"]
    printed = subprocess.run(child, check=True, capture_output=True, cwd=ROOT).stdout
    return {name.partition(".")[0] for name in json.loads(printed)}


def test_import_shardbuild_loads_nothing_heavy():
    loaded = loaded_by("import shardbuild")
    assert "shardbuild" in loaded
    assert not loaded & HEAVY


def test_reading_a_shard_loads_neither_dask_nor_pillow():
    loaded = loaded_by("import shardbuild; shardbuild.read_samples, shardbuild.verify")
    assert not loaded & {"PIL", "dask", "distributed", "fsspec", "torch"}


@pytest.mark.parametrize("name", shardbuild.__all__)
def test_each_public_name_resolves_and_tells_what_it_is(name):
    value = getattr(shardbuild, name)
    assert value is getattr(shardbuild, name)
    if callable(value):
        assert (value.__doc__ or "").strip()


def test_all_is_sorted_and_complete():
    assert list(shardbuild.__all__) == sorted(set(shardbuild.__all__))
    assert set(shardbuild.__all__) <= set(dir(shardbuild))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'WebDataset'"):
        _ = shardbuild.WebDataset


def test_what_type_checkers_see_is_what_resolves():
    """The imports under TYPE_CHECKING name the same modules as the lazy table."""
    tree = ast.parse((ROOT / "shardbuild" / "__init__.py").read_text())
    guarded = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: statement.module
        for node in guarded
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == shardbuild._HOME_OF


def test_readme_names_exactly_the_public_names():
    text = (ROOT / "README.md").read_text()
    table = text.partition("## The API")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if "|" in line]
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(shardbuild.__all__)


def imports_of(path: Path) -> list[tuple[str, int]]:
    """Return each imported module's name, with the line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, node.lineno))
    return found


TRUSTED = Path("shardbuild/codecs/trusted.py")


def trusts_pickle(path: Path) -> bool:
    """Say whether a module passes ``allow_pickle=True`` to anything."""
    return any(
        isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and isinstance(node.value, ast.Constant)
        and node.value.value is not False
        for node in ast.walk(ast.parse(path.read_text()))
    )


def test_no_module_unpickles_but_the_one_that_a_caller_asks_for():
    """Data is never code: nothing else here can turn bytes into calls."""
    forbidden = {"cPickle", "cloudpickle", "dill", "marshal", "pickle", "shelve"}
    found = [
        (path.relative_to(ROOT), line, name)
        for path in MODULES
        for name, line in imports_of(path)
        if name.partition(".")[0] in forbidden
    ]
    assert [path for path, _, _ in found] == [TRUSTED]
    assert [p.relative_to(ROOT) for p in MODULES if trusts_pickle(p)] == [TRUSTED]
    code = "import sys; from shardbuild.codecs.handlers import Decoder; Decoder()"
    code += "; assert 'shardbuild.codecs.trusted' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_module_calls_hash():
    """``hash`` of a text differs between processes: nothing may depend on it."""
    found = [
        (path.relative_to(ROOT), node.lineno)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "hash"
    ]
    assert found == []


def test_no_module_is_over_four_hundred_lines_of_code():
    sizes = {path.name: len(code_lines(path)) for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}


def code_lines(path: Path) -> set[int]:
    """Return the numbers of the lines that hold code: no comments, no docstrings."""
    tree = ast.parse(path.read_text())
    lines = {
        number
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    text = path.read_text().splitlines()
    return {n for n in lines if text[n - 1].strip() and text[n - 1].strip()[0] != "#"}


def test_each_extra_that_an_error_names_is_there():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    for package, extra in filesystems._EXTRAS.values():
        names = [re.split(r"\W", line)[0] for line in extras[extra].split()]
        assert package in names


def test_the_versions_agree():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(shardbuild.__version__)}\b", changelog, re.M)

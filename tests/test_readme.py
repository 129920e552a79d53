"""The README is true: every block in it runs, and says what it says."""

from __future__ import annotations

import configparser
import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from shardbuild.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def split_console(block: str) -> list[tuple[str, str]]:
    """Split a console block into its commands, each with what it prints."""
    assert block.startswith("$ ")
    parts = [part.partition("\n") for part in f"\n{block}".split("\n$ ")[1:]]
    return [
        (command, printed.rstrip("\n") + "\n" if printed.strip() else "")
        for command, _, printed in parts
    ]


def extras() -> set[str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return set(parser["options.extras_require"])


def check_step(step: list[str], printed: str) -> None:
    """Run one command of a console block, or check what cannot be run in a test."""
    if step[:3] == ["pip", "install", "-e"]:
        wanted = re.fullmatch(r"\.(?:\[([a-z0-9,]+)\])?", step[3])
        assert wanted
        assert set(filter(None, (wanted[1] or "").split(","))) <= extras()
    elif step == ["pytest"]:
        assert "-m pytest" in (ROOT / ".ci" / "run").read_text()
    elif step[0] == "python":
        check_program(step[1:], printed)
    else:
        assert step[0] == "shardbuild"
        check_command(step[1:], printed)


def check_program(argv: list[str], printed: str) -> None:
    done = subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    is_true = doctest.OutputChecker().check_output(
        printed, done.stdout, doctest.ELLIPSIS
    )
    assert is_true, f"{argv} printed:\n{done.stdout}"


def check_pipe(command: str, printed: str) -> None:
    """Run commands that are joined by the shell, as a user would."""
    folder = str(Path(sys.executable).parent)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, printed), done.stderr


def check_command(argv: list[str], printed: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(argv) == 0
    said = output.getvalue()
    is_true = doctest.OutputChecker().check_output(printed, said, doctest.ELLIPSIS)
    assert is_true, f"{argv} printed:\n{said}"


def check_python(block: str, names: dict[str, object]) -> None:
    test = doctest.DocTestParser().get_doctest(block, names, "README", "README.md", 0)
    assert test.examples
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, out=said.write, clear_globs=False)
    assert runner.failures == 0, said.getvalue()
    names.update(test.globs)


def test_every_block_runs_from_top_to_bottom(tmp_path, monkeypatch):
    for name in ("jobs", "notebooks", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}  # as at a prompt
    blocks = FENCE.findall(README)
    assert README.count("```") == 2 * len(blocks)
    for kind, block in blocks:
        if kind == "python":
            check_python(block, names)
            continue
        assert kind == "console", f"a fence of kind {kind!r} is not executed"
        for command, printed in split_console(block):
            if " | " in command:
                check_pipe(command, printed)
                continue
            *before, last = command.split(" && ")
            for step in before:
                check_step(shlex.split(step), "")
            check_step(shlex.split(last), printed)


def test_ci_installs_what_the_readme_installs():
    script = (ROOT / ".ci" / "run").read_text()
    assert "pip install -e '.[dev]' && pytest" in README
    assert "pip install -q -e '.[dev]'" in script


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_in_the_table(name):
    (row,) = re.findall(rf"^\| `shardbuild {name} .*` \| (.*) \|$", README, re.M)
    assert row == COMMANDS[name].summary


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target

"""The wheel that ``python -m build`` makes works where nothing else is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
SHIPPED = ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "setup.cfg")

CONVERSION = """
import shardbuild as sb
from shardbuild.cli.main import main

if __name__ == "__main__":
    with sb.TarWriter("in/a.tar") as writer:
        for number in range(10):
            writer.write({"__key__": f"{number:03}", "cls": number, "txt": "a text"})
    commands = [
        ["convert", "in/a.tar", "out/t-%06d.tar", "--order", "shuffle"],
        ["verify", "out/t.json"],
        ["show", "out/t-000000.tar"],
    ]
    for command in commands:
        assert main(command) == 0, command
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command as a user would, and show what it said if it fails."""
    ours = {"PYTHONPATH", "VIRTUAL_ENV", "COVERAGE_PROCESS_CONFIG"}
    environment = {
        name: value for name, value in os.environ.items() if name not in ours
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def find_interpreter(version: str) -> Path:
    """Return a Python of this version: of the PATH, of pyenv, or one uv knows."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = sorted((pyenv / "versions").glob(f"{version}.*/bin/python"))
    if on_path := shutil.which(f"python{version}"):
        candidates.append(Path(on_path))
    for candidate in candidates:
        asked = [
            str(candidate),
            "-c",
            "import sys; print('%d.%d' % sys.version_info[:2])",
        ]
        said = subprocess.run(asked, capture_output=True, text=True, check=False)
        if said.stdout.strip() == version:
            return candidate
    found = run(uv(), "python", "find", "--no-python-downloads", version, cwd=ROOT)
    return Path(found.strip())


def uv() -> Path:
    """Return the uv of the environment that runs the tests."""
    return Path(sys.executable).parent / "uv"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build in a copy of what is shipped; return the folder of what was built."""
    source = tmp_path_factory.mktemp("source")
    for name in SHIPPED:
        shutil.copy(ROOT / name, source / name)
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "shardbuild", source / "shardbuild", ignore=unwanted)
    run(sys.executable, "-m", "build", "--installer", "uv", source, cwd=source)
    return source / "dist"


def test_wheel_holds_every_module_and_the_typing_marker(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("shardbuild/**/*.py")}
    assert modules | {"shardbuild/py.typed"} <= names
    beside = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert beside == {"shardbuild"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_source_archive_can_be_built_again(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"setup.cfg", "pyproject.toml", "LICENSE", "shardbuild/py.typed"} <= names


@pytest.mark.parametrize("version", VERSIONS)
def test_wheel_converts_in_a_fresh_environment(built, version, tmp_path):
    (wheel,) = built.glob("*.whl")
    fresh = tmp_path / "fresh"
    run(uv(), "venv", "-q", "--python", find_interpreter(version), fresh, cwd=tmp_path)
    python = fresh / "bin" / "python"
    run(uv(), "pip", "install", "-q", "--python", python, wheel, cwd=tmp_path)
    (tmp_path / "conversion.py").write_text(CONVERSION)
    said = run(python, "-I", "-W", "error", "conversion.py", cwd=tmp_path)
    assert "10 samples" in said
    assert run(fresh / "bin" / "shardbuild", "--version", cwd=tmp_path)

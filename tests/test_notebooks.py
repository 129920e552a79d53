"""The notebooks run from top to bottom, and are committed as they are written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def code_cells(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_is_a_notebook():
    assert [path.name for path in NOTEBOOKS] == ["explore.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path):
    for cell in code_cells(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_every_cell_shows_what_it_says(path, tmp_path):
    command = [
        *(sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute"),
        *(
            "--ExecutePreprocessor.timeout=300",
            "--output-dir",
            str(tmp_path),
            str(path),
        ),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = code_cells(tmp_path / path.name)
    assert all(cell["execution_count"] for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    shown = [output for output in outputs if output["output_type"] == "execute_result"]
    assert sum("image/png" in output["data"] for output in shown) == 2
    assert ["(65, 65, 4)"] in [output["data"]["text/plain"] for output in shown]

"""The notebooks run from top to bottom, and are committed as they are written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
NUM_PICTURES = {"explore": 2, "train": 1}
TEXTS = {
    "explore": ["(65, 65, 4)"],
    # What is written, what a checkpoint holds, and that all losses are the same.
    "train": ["(65, 4)", "(1, 32)", "True", "(65, True)"],
}


def code_cells(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == ["explore.ipynb", "train.ipynb"]


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
    num_pictures = sum("image/png" in output["data"] for output in shown)
    texts = ["".join(output["data"]["text/plain"]) for output in shown]
    assert num_pictures == NUM_PICTURES[path.stem]
    assert [text for text in TEXTS[path.stem] if text not in texts] == []

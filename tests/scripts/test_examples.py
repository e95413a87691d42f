"""The notebooks of examples/, run cell by cell without Jupyter, as `make examples` does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.errors import named

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
RUN = """
import json, sys
names = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"{sys.argv[1]}: {cell['id']}", "exec"), names)
"""


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(notebook, tmp_path):
    environment = {**os.environ, "WORK": str(tmp_path), "QUICK": "1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", RUN, str(notebook)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "spec.json").is_file() and (tmp_path / "network.onnx").is_file()
    named(done.stdout, "logits", "16 images")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(notebook):
    """What a cell printed is of one machine and one day."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    kept = [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count") is not None]
    assert kept == []
    assert any(cell["cell_type"] == "code" for cell in cells)

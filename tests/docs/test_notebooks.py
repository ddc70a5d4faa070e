"""The committed notebooks were executed in order, without errors or noise, and are small."""

from __future__ import annotations

import ast
import json
from importlib import import_module
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["believe_the_evidence", "does_lnms_close_the_gap", "train_and_look"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_was_executed(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    assert sum(bool(cell["outputs"]) for cell in cells) > len(cells) / 2
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_it_imports_is_there(path: Path) -> None:
    """The notebooks themselves are executed when the documentation is built."""
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    programs = ["".join(line for line in cell["source"] if not line.startswith("%")) for cell in cells]
    nodes = [node for program in programs for node in ast.walk(ast.parse(program)) if isinstance(node, ast.ImportFrom)]
    names = [(node.module, name.name) for node in nodes if node.module for name in node.names]
    ours = [(module, name) for module, name in names if module.startswith("pyro_compvae")]
    assert ours, "the premise"
    assert [(module, name) for module, name in ours if not hasattr(import_module(module), name)] == []

"""The scripts for a machine with a GPU, tried without one: every section runs, and writes its results."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"
ITEMS = re.findall(r"^\| (\d+) \|", (TOOLS / "gpu_plan.md").read_text(encoding="utf-8"), flags=re.MULTILINE)


def run(item: str, out: Path, first: Path = Path(sys.executable).parent) -> subprocess.CompletedProcess[str]:
    """Run the script with the smallest preset on the CPU, with the package in a folder."""
    path = f"{first}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "DEVICE": "cpu", "PRESET": "tiny", "PATH": path, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(TOOLS / "gpu_run.sh"), item, str(out)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_script_fits_into_one_call() -> None:
    script = TOOLS / "gpu_run.sh"
    assert script.stat().st_size < 2_000
    assert re.findall(r"^(\d+)\)", script.read_text(encoding="utf-8"), flags=re.MULTILINE) == ITEMS


def test_an_item_that_is_not_in_the_plan_is_refused(tmp_path: Path) -> None:
    done = run("9", tmp_path)
    assert done.returncode == 2
    assert "ITEM: expected one of tools/gpu_plan.md, got 9" in done.stderr


@pytest.mark.parametrize("item", ITEMS)
def test_a_failure_is_a_failure(item: str, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho no luck >&2\nexit 3\n")
    python.chmod(0o755)
    done = run(item, tmp_path / "out", tmp_path)
    assert done.returncode == 3
    assert "no luck" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("item", ITEMS)
def test_every_item_of_the_plan_runs(item: str, tmp_path: Path) -> None:
    done = run(item, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) <= 8
    if item == "1":
        content = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
        assert {"agreement", "evidence", "repeatability"} <= set(content)
        rows = [name.partition(",")[0] for name in content if "_times" in name]
        assert rows == ["step_times"] * 3 + ["evidence_times"]
        strings = {"torch", "cuda", "device"}
        assert not any(isinstance(value, str) for name, value in content.items() if name not in strings), content
        assert all(way["resumed"] == way["two runs"] == 0 for way in content["repeatability"].values())
        assert all(max(parts.values()) == 0 for parts in content["evidence"].values()), "the CPU against itself"
        assert all(errors["gradient"] < 1e-2 for case, errors in content["agreement"].items() if "bf" not in case)
        return
    with tarfile.open(tmp_path / f"runs-{item}.tgz") as archive:
        names = archive.getnames()
    assert sum(name.endswith("summary.json") for name in names) == {"2": 6, "3": 3}[item], done.stdout
    assert not any(name.endswith(".pt") for name in names)

"""The trained runs in results/: they load, and are what their summaries say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import evaluate, load_run
from analysis.batches import read
from analysis.comparison_report import comparison_table
from analysis.ladder_report import ladder_table
from pyro_compvae.data import load_scenes

RESULTS = Path(__file__).parents[2] / "results"
RUNS = sorted(path.parent for path in RESULTS.glob("*/checkpoint.pt"))


def test_there_are_some() -> None:
    assert {"iodine-sprites-lnms-seed0", "monet-sprites-lnms-seed0"} <= {run.name for run in RUNS}


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_a_run_reproduces_its_summary(path: Path) -> None:
    run = load_run(path)
    summary = json.loads((path / "summary.json").read_text())
    scenes = load_scenes(run.config.data, "test", multi_view=run.config.guide == "mulmon")
    assert (run.step, len(scenes)) == (summary["steps"], summary["num_test_scenes"])
    torch.manual_seed(run.config.seed)
    metrics = evaluate(run.guide, scenes, torch.device("cpu"))
    # Other processors round otherwise, and a pixel or two go to another slot.
    assert metrics["elbo"] == pytest.approx(summary["elbo"], abs=1.0)
    for name in ("miou", "ari_fg", "mse"):
        assert metrics[name] == pytest.approx(summary[name], rel=0.01), name
    assert (path / "checkpoint.pt").stat().st_size < 5e6


STUDY = RESULTS / "lnms-iodine"


@pytest.mark.parametrize("path", sorted(STUDY.glob("ladder-*.nc")), ids=lambda path: path.stem)
def test_ladders_say_what_their_data_say(path: Path) -> None:
    data = read(path)
    assert path.with_suffix(".txt").read_text() == ladder_table(data) + "\n"
    whole = data["log_evidence"] - data["rung_elbo"].sel(rung="amortised")
    np.testing.assert_allclose(data["gap"].sum("gap_name"), whole, atol=1e-8)
    assert data.sizes["scene"] == 32


@pytest.mark.parametrize(("name", "shared"), [("comparison", False), ("cross", True)])
def test_comparisons_say_what_their_data_say(name: str, shared: bool) -> None:
    data = read(STUDY / f"{name}.nc")
    assert data.sizes["pair"] == 3
    written = (STUDY / f"{name}.txt").read_text().splitlines()
    for line in comparison_table(data, None, shared).splitlines():
        assert line in written or line.startswith("  (for the parts")

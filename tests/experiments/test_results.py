"""The trained runs in results/ load, and have the metrics of their summaries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.scripts import RESULTS

from pyro_compvae.analysis import evaluate, load_run
from pyro_compvae.analysis.comparison.table import comparison_table
from pyro_compvae.analysis.ladder.table import ladder_table
from pyro_compvae.analysis.results import read
from pyro_compvae.data import load_scenes
from pyro_compvae.runs.environment import read_environment
from pyro_compvae.runs.folder import run_name

QUICK = ("iodine-sprites-lnms-seed0", "monet-sprites-lnms-seed0")
"""The runs whose test scenes are evaluated within two seconds."""

RUNS = sorted(path.parent for path in RESULTS.glob("*/model.safetensors"))


def test_every_guide_with_and_without_lnms_is_there() -> None:
    data = {"iodine": "sprites", "monet": "sprites", "mulmon": "solids"}
    expected = {f"{guide}-{name}-{lnms}-seed0" for guide, name in data.items() for lnms in ("lnms", "plain")}
    assert {run.name for run in RUNS} == expected


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.name in QUICK else pytest.mark.slow, id=path.name) for path in RUNS],
)
def test_a_run_reproduces_its_summary(path: Path) -> None:
    run = load_run(path)
    summary = json.loads((path / "summary.json").read_text())
    assert run_name(run.config) == path.name
    assert run.config.preset == "default"
    multi_view = run.config.guide == "mulmon"
    scenes = load_scenes(run.config.data, "test", multi_view=multi_view)
    assert (run.step, len(scenes)) == (summary["steps"], summary["num_test_scenes"])
    assert scenes.origin == summary["splits"]["test"]
    torch.manual_seed(run.config.seed)
    metrics = evaluate(run.guide, scenes, torch.device("cpu"))
    # Other processors round differently, and a pixel or two go to another slot.
    assert metrics["elbo"] == pytest.approx(summary["elbo"], abs=1.0)
    names = ("miou", "ari_fg", "mse", *(("query_miou", "query_ari_fg", "query_mse") if multi_view else ()))
    for name in names:
        assert metrics[name] == pytest.approx(summary[name], rel=0.01), name


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_a_run_is_small_and_says_what_it_is(path: Path) -> None:
    assert sum(file.stat().st_size for file in path.iterdir()) < 5e6
    summary = json.loads((path / "summary.json").read_text())
    (call,) = read_environment(path / "environment.json")
    _, header, body = (path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    (result,) = yaml.safe_load(header)["model-index"][0]["results"]
    for metric in result["metrics"]:
        assert metric["value"] == summary[metric["type"]]
    flag = "--lnms" if summary["lnms"] else "--no-lnms"
    assert f"run_svi.py --guide {summary['guide']} {flag} --seed {summary['seed']}" in call["command"]
    assert call["command"] in body


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


@pytest.mark.parametrize("path", sorted(RESULTS.glob("table1/*/model.safetensors")), ids=lambda path: path.parent.name)
def test_runs_of_table1_can_be_used(path: Path) -> None:
    """Their data are not here, but their weights fit their configuration and decompose images."""
    assert path.stat().st_size < 2e6
    run = load_run(path.parent)
    assert run.step == run.folder.summary()["steps"]
    images = torch.rand(2, 3, *run.model.image_size)
    viewpoints = torch.tensor([[[3.0, 1.0, 2.0], [1.0, 3.0, 2.0]]])
    arguments = (images[None], viewpoints) if run.config.multi_view else (images,)
    assert run.guide.posterior(*arguments).loc.isfinite().all()

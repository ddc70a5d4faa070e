"""The script that compares runs without and with L-NMS, on tiny runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.pictures import undrawn
from helpers.scripts import load_script

from pyro_compvae.analysis import load_run
from pyro_compvae.analysis.evidence import data_set
from pyro_compvae.analysis.evidence.data_set import estimates_of
from pyro_compvae.analysis.results import read
from pyro_compvae.runs.checkpoint import load_checkpoint, save_checkpoint
from pyro_compvae.runs.config import from_yaml, to_yaml

QUICK = ["--num-samples", "30", "--fit-steps", "2", "--cover-steps", "1", "--cover-samples", "4", "--num-scenes", "8"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("compare")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_run: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, options in {
        "plain0": ("--no-lnms",),
        "lnms0": (),
        "plain1": ("--no-lnms", "--seed", "1"),
        "lnms1": ("--seed", "1"),
    }.items():
        shutil.copytree(tiny_run("iodine", *options), folder / name)
    tiny = ["--preset", "tiny", "--device", "cpu", "--steps", "2", "--lnms", "--seed", "5"]
    frozen = ["--frozen-model", str(folder / "plain0"), "--run-dir", str(folder / "frozen")]
    with undrawn():
        assert load_script("run_svi").main([*tiny, *frozen]) == 0
    return folder


def test_pairs_of_runs(
    script: ModuleType, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("plain0", "lnms0", "plain1", "lnms1")
    assert script.main([*(str(runs / name) for name in names), *QUICK]) == 0
    text = capsys.readouterr().out
    out = runs / "lnms0" / "against-plain0-and-1-more"
    assert (out / "comparison.txt").read_text() == text
    assert (out / "comparison.png").stat().st_size > 10_000
    data = read(out / "comparison.nc")
    assert dict(data.sizes) == {"pair": 2, "side": 2, "scene": 8}
    np.testing.assert_allclose(data["gap"], data["log_evidence"] - data["elbo"])
    for p, side, name in ((0, "0", "plain0"), (0, "+", "lnms0"), (1, "0", "plain1"), (1, "+", "lnms1")):
        estimates = estimates_of(read(runs / name / "comparison.nc"))
        found = data.isel(pair=p).sel(side=side)
        np.testing.assert_allclose(found["log_evidence"], estimates["full_covering"].log_evidence)
        np.testing.assert_allclose(found["elbo"], estimates["guide"].elbo)
    delta = (data["elbo"].sel(side="+") - data["elbo"].sel(side="0")).mean("scene").values
    row = next(line for line in text.splitlines() if line.startswith("ΔL⁺"))
    assert row.split()[-2:] == [f"{value:+.2f}" for value in delta]
    assert "95 % bootstrap intervals over 2 pairs of runs and 8 scenes" in text
    assert "is Δ log p̂(x) =" in text.splitlines()[-1]

    monkeypatch.setattr(data_set, "estimate_scenes", None)  # the second call estimates nothing again
    assert script.main([str(runs / "plain1"), str(runs / "lnms1"), *QUICK, "--out", str(runs / "other")]) == 0
    text = capsys.readouterr().out
    assert "8 scenes, for this one pair of runs" in text
    assert dict(read(runs / "other" / "comparison.nc").sizes) == {"pair": 1, "side": 2, "scene": 8}


@pytest.mark.usefixtures("no_pictures")
def test_with_one_model_all_of_the_difference_is_posterior(
    script: ModuleType, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(runs / "plain0"), str(runs / "frozen"), *QUICK]) == 0
    text = capsys.readouterr().out
    data = read(runs / "frozen" / "against-plain0" / "comparison.nc")
    np.testing.assert_array_equal(data["log_evidence"].sel(side="+"), data["log_evidence"].sel(side="0"))
    nats = data[["elbo", "gap"]]
    difference = nats.sel(side="+") - nats.sel(side="0")
    np.testing.assert_allclose(difference["gap"], -difference["elbo"])
    assert float(abs(difference["elbo"]).min()) > 1e-3
    assert "Both sides have the same θ" in text.splitlines()[-1]
    assert not (runs / "frozen" / "comparison.nc").exists(), "the evidence of one θ is estimated once"


def changed(run: Path, to: Path, **changes: object) -> Path:
    """A copy of a run with another configuration."""
    shutil.copytree(run, to)
    content = load_checkpoint(to / "checkpoint.pt")
    names = {name.replace("__", "."): value for name, value in changes.items()}
    config = to_yaml(from_yaml(content["config"]).replace(names))
    save_checkpoint(to / "checkpoint.pt", content | {"config": config})
    (to / "config.yaml").write_text(config)
    return to


def test_what_cannot_be_compared_is_said(
    script: ModuleType, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = str(runs / "plain0")

    def complaint(*arguments: str) -> str:
        assert script.main([*arguments]) == 1
        return capsys.readouterr().err

    other = changed(runs / "lnms0", tmp_path / "other", data__num_test=17)
    assert "expected a run on the data of" in (message := complaint(plain, str(other), *QUICK))
    assert "data.num_test is 16 there and 17 here" in message
    assert "expected run folders in pairs, RUN_0 RUN_PLUS, got 3" in complaint(plain, plain, plain)
    assert "expected run folders in pairs, RUN_0 RUN_PLUS, got 1" in complaint(plain)
    assert "num_scenes: expected at least 8 for intervals, got 7" in complaint(plain, plain, "--num-scenes", "7")
    assert "expected a run folder with a config.yaml" in complaint(plain, str(tmp_path / "nowhere"))
    message = complaint(plain, str(runs / "lnms0"), *QUICK, "--out", plain)
    assert f"--out: expected a folder that is no run, got {plain}, whose comparison.nc is of that run" in message
    (other / "checkpoint.pt").unlink()
    assert "expected a checkpoint, found no such file" in complaint(plain, str(other))


@pytest.mark.usefixtures("no_pictures")
def test_other_models_of_the_same_images_are_compared_with_a_warning(
    script: ModuleType, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = changed(runs / "lnms0", tmp_path / "other", num_slots=5, scale=0.2)
    assert script.main([str(runs / "plain0"), str(other), *QUICK]) == 0
    text = capsys.readouterr().out
    assert "the two differ in more than L-NMS: " in text
    assert "num_slots is 4 there and 5 here" in text
    assert "scale is 0.1 there and 0.2 here" in text
    assert load_run(other).model.scale == 0.2
    assert script.main([str(other), str(runs / "plain0"), *QUICK, "--out", str(tmp_path / "reverse")]) == 0
    assert "expected the first run without L-NMS and the second with" in capsys.readouterr().out

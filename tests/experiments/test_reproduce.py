"""Studies, on tiny runs."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from threading import Lock
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers.pictures import undrawn
from helpers.scripts import load_script
from PIL import Image

from pyro_compvae.analysis import load_run
from pyro_compvae.analysis.figures.decompositions import compared_figure, decomposition_figure
from pyro_compvae.analysis.results import read
from pyro_compvae.analysis.runs import Run
from pyro_compvae.analysis.studies import figure6
from pyro_compvae.analysis.studies.figure3 import decomposed
from pyro_compvae.analysis.studies.figure6 import SCORES, Score, figure6_csv, figure6_figure, figure6_table, score_run
from pyro_compvae.analysis.studies.forms import forms_cells
from pyro_compvae.analysis.studies.grid import Cell, train_cells
from pyro_compvae.analysis.studies.table1 import PAPER, table1, table1_cells, table1_csv, table1_figure
from pyro_compvae.data import SceneSet, load_scenes
from pyro_compvae.errors import ConfigError
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.config import from_yaml
from pyro_compvae.runs.presets import preset

TINY = ["--preset", "tiny", "--set", "training.steps=2", "--device", "cpu"]
FIGURE6 = ["figure6", *TINY, "--guide", "iodine", "--scales", "0.1", "0.3", "--slots", "4", "5", "--seeds", "0"]
FIGURE6 += ["--test-slots", "6"]
FORMS = ["forms", *TINY, "--forms", "sum", "presence", "--strengths", "0.1", "3", "--seeds", "0", "1"]
FORMS += ["--num-samples", "30", "--fit-steps", "2", "--cover-steps", "1", "--cover-samples", "4", "--num-scenes", "8"]
TABLE1 = ["table1", *TINY, "--guides", "iodine", "--datasets", "sprites", "--seeds", "0", "1", "--at-once", "2"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("reproduce")


class InProcess:
    """A substitute for `subprocess.run` that trains in this process, one run at a time, but for the first few."""

    def __init__(self, own: int = 0) -> None:
        self.own = own
        self.run, self.train, self.lock = subprocess.run, load_script("run_svi").main, Lock()
        self.calls: list[list[str]] = []

    def __call__(self, command: list[str], **options: Any) -> None:
        with self.lock:
            self.calls.append(command)
            if len(self.calls) <= self.own:
                self.run(command, **options)
                return
            assert command[:3] == [sys.executable, "-m", "pyro_compvae.experiments.run_svi"]
            with redirect_stdout(options["stdout"]), redirect_stderr(options["stderr"]), undrawn():
                self.train(command[3:])


@pytest.mark.slow
def test_cells_are_runs_and_a_second_call_goes_on(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    run = InProcess(own=1)
    calls = []

    def killed_at_the_second(command: list[str], **options: object) -> None:
        calls.append(command)
        if len(calls) != 2:  # the folder has its config.yaml, and nothing else
            run(command, **options)

    monkeypatch.setattr(subprocess, "run", killed_at_the_second)
    assert script.main([*FIGURE6, "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert f"scale0.3-slots4-seed0 did not finish, see {out / 'scale0.3-slots4-seed0'}.log" in message
    assert "0.3" not in (out / "figure6.csv").read_text()
    assert script.main([*FIGURE6, "--out", str(out)]) == 0
    assert len(calls) == 4, "two cells are not trained again"

    with (out / "figure6.csv").open() as file:
        rows = list(csv.DictReader(file))
    cells = {(row["scale"], row["train_slots"]) for row in rows}
    assert cells == {("0.1", "4"), ("0.3", "4"), ("0.1", "5")}
    assert {row["test_slots"] for row in rows} == {"4", "5", "6"}
    assert len(rows) == 9
    for scale, slots in cells:
        config = load_run(out / f"scale{scale}-slots{slots}-seed0").config
        assert (config.lnms_prior.scale, config.num_slots, config.lnms) == (float(scale), int(slots), True)
    summary = json.loads((out / "scale0.1-slots5-seed0" / "summary.json").read_text())
    row = next(row for row in rows if (row["train_slots"], row["test_slots"]) == ("5", "5"))
    assert float(row["miou"]) == pytest.approx(summary["miou"], abs=1e-6)
    assert (out / "figure6.png").stat().st_size > 10_000
    assert (out / "figure6.txt").read_text().count("\n") == 11

    for other in (["--preset", "default"], ["--set", "training.steps=3"], ["--set", "lnms_prior.strength=9"]):
        assert script.main([*FIGURE6, "--out", str(out), *other]) == 1
        assert "expected a run of this study, found one of another: " in capsys.readouterr().err
    assert len(calls) == 4


def elbo_of(run_dir: Path) -> float:
    """The mean ELBO that the comparison has written into a run folder."""
    return float(read(run_dir / "comparison.nc")["log_weight_guide"].mean())


def test_forms_are_held_against_none(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", InProcess())
    assert script.main([*FORMS, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "forms.txt").read_text()
    config = load_run(tmp_path / "presence-seed1").config
    assert (config.lnms, config.seed, config.lnms_prior.form, config.lnms_prior.strength) == (True, 1, "presence", 3)
    assert not load_run(tmp_path / "none-seed1").config.lnms
    with (tmp_path / "forms.csv").open() as file:
        rows = {(row["form"], row["quantity"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * 5
    elbos = {side: [float(elbo_of(tmp_path / f"{side}-seed{seed}")) for seed in (0, 1)] for side in ("none", "sum")}
    expected = mean(plus - zero for plus, zero in zip(elbos["sum"], elbos["none"], strict=True))
    row = rows["sum", "elbo"]
    assert float(row["mean"]) == pytest.approx(expected, rel=1e-5)
    assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
    evidence, gap = (float(rows["presence", name]["mean"]) for name in ("log_evidence", "gap"))
    assert float(rows["presence", "elbo"]["mean"]) == pytest.approx(evidence - gap, rel=1e-4)
    assert [line.split()[:3] for line in printed.splitlines()[1:3]] == [["sum", "0.1", "2"], ["presence", "3", "2"]]


def test_the_mean_over_pairs_has_the_strength_of_the_sum_by_default() -> None:
    config = preset("tiny", "iodine")
    cells = forms_cells(config, ("sum", "mean"), (), (0,))
    K, strength = config.num_slots, config.lnms_prior.strength
    assert [cell.config.lnms_prior.strength for cell in cells[1:]] == pytest.approx([strength, strength * K * (K - 1)])


def test_table1_is_of_the_summaries(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", InProcess())
    assert script.main([*TABLE1, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    with (tmp_path / "table1.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["seed"]) for row in rows] == [("0", "0"), ("+", "0"), ("0", "1"), ("+", "1")]
    scores = []
    for row in rows:
        folder = tmp_path / f"iodine-sprites-{'lnms' if row['group'] == '+' else 'plain'}-seed{row['seed']}"
        summary = json.loads((folder / "summary.json").read_text())
        config = from_yaml((folder / "config.yaml").read_text())
        assert (config.lnms, config.seed, config.guide) == (row["group"] == "+", int(row["seed"]), row["guide"])
        assert float(row["mse"]) == pytest.approx(3 * summary["mse"]), "a sum over channels, as in the paper"
        assert float(row["miou"]) == summary["miou"]
        assert not row["query_miou"], "which are MulMON's"
        if row["group"] == "+":
            scores.append(summary["miou"])
    assert f"{mean(scores):.3f} ± {stdev(scores):.3f}" in printed
    assert printed == (tmp_path / "table1.txt").read_text()
    lines = [line.split() for line in printed.splitlines()]
    assert [line[:4] for line in lines[1:3]] == [["iodine", group, "sprites", "2"] for group in "0+"]
    assert (tmp_path / "table1.png").stat().st_size > 10_000
    with Image.open(tmp_path / "figure3.png") as picture:
        assert picture.width > picture.height > 200, "two rows"
    assert script.main([*TABLE1, "--out", str(tmp_path), "--image", "16"]) == 1
    assert "image: expected 0 to 15, got 16" in capsys.readouterr().err


def test_scores_are_of_the_scenes_that_were_tested(
    tiny_copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = tiny_copy(), []
    scenes = load_scenes(load_run(run).config.data, "test")

    def evaluate(guide: object, some: SceneSet, device: object) -> dict[str, float]:
        calls.append(some)
        return dict.fromkeys(SCORES, float(some.images.sum()))

    monkeypatch.setattr(figure6, "evaluate", evaluate)
    others = replace(scenes, images=scenes.images // 2)
    found = [score_run(run, [4], some, torch.device("cpu"))[0].values["mse"] for some in (scenes, others, scenes)]
    assert found == [float(scenes.images.sum()), float(others.images.sum()), float(scenes.images.sum())]
    assert len(calls) == 2


def test_views_are_images_one_after_the_other() -> None:
    """MulMON's picture shows the same scene as the others."""
    config = preset("tiny", "mulmon")
    guide = build_guide(config).eval()
    scenes = load_scenes(config.data, "test", multi_view=True)
    V = scenes.num_views
    assert V is not None
    shown, decomposition = decomposed(Run(Path(), config, 0, guide.model, guide), scenes, 2 * V + 1)
    assert torch.equal(shown.image, scenes.as_images()[2 * V + 1 : 2 * V + 2].image)
    assert decomposition.masks.shape[:2] == (1, config.num_slots)


def test_models_of_different_k_stand_under_one_another(tmp_path: Path) -> None:
    rows = {}
    for K in (4, 6):
        config = preset("tiny").replace({"num_slots": K})
        guide = build_guide(config).eval()
        scenes = load_scenes(config.data, "test")
        rows[str(K)] = decomposed(Run(Path(), config, 0, guide.model, guide), scenes, 0)
    compared_figure(tmp_path / "both.png", rows)
    decomposition_figure(tmp_path / "six.png", *rows["6"])
    with Image.open(tmp_path / "both.png") as both, Image.open(tmp_path / "six.png") as six:
        assert both.width == six.width


def test_the_paper_stands_beside(tmp_path: Path) -> None:
    cells = table1_cells(lambda guide, dataset: preset("tiny", guide, dataset), ["monet"], ["clevr-mv", "dolphin"], [3])
    assert len(cells) == 4
    assert all(tuple(cell.place[axis] for axis in ("guide", "group", "dataset")) in PAPER for cell in cells)
    first = cells[0].config.replace({"lnms": True})
    assert first == cells[1].config, "the groups differ in nothing but L-NMS"
    nothing = dict.fromkeys(("ari", "ari_fg", "duplicates", "elbo", "query_mse", "query_miou"), float("nan"))
    results = [(cell, nothing | {"mse": 0.001, "miou": 0.5, "elbo": 7.0}) for cell in cells]
    head, row, *_ = str(table1(results)).splitlines()
    assert head.split() == ["model", "data", "seeds", "mse", "paper", "miou", "paper", "elbo"]
    assert row.split() == ["monet", "0", "clevr-mv", "1", "0.0010", "0.0037", "0.500", "0.681", "7"]
    assert table1_csv(results).splitlines()[1] == "monet,0,clevr-mv,3,0.001,0.5,,,,7.0,,"
    table1_figure(tmp_path / "table1.png", results)
    assert (tmp_path / "table1.png").stat().st_size > 10_000


def test_bad_studies_are_named(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path)]
    for arguments, message in (
        (["figure6", "--scales", "0.1", "0.1"], "scales: expected one or more values, each once; got (0.1, 0.1)"),
        (["figure6", "--test-slots", "1"], "slots, test_slots: expected at least 2"),
        (["table1", "--seeds", "1", "1"], "seeds: expected one or more values, each once; got (1, 1)"),
        (["table1", "--preset", "tiny", "--at-once", "0"], "at_once: expected at least 1, got 0"),
        (
            ["forms", "--strengths", "1", "2"],
            "strengths: expected one for each of the forms sum, mean, presence, got 2",
        ),
        (["table1", "--set", "training.stps=1"], "training.stps"),
    ):
        assert script.main([*arguments, *out]) == 1
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_data_all_runs_say_what_is_missing(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", InProcess())
    arguments = ["table1", *TINY, "--guides", "iodine", "--datasets", "dolphin", "--seeds", "0"]
    assert script.main([*arguments, "--out", str(tmp_path), "--data-root", str(tmp_path / "nowhere")]) == 1
    assert "iodine-dolphin-plain-seed0 did not finish" in capsys.readouterr().err
    assert "clevr_aug" in (tmp_path / "iodine-dolphin-plain-seed0.log").read_text()


def test_cells_share_the_cores_and_want_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = preset("tiny")
    threads: list[Any] = []
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda command, env, **_: threads.append(env["OMP_NUM_THREADS"]))
    cells = [Cell("a", config), Cell("b", config.replace({"seed": 1}))]
    assert train_cells(cells, tmp_path, ["true"], at_once=2) == cells, "none of them has a summary"
    assert threads == ["4", "4"]
    with pytest.raises(ConfigError, match="names of their own, got a, a"):
        train_cells([cells[0], cells[0]], tmp_path, ["true"])
    with pytest.raises(CheckpointError, match="seed is 0 there and 1 here"):
        train_cells([Cell("a", cells[1].config)], tmp_path, ["true"])


def test_ctrl_c_begins_no_other_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def interrupted(command: list[str], **_: Any) -> None:
        begun.append(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupted)
    cells = [Cell(name, preset("tiny")) for name in "abcdef"]
    with pytest.raises(KeyboardInterrupt):
        train_cells(cells, tmp_path, ["true"])
    assert len(begun) < len(cells)


def test_without_masks_their_metrics_are_left_out(tmp_path: Path) -> None:
    unknown = dict.fromkeys(("miou", "ari_fg", "duplicates"), float("nan"))
    values = {"mse": 0.01, "elbo": 5.0}
    scores = [Score(0.1, 4, seed, 4, values | unknown) for seed in (0, 1)]
    heads, line, *notes = figure6_table(scores).splitlines()
    assert heads.split()[-2:] == ["mse", "elbo"]
    assert "nan" not in line
    assert notes[-1] == "no masks: miou, ari_fg, duplicates are left out"
    assert "no masks" not in figure6_table([Score(0.1, 4, 0, 4, dict.fromkeys(SCORES, 1.0))])
    assert figure6_csv(scores).splitlines()[1] == "0.1,4,0,4,0.01,,,,5.0"
    figure6_figure(tmp_path / "figure.png", scores)
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.width < picture.height, "one column"

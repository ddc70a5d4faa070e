"""The sweep, on tiny runs."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from scripts import load_script

from analysis import load_run
from analysis.ablation import SCORES, Cell, Score, ablation_csv, ablation_figure, ablation_table

TINY = ["--guide", "iodine", "--preset", "tiny", "--scales", "0.1", "0.3", "--slots", "4", "5", "--seeds", "0"]
TINY += ["--test-slots", "6", "--set", "training.steps=2", "--device", "cpu"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("ablate")


def test_cells_are_runs_and_a_second_call_goes_on(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    run, calls = subprocess.run, []

    def killed_at_the_second(command: list[str], **options: object) -> None:
        calls.append(command)
        if len(calls) == 2:
            (out / "scale0.3-slots4-seed0").mkdir()
            config = (out / "scale0.1-slots4-seed0" / "config.yaml").read_text()
            # Killed before its first checkpoint.
            (out / "scale0.3-slots4-seed0" / "config.yaml").write_text(
                config.replace("scale: 0.1\n  warmup", "scale: 0.3\n  warmup")
            )
        else:
            run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", killed_at_the_second)
    assert script.main([*TINY, "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert f"scale0.3-slots4-seed0 did not finish, see {out / 'scale0.3-slots4-seed0'}.log" in message
    assert "0.3" not in (out / "ablation.csv").read_text()
    assert script.main([*TINY, "--out", str(out)]) == 0
    assert len(calls) == 4, "two cells are not trained again"

    with (out / "ablation.csv").open() as file:
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
    assert (out / "ablation.png").stat().st_size > 10_000
    assert (out / "ablation.txt").read_text().count("\n") == 11

    for other in (["--preset", "default"], ["--set", "training.steps=3"], ["--set", "lnms_prior.strength=9"]):
        assert script.main([*TINY, "--out", str(out), *other]) == 1
        assert "expected a run of this sweep, found one of another: " in capsys.readouterr().err


def test_bad_sweeps_are_named(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--scales", "0.1", "0.1", "--out", str(tmp_path)]) == 1
    assert "--scales: expected one or more values, each once; got (0.1, 0.1)" in capsys.readouterr().err
    assert script.main(["--test-slots", "1", "--out", str(tmp_path)]) == 1
    assert "--slots, --test-slots: expected at least 2" in capsys.readouterr().err


def test_without_masks_their_metrics_are_left_out(tmp_path: Path) -> None:
    unknown = dict.fromkeys(("miou", "ari_fg", "duplicates"), float("nan"))
    values = {"mse": 0.01, "elbo": 5.0}
    scores = [Score(Cell(0.1, 4, seed), 4, values | unknown) for seed in (0, 1)]
    heads, line, *notes = ablation_table(scores).splitlines()
    assert heads.split()[-2:] == ["mse", "elbo"]
    assert "nan" not in line
    assert notes[-1] == "no masks: miou, ari_fg, duplicates are left out"
    assert "no masks" not in ablation_table([Score(scores[0].cell, 4, dict.fromkeys(SCORES, 1.0))])
    assert ablation_csv(scores).splitlines()[1] == "0.1,4,0,4,0.01,,,,5.0"
    ablation_figure(tmp_path / "figure.png", scores)
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.width < picture.height, "one column"

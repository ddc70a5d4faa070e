"""The script that makes multi-view data, with a tiny number of scenes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import trimesh
from scripts import load_script

from pyro_compvae.data import read_clevr_mv
from pyro_compvae.data.solids import CLE_MV, make_solids


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("make_data")


def test_what_it_makes_trains(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    assert script.main([str(out), "--num-train", "3", "--num-test", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(out / "clevr_mv")
    assert torch.equal(read_clevr_mv(out).images, make_solids("train", 3).images)
    run = ["--preset", "tiny", "--dataset", "clevr-mv", "--data-root", str(out), "--steps", "1"]
    assert load_script("run_svi").main([*run, "--run-dir", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["num_test_scenes"] == 2 * 6

    assert script.main([str(out), "--num-train", "1", "--num-test", "1"]) == 1
    error = capsys.readouterr().err
    assert "expected a new or empty folder, found one that holds files" in error
    assert error.count("\n") == 1


def test_presets_seeds_names_and_meshes(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "meshes").mkdir()
    trimesh.creation.capsule(count=[8, 8]).export(tmp_path / "meshes" / "pill.stl")
    arguments = ["--name", "clevr_aug", "--preset", "cle-mv", "--num-train", "3", "--num-test", "1", "--seed", "2"]
    assert script.main([str(tmp_path), *arguments, "--meshes", str(tmp_path / "meshes")]) == 0
    index = json.loads((tmp_path / "clevr_aug" / "clevr_aug_train.json").read_text())
    assert "pill" in index["shape_gallery"]
    assert read_clevr_mv(tmp_path, "clevr_aug").images.shape == (3, 10, 3, CLE_MV.image_size, CLE_MV.image_size)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("num_scenes: expected at least 1, got 0", ["--num-test", "0"]),
        ("seed: expected zero or more, got -1", ["--seed", "-1"]),
        ("--meshes: expected a folder of", ["--meshes", "nowhere"]),
    ],
)
def test_bad_arguments_are_one_paragraph_and_leave_nothing(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], message: str, arguments: list[str]
) -> None:
    assert script.main([str(tmp_path / "out"), "--num-train", "1", *arguments]) == 1
    error = capsys.readouterr().err
    assert f"error: {message}" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()

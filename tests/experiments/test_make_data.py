"""The script that makes multi-view data, with a tiny number of scenes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import trimesh
from helpers import formats
from helpers.scripts import load_script
from PIL import Image

from pyro_compvae.analysis import load_run
from pyro_compvae.data import DataError, read_clevr_mv
from pyro_compvae.data.solids.config import CLE_MV
from pyro_compvae.data.solids.scenes import make_solids

NAN = re.compile(r"\bnan\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("make_data")


@pytest.mark.usefixtures("no_pictures")
def test_what_it_makes_trains(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    assert script.main(["render", str(out), "--num-train", "3", "--num-test", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(out / "clevr_mv")
    assert torch.equal(read_clevr_mv(out).images, make_solids("train", 3).images)
    run = ["--preset", "tiny", "--dataset", "clevr-mv", "--data-root", str(out), "--steps", "1"]
    assert load_script("run_svi").main([*run, "--run-dir", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["num_test_scenes"] == 2 * 6

    assert script.main(["render", str(out), "--num-train", "1", "--num-test", "1"]) == 1
    error = capsys.readouterr().err
    assert "expected a new or empty folder, found one that holds files" in error
    assert error.count("\n") == 1


def test_presets_seeds_names_and_meshes(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "meshes").mkdir()
    trimesh.creation.capsule(count=[8, 8]).export(tmp_path / "meshes" / "pill.stl")
    arguments = ["--name", "clevr_aug", "--preset", "cle-mv", "--num-train", "3", "--num-test", "1", "--seed", "2"]
    assert script.main(["render", str(tmp_path), *arguments, "--meshes", str(tmp_path / "meshes")]) == 0
    index = json.loads((tmp_path / "clevr_aug" / "clevr_aug_train.json").read_text())
    assert "pill" in index["shape_gallery"]
    assert read_clevr_mv(tmp_path, "clevr_aug").images.shape == (3, 10, 3, CLE_MV.image_size, CLE_MV.image_size)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("num_scenes: expected at least 1, got 0", ["--num-test", "0"]),
        ("seed: expected a whole number from 0 to 4294967295, got -1", ["--seed", "-1"]),
        ("meshes: expected a folder of", ["--meshes", "nowhere"]),
    ],
)
def test_bad_arguments_are_one_paragraph_and_leave_nothing(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], message: str, arguments: list[str]
) -> None:
    assert script.main(["render", str(tmp_path / "out"), "--num-train", "1", *arguments]) == 1
    error = capsys.readouterr().err
    assert f"error: {message}" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_convert_verify_train(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats.tetrominoes(tmp_path / "tetrominoes_train.tfrecords", 12)
    target = tmp_path / "small.h5"
    sizes = ["--num-train", "8", "--num-validation", "2", "--num-test", "2", "--image-size", "16"]
    assert script.main(["convert", str(tmp_path / "tetrominoes_train.tfrecords"), str(target), *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{target}: tetrominoes, ")
    assert lines[2].split()[:5] == ["train", "8", "1", "16x16", "yes"]
    assert lines[2].endswith("scenes 0 to 7 of tetrominoes_train.tfrecords")
    assert lines[-1] == "images that are not square: cropped to the central square"

    assert script.main(["verify", str(target)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[: len(lines)] == lines
    assert printed[len(lines) :] == [
        str(tmp_path / f"small.h5.{split}.png") for split in ("train", "validation", "test")
    ]
    with Image.open(tmp_path / "small.h5.train.png") as sheet:
        assert sheet.width > sheet.height > 100

    run = tmp_path / "run"
    arguments = ["--preset", "tiny", "--dataset", "file", "--data-root", str(target), "--run-dir", str(run)]
    assert load_script("run_svi").main(arguments) == 0
    assert f"images of {target}: 8 for train, 2 for validation, 2 for test\n" in capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["num_test_scenes"] == 2
    assert summary["splits"]["test"].startswith("tetrominoes: scenes 10 to 11 of tetrominoes_train.tfrecords (sha256 ")
    assert summary["miou"] > 0

    before = load_run(run).scenes("test").images
    moved = target.rename(tmp_path / "moved.h5")
    with pytest.raises(DataError, match=r"small\.h5, no file \(--data-root\)"):
        load_run(run).scenes("test")
    assert torch.equal(load_run(run, data_root=moved).scenes("test").images, before)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.slow
def test_a_folder_of_photographs(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without masks the metrics that need them are left out, with a note; everything else works, reports included."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{number}.jpg")
    target = tmp_path / "photos.h5"
    sizes = ["--num-train", "8", "--num-validation", "2", "--num-test", "10"]
    assert script.main(["convert", str(tmp_path / "photos"), str(target), *sizes]) == 0
    assert "photos: " not in capsys.readouterr().err
    assert script.main(["verify", str(target)]) == 0

    run = tmp_path / "run"
    arguments = ["--preset", "tiny", "--dataset", "file", "--data-root", str(target), "--run-dir", str(run)]
    capsys.readouterr()
    assert load_script("run_svi").main(arguments) == 0
    assert "no masks in photos: " in (printed := capsys.readouterr().out)
    assert "miou, ari, ari_fg, duplicates are left out" in printed
    summary = json.loads((run / "summary.json").read_text())
    assert [name for name, value in summary.items() if value is None] == ["miou", "ari", "ari_fg", "duplicates"]
    rows = (run / "metrics.csv").read_text().splitlines()
    header, last = rows[0].split(","), rows[-1].split(",")
    assert dict(zip(header, last, strict=True))["miou"] == ""
    assert load_script("export").main([str(run), "--license", "cc0-1.0"]) == 0
    card = (run / "export" / "README.md").read_text()
    assert "# iodine-photos-lnms-seed0" in card
    assert "- test: photos: scenes 10 to 19 of images of the folder photos, shuffled by a hash of" in card
    assert "No masks: `miou`, `ari_fg`, `ari`, `duplicates` are left out." in card
    assert "lose pixels to the background.\n" in card
    assert "–" not in card
    assert not NAN.search(card)
    assert "license: cc0-1.0\n" in card
    assert "put them under the licence `cc0-1.0`" in card
    assert "datasets:\n- photos\n" in card
    assert "`photos`: read from a file that does not come along; images were brought to 16 × 16 pixels" in card
    assert "It knows nothing but `photos` at" in card
    assert "get the file, and name it as `root`" in card
    assert "`file`" not in card

    plain = tmp_path / "plain"
    assert load_script("run_svi").main([*arguments[:-1], str(plain), "--no-lnms"]) == 0
    quick = ["--num-samples", "20", "--fit-steps", "2", "--cover-steps", "1", "--cover-samples", "4"]
    assert load_script("compare").main([str(plain), str(run), *quick, "--num-scenes", "8"]) == 0
    assert load_script("report").main([str(run), str(plain)]) == 0
    page = re.sub('data:[^"]*', "", (run / "report.html").read_text())
    assert not NAN.search(page)
    assert "no masks: mIoU, foreground ARI, ARI, duplicates are left out" in page
    assert "no masks: mIoU, duplicates are left out" in page, "of the comparison"
    assert 'data-role="segmentation"' in page
    assert 'data-role="truth"' not in page


def test_errors_are_one_paragraph(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "a.h5")]) == 1
    assert "error: " in (error := capsys.readouterr().err)
    assert "expected a file or folder of data, found nothing. Known are Tetrominoes" in error
    assert error.count("\n") == 1
    assert script.main(["verify", str(tmp_path / "a.h5")]) == 1
    assert "a.h5: expected an HDF5 file, found no such file" in capsys.readouterr().err
    run = ["--preset", "tiny", "--dataset", "file", "--run-dir", str(tmp_path / "run")]
    assert load_script("run_svi").main(run) == 1
    error = capsys.readouterr().err
    wanted = "data.root: expected a file of scenes that `compvae data convert` has made"
    assert f"{wanted}, got nothing (--data-root). Known are" in error
    assert load_script("run_svi").main([*run, "--data-root", str(tmp_path / "a.h5")]) == 1
    assert "a.h5, no file (--data-root). Known are Tetrominoes" in capsys.readouterr().err


def test_clumsy_users(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats.efficient_morl(tmp_path / "a.h5", {"train": 2})
    source, target = str(tmp_path / "a.h5"), str(tmp_path / "b.h5")
    assert script.main(["convert", source, target]) == 0
    assert "no scenes for test; training needs all three" in capsys.readouterr().out
    for arguments, message in [
        (["convert", source, str(tmp_path / "c.h5"), "--image-size", "-3"], "image_size: expected 1 or more, got -3"),
        (
            ["convert", source, str(tmp_path / "c.h5"), "--image-size", "100000"],
            "image_size: expected at most 4096 pixels",
        ),
        (["convert", source, str(tmp_path / ("c" * 300))], "File name too long"),
        (["verify", target, "--out", str(tmp_path / "nowhere")], "nowhere"),
    ]:
        assert script.main(arguments) == 1
        error = capsys.readouterr().err
        assert f"error: {message}" in error or message in error
        assert "Traceback" not in error
    run = ["--preset", "tiny", "--data-root", target, "--run-dir", str(tmp_path / "run")]
    assert load_script("run_svi").main(run) == 1
    assert "root: expected none with sprites, which are made on the spot, got" in capsys.readouterr().err

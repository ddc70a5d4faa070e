"""Numbers of some scenes are not those of others: what becomes of them when the file of a run's scenes is replaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pictures import undrawn
from helpers.scripts import load_script
from torch import Tensor

from pyro_compvae.analysis import load_run, train
from pyro_compvae.analysis.evidence import data_set
from pyro_compvae.analysis.posterior.data_set import bundle, load_groups, save_inference_data
from pyro_compvae.analysis.report.folders import Missing, open_folders
from pyro_compvae.analysis.results import as_text, read, recorded
from pyro_compvae.analysis.studies.grid import Cell, train_cells
from pyro_compvae.data import DataError, SceneSet, write_scenes
from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.presets import preset

QUICK = ["--fit-steps", "2", "--cover-steps", "1", "--device", "cpu"]
EVIDENCE = [*QUICK, "--num-samples", "30", "--cover-samples", "4", "--ais-chains", "0", "--batch-scenes", "4"]
EVIDENCE += ["--families", "diagonal"]
DIAGNOSE = [*QUICK, "--num-scenes", "2", "--num-draws", "4", "--num-chains", "2", "--ais-chains", "30"]
DIAGNOSE += ["--ais-temperatures", "1", "--stages"]

pytestmark = pytest.mark.usefixtures("quick_pilot", "no_pictures")


def images(seed: int, number: int = 16) -> Tensor:
    return torch.randint(256, (number, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def put(file: Path, *parts: Tensor) -> None:
    """Write a file of scenes, in the place of any, whose test split has these images and whose others are the same."""
    file.unlink(missing_ok=True)
    test = SceneSet(torch.cat(parts))
    splits = {"train": SceneSet(images(0)), "validation": SceneSet(images(1, 2)), "test": test}
    write_scenes(file, "mine", {name: (name, scenes.stored()) for name, scenes in splits.items()}, {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps, which holds its file of scenes and must not be changed."""
    folder = tmp_path_factory.mktemp("own") / "run"
    config = preset("tiny", "iodine", "file").replace({"training.steps": 2})
    with undrawn():
        train(config, folder, images(0, 40))
    (folder / "scenes.h5").unlink()
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a copy of the run, on scenes of its own."""

    def run(name: str, *parts: Tensor) -> Path:
        put(Path(shutil.copytree(trained, tmp_path / name)) / "scenes.h5", *parts)
        return tmp_path / name

    return run


@pytest.fixture(scope="module")
def drawn(trained: Path, quick_pilot: None) -> Path:
    """The folder of a run on scenes of its own with draws of two of these, which must not be changed."""
    run = Path(shutil.copytree(trained, trained.parent / "drawn"))
    put(run / "scenes.h5", images(2, 4))
    with undrawn():
        assert load_script("diagnose").main([str(run), *DIAGNOSE, "draws"]) == 0
    return run


def elbos(run: Path) -> np.ndarray:
    return read(run / "evidence.nc")["log_weight_guide"].mean(("chain", "draw")).values


def test_evidence_is_of_the_scenes_that_are_there(copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = images(2, 8), images(3, 8) // 2
    run, estimate = copy("run", first), load_script("estimate_evidence").main
    command = [str(run), *EVIDENCE]
    assert estimate(command) == 0
    of_first = elbos(run)
    put(run / "scenes.h5", second, first[:4])
    with pytest.warns(UserWarning, match="num_scenes is 8 there and 12 here; other scenes"):
        assert estimate(command) == 0
    found = elbos(run)
    assert len(found) == 12
    assert not np.isclose(found[:8], of_first).any()
    put(run / "scenes.h5", first)
    monkeypatch.setattr(data_set, "estimate_scenes", None)
    with pytest.warns(UserWarning, match="other scenes"):
        assert estimate(command) == 0, "nothing is estimated again"
    np.testing.assert_array_equal(elbos(run), of_first)


def test_a_cheaper_estimate_is_kept_beside_the_more_expensive_one(
    copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, estimate = copy("run", images(2, 4)), load_script("estimate_evidence").main
    assert estimate([str(run), *EVIDENCE]) == 0
    expensive = read(run / "evidence.nc")
    with pytest.warns(UserWarning, match=r"num_samples is 30 there and 20 here\). They are kept as replaced/evidence_"):
        assert estimate([str(run), *EVIDENCE, "--num-samples", "20"]) == 0
    assert read(run / "evidence.nc").sizes["draw"] == 20
    (kept,) = (run / "replaced").iterdir()
    assert read(kept).identical(expensive)
    monkeypatch.setattr(data_set, "estimate_scenes", None)
    with pytest.warns(UserWarning, match="num_samples is 20 there and 30 here"):
        assert estimate([str(run), *EVIDENCE]) == 0
    assert read(run / "evidence.nc").identical(expensive)


def test_runs_on_different_files_are_not_compared(
    copy: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Both configurations name a file of the same kind, image size and number of scenes."""
    run, other, compare = copy("a", images(2, 8)), copy("b", images(3, 8)), load_script("compare").main
    for pair in ((run, other), (other, run)):
        assert compare([*map(str, pair), *EVIDENCE]) == 1
        error = capsys.readouterr().err
        assert f"{pair[1]}: expected a run with the test scenes of {pair[0]}" in error
        assert "Nats and scores of other images are not comparable" in error
    assert not list(run.rglob("comparison*"))
    same = copy("c", images(2, 8))
    assert compare([str(run), str(same), *EVIDENCE]) == 0, "the same scenes at another place"


def test_draws_of_other_scenes_are_refused_by_later_stages_and_reports(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, diagnose = Path(shutil.copytree(drawn, tmp_path / "run")), load_script("diagnose").main
    (reported,), _ = open_folders([run])
    reported.read("posterior_guide", "compvae diagnose")
    with pytest.raises(Missing, match=r"summary.json is of other test scenes than the run has now"):
        reported.summary()
    put(run / "scenes.h5", images(3, 4))
    capsys.readouterr()
    refusal = "posterior_guide.nc: expected numbers of the test scenes that the run has now, found those of others"
    assert diagnose([str(run), *DIAGNOSE, "checks"]) == 1
    assert refusal in capsys.readouterr().err
    (reported,), _ = open_folders([run])
    with pytest.raises(Missing, match=refusal):
        reported.read("posterior_guide", "compvae diagnose")
    with pytest.warns(UserWarning, match="other scenes"):
        assert diagnose([str(run), *DIAGNOSE, "draws", "checks"]) == 0
    assert len(list((run / "replaced").iterdir())) == 2


def test_draws_that_do_not_go_together_are_refused(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, checks = Path(shutil.copytree(drawn, tmp_path / "run")), [*DIAGNOSE, "checks"]
    change(run / "posterior_importance.nc", num_draws=3)  # as if a call had been killed between the two files
    capsys.readouterr()
    assert load_script("diagnose").main([str(run), *checks]) == 1
    assert "posterior_importance.nc: expected draws with the settings of" in capsys.readouterr().err
    change(run / "posterior_guide.nc", scenes=None)
    assert load_script("diagnose").main([str(run), *checks]) == 1
    assert "expected draws that say of which scenes they are, found those of an earlier" in capsys.readouterr().err


def change(file: Path, **settings: object) -> None:
    """Change settings that a file of draws records, or remove those that are None."""
    groups = load_groups(file, "posterior", "sample_stats")
    content = recorded(groups["posterior"]) | settings
    text = as_text({name: value for name, value in content.items() if value is not None})
    save_inference_data(file, bundle({name: group.assign_attrs(settings=text) for name, group in groups.items()}))


def test_a_run_is_not_resumed_on_other_scenes(copy: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = copy("run", images(2, 4))
    resume = ["--resume", "--steps", "3", "--device", "cpu", "--run-dir", str(run)]
    assert load_script("run_svi").main(resume) == 1
    assert "expected the scenes that the run was trained on" in capsys.readouterr().err


def test_a_study_refuses_finished_runs_of_other_scenes(copy: Callable[..., Path], tmp_path: Path) -> None:
    run, nowhere, other = copy("run", images(2, 4)), tmp_path / "nowhere.h5", tmp_path / "other.h5"
    put(other, images(3, 4))
    config = load_run(run).config

    def cells(place: Path) -> list[Cell]:
        return [Cell("run", config.replace({"data.root": str(place)}))]

    with pytest.raises(CheckpointError, match="found one of other scenes: it was trained on those of"):
        train_cells(cells(other), tmp_path, ["false"])
    with pytest.raises(DataError, match=r"data.root: expected a file of scenes .* got .*nowhere.h5, no file"):
        train_cells(cells(nowhere), tmp_path, ["false"])

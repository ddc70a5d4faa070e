"""Training from Python gives the same run folder as run_svi.py, also on a user's own scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_compvae.analysis import TrainOptions, export_run, load_run, train, training
from pyro_compvae.data import SceneSet, load_scenes
from pyro_compvae.errors import ArgumentError, ConfigError
from pyro_compvae.experiments import run_svi
from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.presets import preset

TWO_STEPS = {"training.steps": 2, "training.log_every": 1, "training.evaluate_every": 2}


def test_train_does_what_the_script_does(tmp_path: Path) -> None:
    config = preset("tiny", "monet").replace(TWO_STEPS)
    run = train(config, tmp_path / "python")
    settings = [word for name, value in TWO_STEPS.items() for word in ("--set", f"{name}={value}")]
    options = ["--guide", "monet", "--preset", "tiny", *settings, "--run-dir", str(tmp_path / "script")]
    assert run_svi.main(options) == 0
    other = load_run(tmp_path / "script")
    assert run.config == other.config
    assert run.identity == other.identity
    ours, theirs = ({path.name for path in folder.path.iterdir()} for folder in (run, other))
    assert {name for name in ours ^ theirs if not name.startswith("events")} == set()
    summaries = [folder.folder.summary() | {"seconds": 0} for folder in (run, other)]
    assert summaries[0] == summaries[1]


def test_own_images_become_the_scenes_of_the_run(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((20, 3, 16, 16))
    run = train(preset("tiny", "iodine", "file").replace(TWO_STEPS), tmp_path / "run", images)
    parts = [run.scenes(split).images for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert torch.equal(torch.cat(parts), torch.from_numpy((255 * images).round().astype(np.uint8)))
    assert run.folder.summary()["miou"] is None
    more = run.config.replace({"training.steps": 3})
    assert train(more, run.path, options=TrainOptions(resume=True)).step == 3


def test_own_scenes_may_have_masks_and_views(tmp_path: Path) -> None:
    config = preset("tiny", "mulmon").replace(TWO_STEPS)
    solids = load_scenes(config.data, "train", multi_view=True)
    run = train(config, tmp_path / "run", solids)
    again = run.scenes("train")
    assert torch.equal(again.images, solids.images[:6])
    assert again.labels is not None
    assert solids.labels is not None
    assert torch.equal(again.labels, solids.labels[:6])
    assert run.folder.summary()["query_miou"] is not None


def test_own_scenes_go_with_the_folder(tmp_path: Path) -> None:
    images = torch.rand(8, 3, 16, 16)
    run = train(preset("tiny", "monet", "file").replace(TWO_STEPS), tmp_path / "run", images)
    run.path.rename(tmp_path / "elsewhere")
    moved = load_run(tmp_path / "elsewhere")
    assert torch.equal(moved.scenes("test").images, (255 * images[-1:]).round().byte())
    again = train(moved.config.replace({"training.steps": 3}), moved.path, options=TrainOptions(resume=True))
    assert again.step == 3


def test_the_program_around_stays_as_it_is(tmp_path: Path) -> None:
    config = preset("tiny", "monet", "file").replace(TWO_STEPS)
    images = torch.rand(8, 3, 16, 16)
    precision = torch.get_float32_matmul_precision()
    expected = train(config, tmp_path / "plain", images).identity
    assert torch.get_float32_matmul_precision() == precision
    torch.manual_seed(7)
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            run = train(config, tmp_path / "other", images, options=TrainOptions(device=torch.device("cpu")))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert run.identity == expected


@pytest.mark.parametrize("flushed", [False, True])
def test_tiny_numbers_count_as_zero_in_training_and_as_before_afterwards(tmp_path: Path, flushed: bool) -> None:
    tiny, seen = torch.tensor(1e-39), []
    torch.set_flush_denormal(flushed)
    try:
        options = TrainOptions(say=lambda line: seen.append(float(tiny * 1)))
        train(preset("tiny", "monet").replace({"training.steps": 1}), tmp_path / "run", options=options)
        assert seen[-1] == 0
        assert (float(tiny * 1) == 0) == flushed
    finally:
        torch.set_flush_denormal(False)


def test_only_runs_are_resumed(tmp_path: Path) -> None:
    config = preset("tiny", "monet").replace(TWO_STEPS)
    resume = TrainOptions(resume=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    for folder in (tmp_path / "nowhere", tmp_path / "notes"):
        with pytest.raises(CheckpointError, match="resume: expected a run"):
            train(config, folder, options=resume)
    assert [file.name for file in (tmp_path / "notes").iterdir()] == ["notes.txt"]
    run = train(config, tmp_path / "run")
    with pytest.raises(CheckpointError, match="guide is 'monet' there and 'iodine' here"):
        train(preset("tiny", "iodine").replace(TWO_STEPS), run.path, options=resume)
    exported = export_run(run.path)
    before = {file.name: file.read_bytes() for file in exported.iterdir()}
    with pytest.raises(CheckpointError, match="expected a run, got an export"):
        train(config, exported, options=resume)
    assert {file.name: file.read_bytes() for file in exported.iterdir()} == before


def refuse(*_: object) -> None:
    raise ConfigError("no such network")


def test_a_call_that_was_refused_may_be_mended(tmp_path: Path) -> None:
    for config, images, message in (
        (preset("tiny", "monet", "file"), torch.rand(8, 3, 7, 7), "image_size: expected at least 8 pixels"),
        (preset("tiny", "mulmon", "file"), torch.rand(8, 3, 16, 16), "scenes: expected several views of each"),
    ):
        with pytest.raises(ValueError, match=message):
            train(config, tmp_path / "run", images)
        assert not (tmp_path / "run").exists()
    config = preset("tiny", "monet", "file").replace(TWO_STEPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Trainer", refuse)
        with pytest.raises(ConfigError, match="no such network"):
            train(config, tmp_path / "run", torch.rand(8, 3, 16, 16))
    assert train(config, tmp_path / "run", torch.rand(8, 3, 16, 16)).step == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scenes.h5").write_text("mine")
    with pytest.raises(CheckpointError, match="expected a new or empty run folder"):
        train(config, tmp_path / "mine", torch.rand(8, 3, 16, 16))
    assert (tmp_path / "mine" / "scenes.h5").read_text() == "mine"


def test_what_cannot_be_trained_is_told(tmp_path: Path) -> None:
    config = preset("tiny", "iodine", "file")
    bytes_ = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    for scenes, message in (
        (bytes_.float() + 255, r"images: expected bytes, or floats in \[0, 1\], got float32 from 255 to 255"),
        (torch.full((4, 3, 16, 16), float("nan")), "got float32 from nan to nan"),
        (bytes_[:2], "scenes: expected at least 3, one for each split, got 2"),
        (bytes_[..., :8], "scenes: expected square images, got 16×8 pixels"),
        (bytes_[:, :1], r"images: expected \(N, 3, H, W\) or \(N, V, 3, H, W\) uint8, got \(8, 1, 16, 16\) uint8"),
    ):
        with pytest.raises(ArgumentError, match=message):
            train(config, tmp_path / "run", scenes)
        assert not (tmp_path / "run").exists()
    run = train(config.replace(TWO_STEPS), tmp_path / "run", bytes_)
    with pytest.raises(ArgumentError, match="expected none for a run that is resumed"):
        train(run.config, run.path, bytes_, options=TrainOptions(resume=True))
    viewpoints = torch.zeros(8, 2, 3)
    for scenes in (None, SceneSet(bytes_)):
        with pytest.raises(ArgumentError, match="viewpoints: expected"):
            train(config, tmp_path / "other", scenes, viewpoints)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="expected a new or empty run folder"):
        train(config, tmp_path, SceneSet(bytes_))

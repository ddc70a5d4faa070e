"""Guides and run folders with a K other than that with which they were built."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch

from pyro_compvae.analysis import evaluate, infer, load_run
from pyro_compvae.analysis.metrics.evaluation import metric_names
from pyro_compvae.data import SceneSet
from pyro_compvae.errors import ConfigError
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.checkpoint import load_checkpoint, save_checkpoint
from pyro_compvae.runs.config import from_yaml, to_yaml
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.training.trainer import Trainer

CPU = torch.device("cpu")
B, V, D, SIZE = 3, 4, 4, 16
GUIDES = get_args(GuideName)


def make_scenes(guide: str) -> SceneSet:
    """Make scenes of random colours with three objects."""
    views = (V,) if guide == "mulmon" else ()
    images = torch.randint(256, (B, *views, 3, SIZE, SIZE), dtype=torch.uint8)
    labels = torch.randint(4, (B, *views, SIZE, SIZE), dtype=torch.uint8)
    return SceneSet(images, labels, torch.full((B,), 3), torch.rand(B, V, 3) if views else None)


@pytest.fixture(scope="module", params=GUIDES)
def run_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step with K = 7."""
    config = preset("tiny", request.param).replace({"num_slots": 7, "training.steps": 1, "training.batch_size": B})
    path: Path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    trainer = Trainer(build_guide(config), config, make_scenes(request.param), RunFolder(path))
    assert trainer.run()
    (path / "config.yaml").write_text(to_yaml(config))
    return path


def test_densities_are_those_of_float32_networks(run_dir: Path, tmp_path: Path) -> None:
    """The densities do not depend on the precision in training; the weights are float32 in any case."""
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder)
    content = load_checkpoint(folder / "checkpoint.pt")
    config = from_yaml(content["config"]).replace({"training.precision": "bfloat16"})
    save_checkpoint(folder / "checkpoint.pt", content | {"config": to_yaml(config)})
    (folder / "config.yaml").write_text(to_yaml(config))
    run, original = load_run(folder), load_run(run_dir)
    assert run.config.training.precision == "bfloat16"
    z = torch.randn(2, 7, D)
    for ours, expected in zip(run.model.decoder(z), original.model.decoder(z), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("num_slots", [5, 9, 11, 15])
def test_a_run_is_evaluated_with_another_number_of_slots(run_dir: Path, num_slots: int) -> None:
    run = load_run(run_dir, num_slots=num_slots)
    assert (run.config.num_slots, run.model.num_slots) == (num_slots, num_slots)
    multi_view = run.config.guide == "mulmon"
    scenes = make_scenes(run.config.guide)
    q = infer(run.guide, scenes[:])
    assert q.loc.shape == q.scale.shape == (B, num_slots, D)
    metrics = evaluate(run.guide, scenes, CPU)
    assert tuple(metrics) == metric_names(num_slots, multi_view)
    assert all(torch.tensor(value).isfinite() for value in metrics.values()), metrics


def test_a_run_keeps_its_own_number_of_slots_and_its_weights(run_dir: Path) -> None:
    own, other = load_run(run_dir), load_run(run_dir, num_slots=9)
    assert (own.config.num_slots, own.model.num_slots) == (7, 7)
    assert own.config.replace({"num_slots": 9}) == other.config
    for (name, a), b in zip(own.guide.state_dict().items(), other.guide.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_built_with_seven_slots_is_one_built_with_nine(guide: GuideName) -> None:
    """K is only a number: the same weights and random numbers give the same posterior."""
    posteriors = []
    scenes = make_scenes(guide)
    for built_with in (7, 9):
        torch.manual_seed(1)
        made = build_guide(preset("tiny", guide).replace({"num_slots": built_with})).eval()
        made.model.num_slots = 9
        torch.manual_seed(2)
        posteriors.append(infer(made, scenes[:]))
    assert posteriors[0].loc.shape == (B, 9, D)
    assert torch.equal(posteriors[0].loc, posteriors[1].loc)
    assert torch.equal(posteriors[0].scale, posteriors[1].scale)


@pytest.mark.parametrize("num_slots", [1, 0, -3])
def test_fewer_than_two_slots_are_refused(run_dir: Path, num_slots: int) -> None:
    with pytest.raises(ConfigError, match=f"RunConfig.num_slots: expected at least 2, got {num_slots}$"):
        load_run(run_dir, num_slots=num_slots)

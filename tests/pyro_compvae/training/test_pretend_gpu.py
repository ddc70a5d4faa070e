"""On a pretended GPU (`pretend_gpu.PretendGpu`) nothing mixes devices, and no training step waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from helpers.pretend_gpu import DeviceError, PretendGpu

from pyro_compvae.analysis import to_inference_data
from pyro_compvae.analysis.evidence.compute import EvidenceConfig, certify, estimate_scenes, log_joint_and_posterior
from pyro_compvae.analysis.figures.decompositions import decomposition_figure
from pyro_compvae.analysis.ladder.compute import LadderConfig, gap_ladder
from pyro_compvae.analysis.metrics.decomposition import decompose, infer
from pyro_compvae.analysis.metrics.evaluation import evaluate, metric_names
from pyro_compvae.analysis.runs import Run
from pyro_compvae.data import SceneSet, load_scenes
from pyro_compvae.guide import SceneGuide
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.training.trainer import Look, Trainer

GUIDES = get_args(GuideName)
QUICK = EvidenceConfig(
    num_samples=8,
    chunk_size=8,
    fit_steps=2,
    cover_steps=1,
    cover_samples=4,
    ais_chains=2,
    ais_temperatures=2,
    leapfrog_steps=1,
    bdmc_temperatures=2,
)


def make(name: GuideName, gpu: PretendGpu) -> tuple[RunConfig, SceneGuide, SceneSet]:
    config = preset("tiny", name).replace({"training.steps": 4, "training.evaluate_every": 2})
    torch.manual_seed(0)
    return config, build_guide(config).to(gpu.device), load_scenes(config.data, "test", multi_view=name == "mulmon")


def test_the_premise() -> None:
    """The pretended GPU computes, waits where a GPU's host would, and refuses what CUDA refuses."""
    with PretendGpu() as gpu:
        there, here = torch.ones(3), torch.ones(3, device=gpu.device)
        assert float((here + 1).sum()) == 6
        assert gpu.syncs.total() == 1
        for mixed in (
            lambda: here + there,
            lambda: torch.cat((here, there)),
            lambda: here.numpy(),
            lambda: there[here.long()],
        ):
            with pytest.raises(DeviceError):
                mixed()
        assert (here * torch.tensor(2.0))[torch.tensor([0, 1])].device == gpu.device  # CUDA accepts these


@pytest.mark.parametrize("name", GUIDES)
def test_a_run_trains_logs_evaluates_and_resumes(name: GuideName, tmp_path: Path) -> None:
    with PretendGpu() as gpu:
        config, guide, scenes = make(name, gpu)
        names = metric_names(config.num_slots, name == "mulmon")

        def look(step: int) -> dict[str, float]:
            return evaluate(guide, scenes, gpu.device)

        trainer = Trainer(guide, config, scenes, RunFolder(tmp_path), Look(names, look))
        trainer._train_step()
        trainer._train_step()
        assert gpu.syncs.total() == 0, gpu.syncs
        trainer.state.check_finite()
        assert gpu.copies.total() > 0, "the premise: copies are counted"
        assert sum(count for where, count in gpu.copies.items() if "to CPU" in where) == 1, gpu.copies
        assert trainer.run()
        again = Trainer(guide, config, scenes, RunFolder(tmp_path), Look(names))
        again.restore()
        assert again.step == 4
        if name != "mulmon":
            scene = scenes[:2].to(gpu.device)
            decomposition_figure(tmp_path / "figure.png", scene, decompose(guide.eval(), infer(guide, scene)))


def test_a_resumed_run_goes_on_from_a_window_of_losses(tmp_path: Path) -> None:
    """Losses from the checkpoint, on the CPU, and later ones, on the GPU, are logged together."""
    with PretendGpu() as gpu:
        config, guide, scenes = make("monet", gpu)
        config = config.replace({"training.log_every": 4, "training.checkpoint_every": 1, "training.evaluate_every": 4})
        first = Trainer(guide, config, scenes, RunFolder(tmp_path))
        first._train_step()
        first.save()
        again = Trainer(guide, config, scenes, RunFolder(tmp_path))
        again.restore()
        assert again.run()
        assert again.step == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", GUIDES)
def test_evidence_and_draws(name: GuideName) -> None:
    with PretendGpu() as gpu:
        config, guide, scenes = make(name, gpu)
        run = Run(Path(), config, 0, guide.model, guide.eval())
        scene = scenes[:2].to(gpu.device)
        estimates = estimate_scenes(run, scene, QUICK)
        assert all(estimate.log_evidence.device == gpu.device for estimate in estimates.values())
        arguments = guide.arguments(scene)
        data = to_inference_data(run.model, guide, *arguments, num_draws=2, num_chains=2, num_predictive=1, truth=scene)
        assert data["posterior"]["z"].shape[:2] == (2, 2)


@pytest.mark.slow
def test_ladder_and_sandwich() -> None:
    with PretendGpu() as gpu:
        config, guide, scenes = make("iodine", gpu)
        run = Run(Path(), config, 0, guide.model, guide.eval())
        log_joint, q = log_joint_and_posterior(run, guide.arguments(scenes[:2].to(gpu.device)))
        gap_ladder(log_joint, q, LadderConfig(2, 20, 20, 8, 2, 8, 1, 2, 2))
        certify(run, 2, QUICK)


def test_what_is_planted_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The planted faults are noise from the CPU in a guide, and a loss that is read in every step."""

    def noise(like: Any, **_: Any) -> Any:
        return torch.normal(torch.zeros(like.shape), 1.0)

    with PretendGpu() as gpu:
        config, guide, scenes = make("iodine", gpu)
        trainer = Trainer(guide, config, scenes, RunFolder(tmp_path))
        step = trainer.optimiser.step
        monkeypatch.setattr(trainer.optimiser, "step", lambda: (step(), float(guide.initial_mean.sum())))
        trainer._train_step()
        assert gpu.syncs.total() == 1
        assert "test_pretend_gpu.py" in str(gpu.syncs)
        monkeypatch.setattr(torch, "randn_like", noise)
        with pytest.raises(DeviceError, match="same device"):
            trainer._train_step()

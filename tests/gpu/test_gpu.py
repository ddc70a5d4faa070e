"""Tests on a real GPU: ``pytest -m gpu -n 0``. Measurements are made by `tools/gpu_check.py`."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from gpu_check import evidence_of_run, loss_and_gradients
from torch import Tensor

from pyro_compvae.data import load_scenes
from pyro_compvae.experiments import run_svi
from pyro_compvae.guides import MulmonGuide, build_guide
from pyro_compvae.precision import allow_tf32
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.training.captured_step import CapturedStep, CudaGraphs
from pyro_compvae.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU with CUDA"),
]
SCHEDULED = {
    "training.warmup_steps": 5,
    "training.kl_warmup_steps": 9,
    "lnms_prior.warmup_steps": 11,
    "training.log_every": 1,
    "training.evaluate_every": 6,
    "training.checkpoint_every": 12,
}
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("name", get_args(GuideName))
def test_loss_and_gradients_are_those_of_the_cpu(name: GuideName) -> None:
    config = preset("tiny", name).replace({"lnms": True})
    loss, gradient = loss_and_gradients(config, 2, CPU, torch.float64)
    found, found_gradient = loss_and_gradients(config, 2, GPU, torch.float64)
    assert found == pytest.approx(loss, rel=1e-9)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-6, atol=1e-6 * float(gradient.abs().max()))


@pytest.mark.parametrize("run", ["iodine-sprites-lnms-seed0", "monet-sprites-lnms-seed0"])
def test_evidence_is_that_of_the_cpu(run: str) -> None:
    """Evidence agrees within hundredths of a nat, although rounded products are allowed."""
    allow_tf32(True)
    try:
        on_cpu, on_gpu = (evidence_of_run(run, device, 2) for device in (CPU, GPU))
    finally:
        allow_tf32(False)
    for part, values in on_cpu.items():
        torch.testing.assert_close(on_gpu[part], values, rtol=1e-4, atol=0.02, msg=part)


class Interrupted(CudaGraphs):
    """A recorder whose first recording waits for the GPU, which is not permitted."""

    def record(self, function: Callable[[], Tensor]) -> Any:
        def reads() -> Tensor:
            result = function()
            float(result.sum())
            return result

        return super().record(reads)


def train(folder: Path, name: GuideName, steps: int, recorder: CudaGraphs | None) -> tuple[list[float], Trainer]:
    """Train up to some step from the folder's checkpoint, if there is one; returns the losses of all steps."""
    config = preset("tiny", name).replace({**SCHEDULED, "lnms": True, "training.steps": steps})
    torch.manual_seed(0)
    guide = build_guide(config).to(GPU)
    if isinstance(guide, MulmonGuide):
        guide.max_observed = 2
    scenes = load_scenes(config.data, "train", multi_view=name == "mulmon")
    folder.mkdir(exist_ok=True)
    trainer = Trainer(guide, config, scenes, RunFolder(folder), recorder=recorder)
    trainer.restore()
    assert trainer.run()
    with (folder / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)], trainer


@pytest.mark.filterwarnings("error:--cuda-graph")
@pytest.mark.parametrize("name", get_args(GuideName))
def test_recorded_steps_are_the_eager_ones(name: GuideName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are equal while all schedules change; a run that was stopped and resumed equals an uninterrupted one."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    eager, _ = train(tmp_path / "eager", name, 24, None)
    captured, trainer = train(tmp_path / "captured", name, 24, CudaGraphs(GPU))
    assert isinstance(trainer.take_step, CapturedStep)
    assert len(trainer.take_step._recorded) == (2 if name == "mulmon" else 1)
    train(tmp_path / "resumed", name, 12, CudaGraphs(GPU))
    resumed, _ = train(tmp_path / "resumed", name, 24, CudaGraphs(GPU))
    assert len(eager) == 24
    assert captured == pytest.approx(eager, rel=1e-3)
    assert resumed == pytest.approx(captured, rel=1e-3)


def test_what_cannot_be_recorded_goes_on_as_it_is(tmp_path: Path) -> None:
    """After a recording that failed in the middle, training continues with the random numbers of a run without one."""
    eager, _ = train(tmp_path / "eager", "iodine", 12, None)
    with pytest.warns(UserWarning, match="cuda_graph: every step is launched kernel by kernel"):
        found, _ = train(tmp_path / "interrupted", "iodine", 12, Interrupted(GPU))
    assert found == pytest.approx(eager, rel=1e-3)
    torch.cuda.empty_cache()  # an allocator that still expected a recording would refuse this


def test_the_main_job(tmp_path: Path, recwarn: Any) -> None:
    """Steps are recorded without a message."""
    options = ["--preset", "tiny", "--steps", "12", "--device", "cuda", "--run-dir", str(tmp_path / "run")]
    assert run_svi.main(options) == 0
    assert not [warning for warning in recwarn if "--cuda-graph" in str(warning.message)]

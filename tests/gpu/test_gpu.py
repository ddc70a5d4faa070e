"""On a real GPU: ``pytest -m gpu -n 0``. Measurements are the business of `tools/gpu_check.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from gpu_check import evidence_of_run, loss_and_gradients
from torch import Tensor

from experiments import run_svi
from guides import build_guide
from pyro_compvae.captured_step import CudaGraphs
from pyro_compvae.config import GuideName
from pyro_compvae.data import load_scenes
from pyro_compvae.precision import allow_tf32
from pyro_compvae.presets import preset
from pyro_compvae.training import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU with CUDA"),
]
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
    """Within hundredths of a nat, although rounded products are allowed."""
    allow_tf32(True)
    try:
        on_cpu, on_gpu = (evidence_of_run(run, device, 2) for device in (CPU, GPU))
    finally:
        allow_tf32(False)
    for part, values in on_cpu.items():
        torch.testing.assert_close(on_gpu[part], values, rtol=1e-4, atol=0.02, msg=part)


@pytest.mark.parametrize("name", get_args(GuideName))
def test_recorded_steps_are_the_eager_ones(name: GuideName, tmp_path: Path) -> None:
    """And a run that was stopped and resumed is the same too."""

    def train(folder: str, steps: int, captured: bool) -> dict[str, Tensor]:
        changes = {"training.steps": steps, "training.evaluate_every": 100, "training.checkpoint_every": 8}
        config = preset("tiny", name).replace(changes)
        torch.manual_seed(0)
        guide = build_guide(config).to(GPU)
        scenes = load_scenes(config.data, "train", multi_view=name == "mulmon")
        (tmp_path / folder).mkdir(exist_ok=True)
        recorder = CudaGraphs(GPU) if captured else None
        trainer = Trainer(guide, config, scenes, tmp_path / folder, GPU, lambda step: {}, (), recorder=recorder)
        trainer.restore()
        assert trainer.run()
        return {key: value.cpu() for key, value in guide.state_dict().items()}

    eager, captured = train("eager", 16, False), train("captured", 16, True)
    train("resumed", 8, True)
    resumed = train("resumed", 16, True)
    for key, value in eager.items():
        torch.testing.assert_close(captured[key], value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(resumed[key], captured[key], rtol=1e-4, atol=1e-6)


def test_the_main_job(tmp_path: Path, recwarn: Any) -> None:
    """Steps are recorded, and nobody hears of it."""
    options = ["--preset", "tiny", "--steps", "12", "--device", "cuda", "--run-dir", str(tmp_path / "run")]
    assert run_svi.main(options) == 0
    assert not [warning for warning in recwarn if "--cuda-graph" in str(warning.message)]

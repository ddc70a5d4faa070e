"""Time and memory of a training step, computed in several ways; each measurement in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_compvae.analysis.benchmark.limit import measure_limit
from pyro_compvae.guide import SceneGuide
from pyro_compvae.guides import IodineGuide, MonetGuide, MulmonGuide, build_guide
from pyro_compvae.guides.reference import plain_iodine_loss, plain_monet_loss, plain_mulmon_loss
from pyro_compvae.precision import allow_tf32
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.training.compilation import compile_networks
from pyro_compvae.training.elbo import SceneElbo
from pyro_compvae.training.step import Loss, TrainingStep, make_optimiser

BASELINE, OURS, COMPILED = "plain", "ours", "ours, compiled"
VARIANTS = {
    BASELINE: "float32",
    OURS: "float32",
    "ours, bfloat16": "bfloat16",
    COMPILED: "float32",
}
"""Precision of the convolutions. "plain" is `pyro_compvae.guides.reference`, "ours" the Pyro guide. COMPILED
takes a minute or two before its first step."""
STEPS = 3
"""Timed steps per process on a CPU."""
GPU_WARM_STEPS, GPU_STEPS = 5, 30
"""Steps before those that are timed on a GPU, and these, which are as short there as what disturbs them."""


class Measurement(NamedTuple):
    """What one process measured.

    seconds: of each timed step.
    peak_bytes: at the peak beyond what the process held before its first step.
    flops, limit_seconds: of a step's convolutions and matrix products, and what they take alone (see `limit`).
    """

    seconds: list[float]
    peak_bytes: int
    flops: int
    limit_seconds: float


@dataclass(frozen=True)
class Case:
    """What one process measures: a preset, computed in one way, perhaps with other values of some fields."""

    size: str
    guide: GuideName
    variant: str
    device: str
    changes: tuple[tuple[str, Any], ...] = ()

    def config(self) -> RunConfig:
        """The preset with L-NMS, and with the changes."""
        fixed = {"lnms": True, "training.precision": VARIANTS[self.variant]}
        return preset(self.size, self.guide).replace(fixed | dict(self.changes))


def measure_in_new_process(case: Case) -> Measurement:
    """`measure` in a process of its own."""
    return Measurement(*in_new_process("pyro_compvae.analysis.benchmark.step_cost", asdict(case)))


def in_new_process(module: str, case: dict[str, Any]) -> list[Any]:
    """What a module prints as JSON when it is run with a case as its argument."""
    command = [sys.executable, "-m", module, json.dumps(case)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(case: Case) -> Measurement:
    """Warm up, then time some steps, then what they multiply."""
    allow_tf32(True)  # as in training
    step = training_step(case)
    if case.device == "cuda":
        before = torch.cuda.memory_allocated()
        seconds = _seconds_on_gpu(step)
        return Measurement(seconds, torch.cuda.max_memory_allocated() - before, *measure_limit(step))
    before, seconds = resident("VmRSS"), []
    for _ in range(1 + STEPS):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return Measurement(seconds[1:], resident("VmHWM") - before, *measure_limit(step))


def _seconds_on_gpu(step: Callable[[], object]) -> list[float]:
    """Seconds of every step, one after the other as in training: the host is never waited for in between."""
    for _ in range(GPU_WARM_STEPS):
        step()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(1 + GPU_STEPS)]
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1000 for start, end in pairwise(marks)]


def make_guide(case: Case) -> SceneGuide:
    """The guide, in train mode; its weights are the same for all variants of a size."""
    config = case.config()
    torch.manual_seed(config.seed)
    guide = build_guide(config).to(case.device)
    if case.variant == BASELINE and isinstance(guide, MonetGuide):  # whose networks the reference takes as they are
        guide.attention.layout = guide.encoder.layout = torch.contiguous_format
    guide.kl_weight = config.training.kl_weight
    return guide


def training_step(case: Case) -> Callable[[], Tensor]:
    """Loss, backward, clipping and the optimiser's step on a batch of noise; a step costs the same on any images.

    The step returns its loss in nats per scene. Every step begins with the same seed, so that all variants compute the
    same loss; MulMON, which draws how many views it observes, always observes `num_observed` of them.
    """
    config = case.config()
    guide = make_guide(case)
    if case.variant == COMPILED:
        compile_networks(guide, torch.device(case.device))
    B, size = config.training.batch_size, guide.model.image_size
    arguments: tuple[Tensor, ...] = (torch.rand(B, 3, *size, device=case.device),)
    if isinstance(guide, MulmonGuide):
        V = config.data.num_views
        arguments = (torch.rand(B, V, 3, *size, device=case.device), torch.rand(B, V, 3, device=case.device))
        guide.num_observed = num_observed(config)
    loss: Loss = partial(plain_loss, guide) if case.variant == BASELINE else SceneElbo()(guide.model, guide)
    optimiser = make_optimiser(config.training, list(guide.parameters()), capturable=case.device == "cuda")
    take_step = TrainingStep(guide, loss, optimiser, config.training.clip_norm)

    def step() -> Tensor:
        torch.manual_seed(config.seed)
        return take_step(*arguments)[0]

    return step


def plain_loss(guide: SceneGuide, x: Tensor, *viewpoints: Tensor) -> Tensor:
    """The reference's loss, summed over scenes in nats, on the random numbers that the guide would draw."""

    def draw(number: int) -> list[Tensor]:
        shape = (len(x), guide.model.num_slots, guide.model.latent_dim)
        return [torch.randn(shape, device=x.device) for _ in range(number)]

    if isinstance(guide, IodineGuide):
        return plain_iodine_loss(guide, x, draw(guide.num_iterations + 1))
    if isinstance(guide, MonetGuide):
        return plain_monet_loss(guide, x, *draw(1))
    assert isinstance(guide, MulmonGuide)
    noisy, order, n = guide.draw_views(*viewpoints)
    noise = draw(n * guide.num_iterations)
    draw(1)  # the guide's site "z", of which only the density matters
    noise += draw(len(order) - n)
    return plain_mulmon_loss(guide, x[:, order], noisy[:, order], n, noise)


def num_observed(config: RunConfig) -> int:
    """n in every measured step of MulMON: the median of U{1..max_observed}, rounded up."""
    assert config.views is not None
    return min(config.views.max_observed, config.data.num_views - 1) // 2 + 1


def resident(field: str) -> int:
    """Resident memory of this process in bytes: "VmRSS" now, "VmHWM" at its peak. Linux only.

    Not getrusage, whose peak starts at that of the parent process.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    print(json.dumps(measure(Case(**json.loads(sys.argv[1])))))

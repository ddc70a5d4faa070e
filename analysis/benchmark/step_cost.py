"""Time and memory of a training step, computed in several ways; each measurement has its own process."""

from __future__ import annotations

import json
import signal
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
from pyro_compvae.orphans import child_environment, end_with_parent
from pyro_compvae.precision import rounded_products
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
"""The variants, with the precision of their convolutions. "plain" is `pyro_compvae.guides.reference`, and "ours" is the
Pyro guide. COMPILED takes a minute or two before its first step."""
STEPS = 3
"""Number of timed steps per process on a CPU."""
PROCESS_STATUS = Path("/proc/self/status")
"""Where Linux says how much memory a process holds."""
GPU_WARM_STEPS, GPU_STEPS = 5, 30
"""Numbers of warm-up steps and of timed steps on a GPU. Many are timed, because steps there are as short as
disturbances."""


class Measurement(NamedTuple):
    """The measurements of one process.

    seconds: the time of each timed step.
    peak_bytes: the peak memory beyond what the process held before its first step.
    flops, limit_seconds: the operations of a step's convolutions and products, and their time alone (see `limit`).
    """

    seconds: list[float]
    peak_bytes: int
    flops: int
    limit_seconds: float


@dataclass(frozen=True)
class Case:
    """The task of one process: a preset, computed in one way, perhaps with other values of some fields."""

    size: str
    guide: GuideName
    variant: str
    device: str
    changes: tuple[tuple[str, Any], ...] = ()

    def config(self) -> RunConfig:
        """The preset's configuration with L-NMS and with the changes."""
        fixed = {"lnms": True, "training.precision": VARIANTS[self.variant]}
        return preset(self.size, self.guide).replace(fixed | dict(self.changes))


def measure_in_new_process(case: Case) -> Measurement:
    """Call `measure` in a new process."""
    return Measurement(*in_new_process("pyro_compvae.analysis.benchmark.step_cost", asdict(case)))


def in_new_process(module: str, case: dict[str, Any]) -> list[Any]:
    """Run a module with a case as its argument, and parse the JSON that it prints. It ends with this process."""
    command, environment = [sys.executable, "-m", module, json.dumps(case)], child_environment()
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def as_child() -> None:
    """Prepare a process of `in_new_process`: it ends with its parent, and at Ctrl-C, of which the parent speaks."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()


def measure(case: Case) -> Measurement:
    """Warm up, time some steps, and then time their products alone."""
    with rounded_products():  # as in training
        return _measure(training_step(case), case)


def _measure(step: Callable[[], object], case: Case) -> Measurement:
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
    """The seconds of every step, taken one after the other as in training, without waiting for the host in between."""
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
    """Make the guide, in train mode; its weights are the same for all variants of a size."""
    config = case.config()
    torch.manual_seed(config.seed)
    guide = build_guide(config).to(case.device)
    if case.variant == BASELINE and isinstance(guide, MonetGuide):  # the reference uses the guide's networks
        guide.attention.layout = guide.encoder.layout = torch.contiguous_format
    guide.kl_weight = config.training.kl_weight
    return guide


def training_step(case: Case) -> Callable[[], Tensor]:
    """Make a training step on a batch of noise: loss, backward, clipping and the optimiser's step, for images of noise.

    A step costs the same for any images. It returns its loss in nats per scene. Every step begins with the same seed,
    so that all variants compute the same loss; MulMON, which otherwise draws how many views it observes, always
    observes `num_observed` of them.
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
    """The reference's loss, summed over scenes in nats, with the random numbers that the guide would draw."""

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
    draw(1)  # stands for the guide's site "z", of which only the density matters
    noise += draw(len(order) - n)
    return plain_mulmon_loss(guide, x[:, order], noisy[:, order], n, noise)


def num_observed(config: RunConfig) -> int:
    """n in every measured step of MulMON: the median of U{1..max_observed}, rounded up."""
    assert config.views is not None
    return min(config.views.max_observed, config.data.num_views - 1) // 2 + 1


def resident(field: str) -> int:
    """The resident memory of this process in bytes, "VmRSS" now and "VmHWM" at its peak; on Linux only.

    The peak of getrusage is no use, because it starts at that of the parent process.
    """
    lines = PROCESS_STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    as_child()
    print(json.dumps(measure(Case(**json.loads(sys.argv[1])))))

"""Time and memory of IODINE's training step, computed in several ways; each measurement in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from pyro.infer import TraceMeanField_ELBO

from guides import IodineGuide, build_guide
from guides.plain import plain_iodine_loss
from pyro_compvae.config import RunConfig
from pyro_compvae.presets import preset

BASELINE, SINGLE_PASS = "plain two-pass", "single pass"
VARIANTS = {
    BASELINE: (torch.contiguous_format, "float32"),
    "single pass, contiguous": (torch.contiguous_format, "float32"),
    SINGLE_PASS: (torch.channels_last, "float32"),
    "single pass, bfloat16": (torch.channels_last, "bfloat16"),
}
"""Layout of the convolutions, and their precision."""
STEPS = 3
"""Timed steps per process."""


class Measurement(NamedTuple):
    """Seconds of each timed step, and bytes at the peak beyond what the process held before its first step."""

    seconds: list[float]
    peak_bytes: int


@dataclass(frozen=True)
class Case:
    """What one process measures; num_iterations is T."""

    size: str
    variant: str
    num_iterations: int
    device: str

    def config(self) -> RunConfig:
        """The preset with L-NMS."""
        changes = {"lnms": True, "refinement.num_iterations": self.num_iterations}
        return preset(self.size).replace(changes | {"training.precision": VARIANTS[self.variant][1]})


def measure_in_new_process(case: Case) -> Measurement:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "analysis.step_cost", json.dumps(asdict(case))]
    return Measurement(*json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def measure(case: Case) -> Measurement:
    """Warm up by one step, then time STEPS of them."""
    step = training_step(case)
    on_gpu = case.device == "cuda"
    before = torch.cuda.memory_allocated() if on_gpu else resident("VmRSS")
    seconds = []
    for _ in range(1 + STEPS):
        started = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM")
    return Measurement(seconds[1:], peak - before)


def make_guide(case: Case) -> IodineGuide:
    """The guide, in train mode; its weights are the same for all variants of a size."""
    config = case.config()
    torch.manual_seed(config.seed)
    layout = VARIANTS[case.variant][0]
    return build_guide(config).to(device=case.device, memory_format=layout)  # type: ignore[call-overload]


def training_step(case: Case) -> Callable[[], None]:
    """Forward, backward, clipping and Adam on a batch of noise; a step costs the same on any images."""
    config = case.config()
    guide = make_guide(case)
    elbo = TraceMeanField_ELBO()(guide.training_model, guide)
    parameters = list(guide.parameters())
    optimiser = torch.optim.Adam(parameters, lr=config.training.learning_rate)
    B, K, D = config.training.batch_size, config.num_slots, config.latent_dim
    x = torch.rand(B, 3, *guide.model.image_size, device=case.device)

    def step() -> None:
        if case.variant == BASELINE:
            noise = torch.randn(guide.num_iterations + 1, B, K, D, device=case.device)
            loss = plain_iodine_loss(guide, x, noise.unbind()) / B
        else:
            loss = elbo(x) / B
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.training.clip_norm)
        optimiser.step()

    return step


def resident(field: str) -> int:
    """Resident memory of this process in bytes: "VmRSS" now, "VmHWM" at its peak. Linux only.

    Not getrusage, whose peak starts at that of the parent process.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    print(json.dumps(measure(Case(**json.loads(sys.argv[1])))))

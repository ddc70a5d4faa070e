"""Time and memory of importance samples, ours and Pyro's; each measurement has its own process."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import pyro
import torch
from pyro.infer import Importance
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.benchmark.step_cost import as_child, in_new_process, resident
from pyro_compvae.evidence import proposal_log_evidence
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.proposals.symmetric import Proposal, normal_proposal
from pyro_compvae.guides import build_guide
from pyro_compvae.models import SlotModel
from pyro_compvae.runs.presets import preset

Way = Literal["pyro.infer.Importance", "ours"]
PYRO_WAY: Way = "pyro.infer.Importance"
OURS_WAY: Way = "ours"
WAYS = (PYRO_WAY, OURS_WAY)
"""The two ways: Pyro's loop over traces of one sample each, and `proposal_log_evidence` with the exact permanent."""


class SamplingCost(NamedTuple):
    """The seconds of all samples, those of them for q̄ (0 without it), and the bytes at the peak beyond the start."""

    seconds: float
    symmetric_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class SamplingCase:
    """The task of one process: L samples of one scene from IODINE's preset of some size, with untrained weights."""

    size: str
    way: Way
    num_samples: int
    device: str


def measure_in_new_process(case: SamplingCase) -> SamplingCost:
    """Call `measure` in a new process."""
    return SamplingCost(*in_new_process("pyro_compvae.analysis.benchmark.evidence_cost", asdict(case)))


@torch.no_grad()
def measure(case: SamplingCase) -> SamplingCost:
    """Warm up by a few samples, then time all samples; the peak is relative to the memory before the warm-up."""
    config = preset(case.size, "iodine")
    torch.manual_seed(config.seed)
    guide = build_guide(config).to(case.device).eval()
    x = torch.rand(1, 3, *guide.model.image_size, device=case.device)
    # The posterior is computed once for all samples, which a loop over traces of the guide would not do.
    q = guide.posterior(x)
    run, proposal = sampler(case.way, guide.model, q, x)
    on_gpu = case.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else resident("VmRSS")
    run(2)
    proposal.seconds = 0.0
    _wait(on_gpu)
    started = time.perf_counter()
    run(case.num_samples)
    _wait(on_gpu)
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM")
    return SamplingCost(seconds, proposal.seconds, peak - before)


def _wait(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()


class TimedProposal:
    """A proposal that records how long q̄ takes."""

    def __init__(self, proposal: Proposal) -> None:
        self.proposal = proposal
        self.num_slots = proposal.num_slots
        self.rsample = proposal.rsample
        self.log_prob = proposal.log_prob
        self.seconds = 0.0

    def symmetric_log_prob(self, z: Tensor) -> Tensor:
        """Evaluate the proposal's log q̄, and add the time that it takes to `seconds`."""
        _wait(z.is_cuda)
        started = time.perf_counter()
        log_prob = self.proposal.symmetric_log_prob(z)
        _wait(z.is_cuda)
        self.seconds += time.perf_counter() - started
        return log_prob


def sampler(way: Way, model: SlotModel, q: Normal, x: Tensor) -> tuple[Callable[[int], Any], TimedProposal]:
    """A function that draws and weighs some number of samples, and the proposal from which it draws."""
    proposal = TimedProposal(normal_proposal(q))
    if way == OURS_WAY:
        log_joint = LogJoint(model, x)
        return lambda num_samples: proposal_log_evidence(log_joint, proposal, num_samples).log_evidence, proposal

    def guide(x: Tensor) -> None:
        with pyro.plate("scenes", len(x), dim=-1):
            pyro.sample("z", pyro.distributions.Normal(q.loc, q.scale).to_event(2))

    return lambda num_samples: Importance(model, guide, num_samples).run(x).get_log_normalizer(), proposal


if __name__ == "__main__":
    as_child()
    print(json.dumps(measure(SamplingCase(**json.loads(sys.argv[1])))))

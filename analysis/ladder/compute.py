r"""The gap between a guide's ELBO and log p(x), in named parts, per scene and on frozen weights.

    L[q_φ] ≤ L[q*_diagonal] ≤ L[q*_block] ≤ L[q*_full] ≤ L[q*_flow] ≤ L[q̄*_flow] ≤ log p(x)

Each rung is the best posterior of a larger family, fitted to every scene; its gain is what the family before could not
represent:

    amortisation    a diagonal Gaussian fitted to the scene instead of the guide's
    within_slot     covariance within a slot
    independence    covariance across slots, which L-NMS is about
    non_gaussian    a normalising flow instead of a Gaussian
    symmetry        KL(q ‖ q̄) ∈ [0, log K!]: q covers one of K! modes
    residual        the rest up to log p̂(x)

They sum to log p̂(x) − L[q_φ]. Only the first depends on the guide. All others are properties of the model and the
image, as far as fits from different guides end in the same mode.

"full" is a dense covariance for any K·D, and not of low rank plus a diagonal: if the posterior is Gaussian, natural
gradients fit a covariance of 112 dimensions (K = 7, D = 16) exactly.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, get_args

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.evidence.compute import EvidenceProgress
from pyro_compvae.checks import check_counts
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence import (
    EvidenceEstimate,
    Family,
    FitConfig,
    FlowConfig,
    LogJoint,
    Proposal,
    RefinedConfig,
    cover,
    fit_flow,
    fit_gaussian,
    log_evidence_from,
    normal_proposal,
    proposal_log_evidence,
)
from pyro_compvae.evidence.fitting.convergence import NEGLIGIBLE_RISE, Slope, elbo_slope
from pyro_compvae.evidence.importance import chunk_sizes
from pyro_compvae.evidence.proposals.symmetric import MAX_PERMUTED_SLOTS

GAPS = ("amortisation", "within_slot", "independence", "non_gaussian", "symmetry", "residual")

APPROACH_SAMPLES, FIT_SAMPLES = 16, 128
"""Draws per step while a fit approaches the optimum, and while it settles. Steps of few draws are cheap and noisy: with
16 draws the full covariance of 40 dimensions ends 2 nats below its best, and below the block's."""

HELD = 1 / 2
"""Share of a fit's steps that have a constant size, to see whether it has arrived; in the others it settles."""

LADDERS = 2
"""Version of the ladder. Raise it whenever the same settings give other numbers."""


@dataclass(frozen=True)
class LadderConfig:
    """The effort of a gap ladder.

    approach_steps: steps of the diagonal Gaussian from the guide's posterior, with 16 draws each.
    fit_steps: steps of every Gaussian from the one before, with 128 draws each.
    flow_steps: steps of the flow, with 16 draws each; 0 leaves it out.
    num_samples: fresh draws with which every rung is evaluated.
    symmetry_samples: fresh draws for the symmetry gap, each in all K! orders.
    chunk_size: draws, or chains, per scene held at a time.
    cover_steps, ais_chains, ais_temperatures: the effort of log p̂(x); see `RefinedConfig`.
    """

    approach_steps: int = 100
    fit_steps: int = 60
    flow_steps: int = 500
    num_samples: int = 1000
    symmetry_samples: int = 200
    chunk_size: int = 16
    cover_steps: int = 25
    ais_chains: int = 64
    ais_temperatures: int = 20

    def __post_init__(self) -> None:
        check_counts(approach_steps=self.approach_steps, chunk_size=self.chunk_size, ais_chains=self.ais_chains)
        if min(self.num_samples, self.symmetry_samples) < 2:
            raise ArgumentError(
                "num_samples, symmetry_samples: expected at least 2, or there is no error; got "
                f"{self.num_samples} and {self.symmetry_samples}"
            )
        for name, value, allowed in (("fit_steps", self.fit_steps, ()), ("flow_steps", self.flow_steps, (0,))):
            if value < 20 and value not in allowed:
                raise ArgumentError(f"{name}: expected at least 20, or convergence cannot be judged; got {value}")
        self.evidence()

    def evidence(self) -> RefinedConfig:
        """The settings of log p̂(x).

        Raises:
            ValueError: for counts out of range.
        """
        return RefinedConfig(
            family="full",
            cover_steps=self.cover_steps,
            num_chains=self.ais_chains,
            num_temperatures=self.ais_temperatures,
            chunk_size=self.chunk_size,
        )


class Rung(NamedTuple):
    """The best posterior of a family, evaluated by fresh draws.

    elbo, standard_error: the ELBO and its standard error, (B,) in nats.
    slope: the slope of the fit's ELBO over the steps of constant size; 0 for the amortised posterior.
    seconds: the time that fit and evaluation took for all scenes.
    evaluations: the evaluations of the log joint per scene.
    """

    elbo: Tensor
    standard_error: Tensor
    slope: Slope
    seconds: float
    evaluations: int


class Ladder(NamedTuple):
    """The result of `gap_ladder`.

    rungs: the rungs by name, from "amortised" on.
    symmetry, symmetry_error: KL(q ‖ q̄) of the last rung, and its standard error, (B,).
    evidence: the estimate of log p(x).
    evidence_seconds: the time that symmetry and log p̂(x) took.
    """

    rungs: dict[str, Rung]
    symmetry: Tensor
    symmetry_error: Tensor
    evidence: EvidenceEstimate
    evidence_seconds: float

    def gaps(self) -> dict[str, Tensor]:
        """The parts of the gap by name, (B,) each in nats; without a flow there is no "non_gaussian"."""
        rungs = list(self.rungs.values())
        names = [name for name in GAPS if name != "non_gaussian" or "flow" in self.rungs]
        gains = [after.elbo - before.elbo for before, after in pairwise(rungs)]
        gains += [self.symmetry, self.evidence.log_evidence - rungs[-1].elbo - self.symmetry]
        return dict(zip(names, gains, strict=True))

    def standard_errors(self) -> dict[str, Tensor]:
        """Standard errors of `gaps`, (B,) each; neighbours share a rung, so their errors are not independent."""
        rungs = list(self.rungs.values())
        errors = [torch.hypot(before.standard_error, after.standard_error) for before, after in pairwise(rungs)]
        last = torch.stack((rungs[-1].standard_error, self.symmetry_error, self.evidence.standard_error)).norm(dim=0)
        return dict(zip(self.gaps(), [*errors, self.symmetry_error, last], strict=True))

    def failures(self) -> dict[str, Tensor]:
        """Which rungs lie below the one before, by more than two standard errors and not negligibly, (B,) bool by name.
        A larger family has no worse optimum, so there the optimiser failed."""
        gaps, errors = self.gaps(), self.standard_errors()
        failures = {}
        for name, gap in zip(list(self.rungs)[1:], gaps, strict=False):  # the last two gaps belong to no rung
            limit = (2 * errors[gap]).nan_to_num(nan=0.0).clamp(min=NEGLIGIBLE_RISE)
            failures[name] = ~(gaps[gap] >= -limit)  # NaN fails too
        return failures


def gap_ladder(
    log_joint: LogJoint, q: Normal, config: LadderConfig, progress: EvidenceProgress = lambda name: None
) -> Ladder:
    """Climb the ladder for all scenes of a batch at once.

    The first family starts at the amortised posterior, and every other one where the one before ended. So all rungs
    belong to one mode, and none starts below its predecessor.

    Args:
        log_joint: log p(x, z) on frozen weights.
        q: the guide's posterior, of batch shape (B, K, D).
        config: the effort.
        progress: called with the name of every rung when it is done.

    Raises:
        ValueError: for more slots than permutations can be summed over.
    """
    K = log_joint.event_shape[0]
    if K > MAX_PERMUTED_SLOTS:
        raise ArgumentError(
            f"slots: expected at most {MAX_PERMUTED_SLOTS}, of which all orders are summed, got {K}. "
            f"No weight depends on K: load the run with fewer slots, load_run(..., num_slots={MAX_PERMUTED_SLOTS})"
        )
    rungs: dict[str, Rung] = {}
    clock, chunk = _Clock(), config.chunk_size

    def evaluate(name: str, proposal: Proposal, slope: Slope, evaluations: int) -> Proposal:
        plain = proposal_log_evidence(log_joint, proposal, config.num_samples, chunk, symmetrise=False)
        error = plain.log_weights.std(0) / config.num_samples**0.5
        rungs[name] = Rung(plain.elbo, error, slope, clock.lap(), evaluations + config.num_samples)
        progress(name)
        return proposal

    zero = q.loc.new_zeros(log_joint.num_scenes, dtype=torch.float64)
    evaluate("amortised", normal_proposal(q), Slope(zero, zero), 0)
    approach = FitConfig(steps=config.approach_steps, num_samples=APPROACH_SAMPLES, chunk_size=chunk)
    settle = FitConfig(steps=config.fit_steps, num_samples=FIT_SAMPLES, chunk_size=chunk, held=HELD)
    fit = fit_gaussian(log_joint, q, "diagonal", approach)
    before = APPROACH_SAMPLES * config.approach_steps
    for family in get_args(Family):
        fit = fit_gaussian(log_joint, fit, family, settle)
        last = evaluate(family, fit.proposal(), elbo_slope(fit.elbo, HELD), before + FIT_SAMPLES * config.fit_steps)
        before = 0
    if config.flow_steps:
        bend = FlowConfig(steps=config.flow_steps, num_samples=APPROACH_SAMPLES, chunk_size=chunk, held=HELD)
        flow = fit_flow(log_joint, fit, bend)
        last = evaluate("flow", flow.proposal(), elbo_slope(flow.elbo, HELD), APPROACH_SAMPLES * config.flow_steps)
    with torch.no_grad():
        parts = [last.rsample(size) for size in chunk_sizes(config.symmetry_samples, chunk)]
        ratios = torch.cat([last.log_prob(z) - last.symmetric_log_prob(z) for z in parts])
    refined = config.evidence()
    estimate = log_evidence_from(log_joint, cover(log_joint, fit, refined), refined)
    progress("log p(x)")
    symmetry_error = ratios.std(0) / config.symmetry_samples**0.5
    return Ladder(rungs, ratios.mean(0), symmetry_error, estimate, clock.lap())


class _Clock:
    def __init__(self) -> None:
        self.started = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        seconds, self.started = now - self.started, now
        return seconds

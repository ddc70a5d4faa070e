"""Log-evidence of a run's scenes, by several estimators side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.runs import Run
from pyro_compvae.data.scenes import Scene
from pyro_compvae.evidence import EvidenceEstimate, annealed_log_evidence, fit_gaussian, proposal_log_evidence
from pyro_compvae.evidence.fitting import Family
from pyro_compvae.evidence.proposals import MAX_PERMUTED_SLOTS, normal_proposal
from pyro_compvae.evidence.traces import LogJoint


@dataclass(frozen=True)
class EvidenceConfig:
    """How hard to try.

    num_samples: L, importance samples per scene and estimator.
    chunk_size: of them held at a time.
    fit_steps: of every fitted family: diagonal, block and, with up to 8 slots, full.
    ais_chains, ais_temperatures: annealed importance sampling from the last fit; no chains, no annealing.
    """

    num_samples: int = 2000
    chunk_size: int = 50
    fit_steps: int = 500
    ais_chains: int = 0
    ais_temperatures: int = 50

    def __post_init__(self) -> None:
        for name in ("num_samples", "chunk_size", "fit_steps", "ais_temperatures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.ais_chains < 0:
            raise ValueError(f"ais_chains: expected zero or more, got {self.ais_chains}")


def estimate_scenes(run: Run, scene: Scene, config: EvidenceConfig) -> dict[str, EvidenceEstimate]:
    """Estimates of log p(x) of a batch of scenes, by name.

    "guide": importance sampling from the guide's posterior, whose mean log weight is the ELBO; "guide_symmetric": the
    same draws weighed by q̄; "diagonal", "block", "full": from symmetrised Gaussians fitted to every scene; "ais":
    annealed importance sampling from the last of them.
    """
    arguments = run.guide.arguments(scene)
    log_joint = LogJoint(run.model, *arguments)
    with torch.no_grad():
        q = run.guide.posterior(*arguments)
    # The same draws for both, so that their difference is the symmetry term and no noise.
    state = torch.get_rng_state()
    proposal, size = normal_proposal(q), (config.num_samples, config.chunk_size)
    estimates = {"guide": proposal_log_evidence(log_joint, proposal, *size, symmetrise=False)}
    torch.set_rng_state(state)
    estimates["guide_symmetric"] = proposal_log_evidence(log_joint, proposal, *size)
    families: list[Family] = ["diagonal", "block"]
    if run.model.num_slots <= MAX_PERMUTED_SLOTS:
        families.append("full")
    fit = None
    for family in families:
        fit = fit_gaussian(log_joint, fit or q, family, config.fit_steps)
        estimates[family] = proposal_log_evidence(log_joint, fit.proposal(), *size)
    if config.ais_chains:
        assert fit is not None
        estimates["ais"] = annealed_log_evidence(
            run.model,
            run.guide,
            *arguments,
            num_chains=config.ais_chains,
            num_temperatures=config.ais_temperatures,
            start=fit.proposal(),
        )
    return estimates


def evidence_table(estimates: Mapping[str, EvidenceEstimate], dimensions: int) -> str:
    """A line per estimator: means over scenes with 95 % intervals, nats and bits per dimension, k̂ and ESS.

    Args:
        estimates: by name, of all scenes.
        dimensions: observed numbers per scene, 3HW, times V with several views.
    """
    heads = f"{'ELBO':>18s} {'log p(x)':>18s} {'bits/dim':>9s} {'k̂ median, 90 %':>17s} {'k̂<0.7':>6s} {'ESS':>7s}"
    lines = [f"{'':16s} {heads}"]
    for name, e in estimates.items():
        low, high = (float(e.khat.nanquantile(p)) for p in (0.5, 0.9))
        bits = -float(e.log_evidence.mean()) / (dimensions * math.log(2))
        lines.append(
            f"{name:16s} {_interval(e.elbo):>18s} {_interval(e.log_evidence):>18s} {bits:9.4f} "
            f"{low:8.2f} {high:7.2f} {float(e.reliable.double().mean()):6.0%} {float(e.ess.median()):7.1f}"
        )
    return "\n".join(lines)


def _interval(values: Tensor) -> str:
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{float(values.mean()):.2f} ± {1.96 * error:.2f}"

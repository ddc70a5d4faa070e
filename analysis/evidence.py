"""Log-evidence of a run's scenes, by several estimators side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal

from analysis.runs import Run
from pyro_compvae.data.scenes import Scene
from pyro_compvae.evidence import (
    EvidenceEstimate,
    Fit,
    Sandwich,
    annealed_log_evidence,
    bidirectional_log_evidence,
    conditional_log_evidence,
    fit_gaussian,
    proposal_log_evidence,
    simulate,
)
from pyro_compvae.evidence.fitting import Family
from pyro_compvae.evidence.proposals import MAX_PERMUTED_SLOTS, Proposal, normal_proposal
from pyro_compvae.evidence.traces import LogJoint

OBSERVED = "observed"
"""Name of the estimate for the first V // 2 of V views; all others are of all views."""

Progress = Callable[[str], object]
"""Called with the name of an estimator when it is done."""


@dataclass(frozen=True)
class EvidenceConfig:
    """How hard to try.

    num_samples: L, importance samples per scene and estimator.
    chunk_size: of them held at a time.
    families: Gaussians to fit, each from where the guide stands; by default "full", or "block" with over 8 slots.
    fit_steps: natural-gradient steps on the ELBO, 16 draws each.
    cover_steps: further steps on the Rényi bound, 64 draws each; they make a fit cover more, for "..._covering".
    inflation: of the guide's scale, for "guide_inflated"; 1 leaves it out.
    ais_chains, ais_temperatures, leapfrog_steps: annealed importance sampling from the last covering fit; no chains, no
        annealing. With fewer than 25 chains there is no k̂.
    bdmc_chains, bdmc_temperatures: of the sandwich on simulated scenes.
    """

    num_samples: int = 2000
    chunk_size: int = 50
    families: tuple[Family, ...] = ()
    fit_steps: int = 150
    cover_steps: int = 100
    inflation: float = 1.0
    ais_chains: int = 64
    ais_temperatures: int = 15
    leapfrog_steps: int = 4
    bdmc_chains: int = 32
    bdmc_temperatures: int = 60

    def __post_init__(self) -> None:
        ones = ("num_samples", "chunk_size", "fit_steps", "cover_steps", "ais_temperatures", "leapfrog_steps")
        for name in (*ones, "bdmc_chains", "bdmc_temperatures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.ais_chains < 0:
            raise ValueError(f"ais_chains: expected zero or more, got {self.ais_chains}")
        if self.inflation < 1:
            raise ValueError(f"inflation: expected at least 1, got {self.inflation}")

    def families_of(self, num_slots: int) -> tuple[Family, ...]:
        """The families to fit to so many slots.

        Raises:
            ValueError: for "full" with too many slots to sum all their permutations.
        """
        if "full" in self.families and num_slots > MAX_PERMUTED_SLOTS:
            raise ValueError(
                f"families: expected diagonal or block with {num_slots} slots, got full, which can be symmetrised with "
                f"up to {MAX_PERMUTED_SLOTS}"
            )
        return self.families or (("full",) if num_slots <= MAX_PERMUTED_SLOTS else ("block",))


def estimate_scenes(
    run: Run, scene: Scene, config: EvidenceConfig, progress: Progress = lambda name: None
) -> dict[str, EvidenceEstimate]:
    """Estimates of log p(x) of a batch of scenes, by name.

    "guide": importance sampling from the guide's posterior, whose mean log weight is the ELBO; "guide_symmetric": the
    same draws weighed by q̄; "guide_inflated": symmetrised, and wider; "diagonal", "block", "full": from symmetrised
    Gaussians fitted to every scene by their ELBO; "full_covering" and so on: those fitted further to cover more; "ais":
    annealed importance sampling from the last of them; "observed": as the last "..._covering", of the first V // 2 of V
    views.
    """
    arguments = run.guide.arguments(scene)
    log_joint, q = _log_joint_and_posterior(run, arguments)
    estimates: dict[str, EvidenceEstimate] = {}

    def sample(name: str, proposal: Proposal, symmetrise: bool = True) -> None:
        estimates[name] = proposal_log_evidence(
            log_joint, proposal, config.num_samples, config.chunk_size, symmetrise=symmetrise
        )
        progress(name)

    # The same draws for both, so that their difference is the symmetry term and no noise.
    state = torch.get_rng_state()
    sample("guide", normal_proposal(q), symmetrise=False)
    torch.set_rng_state(state)
    sample("guide_symmetric", normal_proposal(q))
    if config.inflation > 1:
        sample("guide_inflated", normal_proposal(Normal(q.loc, config.inflation * q.scale)))
    for family in config.families_of(run.model.num_slots):
        fit = fit_gaussian(log_joint, q, family, config.fit_steps)
        sample(family, fit.proposal())
        covering = _cover(log_joint, fit, family, config)
        sample(f"{family}_covering", covering.proposal())
    if config.ais_chains:
        estimates["ais"] = annealed_log_evidence(
            run.model,
            run.guide,
            *arguments,
            num_chains=config.ais_chains,
            num_temperatures=config.ais_temperatures,
            leapfrog_steps=config.leapfrog_steps,
            start=covering.proposal(),
        )
        progress("ais")
    if scene.image.dim() == 5:
        log_joint, q = _log_joint_and_posterior(run, run.guide.arguments(scene.view(slice(scene.image.shape[1] // 2))))
        sample(OBSERVED, refined_fit(log_joint, q, config).proposal())
    return estimates


def refined_fit(log_joint: LogJoint, q: Normal, config: EvidenceConfig) -> Fit:
    """The last of the families, fitted to every scene from where the guide's posterior q stands, and made to cover."""
    family = config.families_of(q.batch_shape[1])[-1]
    return _cover(log_joint, fit_gaussian(log_joint, q, family, config.fit_steps), family, config)


def _cover(log_joint: LogJoint, fit: Fit, family: Family, config: EvidenceConfig) -> Fit:
    return fit_gaussian(log_joint, fit, family, config.cover_steps, num_samples=64, step_size=0.1, exponent=0.5)


def _log_joint_and_posterior(run: Run, arguments: tuple[Tensor, ...]) -> tuple[LogJoint, Normal]:
    with torch.no_grad():
        return LogJoint(run.model, *arguments), run.guide.posterior(*arguments)


def certify(
    run: Run, num_scenes: int, config: EvidenceConfig, viewpoints: Tensor | None = None
) -> tuple[Sandwich, EvidenceEstimate]:
    """Bounds on log p(x) of scenes simulated from the run's model, and the refined importance estimate for them.

    Args:
        run: the run.
        num_scenes: B.
        config: how hard to try.
        viewpoints: (B, V, 3) of the simulated views, if the model has any.
    """
    conditions = () if viewpoints is None else (viewpoints,)
    z, arguments = simulate(run.model, *conditions, num_scenes=None if conditions else num_scenes)
    log_joint, q = _log_joint_and_posterior(run, arguments)
    proposal = refined_fit(log_joint, q, config).proposal()
    estimate = proposal_log_evidence(log_joint, proposal, config.num_samples, config.chunk_size)
    sandwich = bidirectional_log_evidence(
        log_joint, z, proposal, config.bdmc_chains, config.bdmc_temperatures, config.leapfrog_steps
    )
    return sandwich, estimate


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
            f"{name:16s} {_interval(e.elbo):>18s} {_interval(e.log_evidence):>18s} "
            f"{'' if name == OBSERVED else f'{bits:9.4f}':>9s} "
            f"{low:8.2f} {high:7.2f} {float(e.reliable.double().mean()):6.0%} {float(e.ess.median()):7.1f}"
        )
    lines += comparisons(estimates)
    return "\n".join(lines)


def comparisons(estimates: Mapping[str, EvidenceEstimate]) -> list[str]:
    """What the estimates say of each other, in sentences."""
    lines = []
    symmetry = estimates["guide_symmetric"].elbo - estimates["guide"].elbo
    lines.append(f"symmetry term, ELBO of q̄ − ELBO of q: {_interval(symmetry)} nats, {_range(symmetry)}")
    refined = [name for name in estimates if name.endswith("_covering")][-1]
    if "ais" in estimates:
        difference = estimates["ais"].log_evidence - estimates[refined].log_evidence
        near, reliable = difference.abs() < 1, estimates[refined].reliable
        lines.append(
            f"ais − {refined}: {_interval(difference)} nats, {_range(difference)}; within 1 nat on {int(near.sum())} "
            f"of {len(near)} scenes, and on {int((near & reliable).sum())} of the {int(reliable.sum())} whose k̂ < 0.7"
        )
    if OBSERVED in estimates:
        conditional = conditional_log_evidence(estimates[refined], estimates[OBSERVED])
        lines.append(
            f"log p(query views | observed views): {_interval(conditional.log_evidence)} nats per scene, "
            f"k̂ < 0.7 for both on {int(conditional.reliable.sum())} of {len(conditional.khat)} scenes"
        )
    return lines


def sandwich_table(sandwich: Sandwich, estimate: EvidenceEstimate) -> str:
    """A line per simulated scene: both bounds, and where the importance estimate lies."""
    lines = [f"{'simulated scene':>16s} {'lower':>10s} {'upper':>10s} {'width':>7s} {'importance':>11s} {'k̂':>6s}"]
    for b, (lower, upper, width, log_p, khat) in enumerate(
        zip(sandwich.lower, sandwich.upper, sandwich.width, estimate.log_evidence, estimate.khat, strict=True)
    ):
        outside = f"{lower - log_p:.2f} below" if log_p < lower else f"{log_p - upper:.2f} above"
        where = "inside" if lower <= log_p <= upper else outside
        lines.append(f"{b:16d} {lower:10.2f} {upper:10.2f} {width:7.2f} {log_p:11.2f} {khat:6.2f}  {where}")
    width = sandwich.width
    lines.append(f"width: median {float(width.median()):.2f} nats, {_range(width)}")
    return "\n".join(lines)


def _interval(values: Tensor) -> str:
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{float(values.mean()):.2f} ± {1.96 * error:.2f}"


def _range(values: Tensor) -> str:
    return f"from {float(values.min()):.2f} to {float(values.max()):.2f}"

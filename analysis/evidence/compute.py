"""Log-evidence of a run's scenes, by several estimators side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.runs import Run
from pyro_compvae.data.scenes import Scene
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence import (
    EvidenceEstimate,
    Fit,
    Sandwich,
    bidirectional_log_evidence,
    fit_gaussian,
    plain_and_symmetric_log_evidence,
    proposal_log_evidence,
    simulate,
)
from pyro_compvae.evidence.annealing.chains import Annealing, annealed, default_start
from pyro_compvae.evidence.annealing.chains import Progress as AnnealingProgress
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.fitting.gaussian import Family
from pyro_compvae.evidence.importance import check_counts
from pyro_compvae.evidence.proposals.symmetric import MAX_PERMUTED_SLOTS, Proposal, normal_proposal
from pyro_compvae.permutation import MAX_SLOTS

OBSERVED = "observed"
"""Name of the estimate for the first V // 2 of V views; all others are of all views."""

START_SCALE = 0.05
"""Of the Gaussian around an exact draw that a fit starts at: about what guides say of slots that they see well."""

LOWER_CHAINS = 128
"""Of the sandwich, where no chains are asked for on real scenes."""

ANNEALING_INFLATION = 1.25
"""Of the scale of the fit that chains start from: they come in from outside more easily than they get out. With
15 temperatures it takes the median k̂ on 16 scenes of IODINE from 0.71 to 0.58; with 40 it was not measured again."""

ESTIMATORS = 4
"""To be raised whenever the same settings come to mean other numbers: what was saved before is computed again."""

Progress = Callable[[str], object]
"""Called with the name of an estimator when it is done, and with how far annealing is and what it accepts."""


@dataclass(frozen=True)
class EvidenceConfig:
    """How hard to try.

    num_samples: L, importance samples per scene and estimator.
    chunk_size: draws, or chains, per scene held at a time, by all estimators.
    families: Gaussians to fit, each from where the guide stands; by default "full", or "block" with over 8 slots.
    fit_steps: natural-gradient steps on the ELBO, 16 draws each.
    cover_steps, cover_samples: further steps towards KL(p ‖ q), and the draws of each; they make a fit cover more, for
        "..._covering".
    inflation: of the guide's scale, for "guide_inflated"; 1 leaves it out.
    ais_chains, ais_temperatures, leapfrog_steps: annealed importance sampling from the last covering fit; no chains, no
        annealing. With fewer than 30 chains there is no k̂, and few chains bear but a small one. The sandwich's lower
        bound takes the same pains.
    bdmc_chains, bdmc_temperatures: of the upper bound for simulated scenes, from the exact draw back to the prior. Few
        chains on a long way: it takes the bound down as one over the temperatures.
    """

    num_samples: int = 2000
    chunk_size: int = 16
    families: tuple[Family, ...] = ()
    fit_steps: int = 150
    cover_steps: int = 50
    cover_samples: int = 128
    inflation: float = 1.0
    ais_chains: int = 128
    ais_temperatures: int = 40
    leapfrog_steps: int = 4
    bdmc_chains: int = 2
    bdmc_temperatures: int = 8000

    def __post_init__(self) -> None:
        ones = ["num_samples", "chunk_size", "fit_steps", "cover_steps", "cover_samples", "ais_temperatures"]
        ones += ["leapfrog_steps", "bdmc_chains", "bdmc_temperatures"]
        check_counts(**{name: getattr(self, name) for name in ones})
        if len(set(self.families)) < len(self.families) or not set(self.families) <= set(get_args(Family)):
            raise ArgumentError(
                f"families: expected some of {', '.join(get_args(Family))}, each once; got {self.families}"
            )
        if self.ais_chains < 0:
            raise ArgumentError(f"ais_chains: expected zero or more, got {self.ais_chains}")
        if self.inflation < 1:
            raise ArgumentError(f"inflation: expected at least 1, got {self.inflation}")

    def families_of(self, num_slots: int) -> tuple[Family, ...]:
        """The families to fit to so many slots.

        Raises:
            ValueError: for more slots than an exact permanent serves, or, with "full", than have their permutations
                summed.
        """
        check_slots(num_slots, *self.families)
        return self.families or (("full",) if num_slots <= MAX_PERMUTED_SLOTS else ("block",))

    def best(self, num_slots: int) -> str:
        """The name of the estimate that most was done for, of so many slots: annealed, or of the last covering fit.

        Raises:
            ValueError: for more slots than `families_of` allows.
        """
        family = self.families_of(num_slots)[-1]
        return "ais" if self.ais_chains else f"{family}_covering"


QUICK = EvidenceConfig(num_samples=1000, fit_steps=100, cover_steps=25, cover_samples=64, ais_chains=0)
"""Seconds per scene, and half a nat below annealing: to compare many scenes under several models."""


def check_slots(num_slots: int, *families: Family) -> None:
    """Refuse more slots than estimators of these families can symmetrise.

    Raises:
        ValueError: for more than an exact permanent serves, or, with "full", than have their permutations summed.
    """
    if num_slots > MAX_SLOTS:
        raise ArgumentError(f"slots: expected at most {MAX_SLOTS}, which an exact permanent serves, got {num_slots}")
    if "full" in families and num_slots > MAX_PERMUTED_SLOTS:
        raise ArgumentError(
            f"families: expected diagonal or block with {num_slots} slots, got full, which can be symmetrised with up "
            f"to {MAX_PERMUTED_SLOTS}"
        )


def estimate_scenes(
    run: Run, scene: Scene, config: EvidenceConfig, progress: Progress = lambda name: None, observed: bool = True
) -> dict[str, EvidenceEstimate]:
    """Estimates of log p(x) of a batch of scenes, by name.

    "guide": importance sampling from the guide's posterior, whose mean log weight is the ELBO; "guide_symmetric": the
    same draws weighed by q̄; "guide_inflated": symmetrised, and wider; "diagonal", "block", "full": from symmetrised
    Gaussians fitted to every scene by their ELBO; "full_covering" and so on: those fitted further to cover more; "ais":
    annealed importance sampling from the last of them, inflated; "observed": as the last "..._covering", of the first
    V // 2 of V views, if wanted.
    """
    arguments = run.guide.arguments(scene)
    log_joint, q = log_joint_and_posterior(run, arguments)
    estimates: dict[str, EvidenceEstimate] = {}

    def sample(name: str, proposal: Proposal) -> None:
        estimates[name] = proposal_log_evidence(log_joint, proposal, config.num_samples, config.chunk_size)
        progress(name)

    # The same draws for both, so that their difference is the symmetry term and no noise.
    estimates["guide"], estimates["guide_symmetric"] = plain_and_symmetric_log_evidence(
        log_joint, normal_proposal(q), config.num_samples, config.chunk_size
    )
    progress("guide")
    if config.inflation > 1:
        sample("guide_inflated", normal_proposal(Normal(q.loc, config.inflation * q.scale)))
    for family in config.families_of(run.model.num_slots):
        fit = _fit(log_joint, q, family, config)
        sample(family, fit.proposal())
        covering = _cover(log_joint, fit, family, config)
        sample(f"{family}_covering", covering.proposal())
    if config.ais_chains:
        estimates["ais"] = annealed_from(log_joint, covering, config, progress).estimate
        progress("ais")
    if observed and scene.image.dim() == 5:
        log_joint, q = log_joint_and_posterior(run, run.guide.arguments(scene.view(slice(scene.image.shape[1] // 2))))
        sample(OBSERVED, refined_fit(log_joint, q, config).proposal())
    return estimates


def refined_fit(log_joint: LogJoint, q: Normal, config: EvidenceConfig) -> Fit:
    """The last of the families, fitted to every scene from where the guide's posterior q stands, and made to cover."""
    family = config.families_of(q.batch_shape[1])[-1]
    return _cover(log_joint, _fit(log_joint, q, family, config), family, config)


def refined_estimate(log_joint: LogJoint, fit: Fit, family: Family, config: EvidenceConfig) -> EvidenceEstimate:
    """log p(x) from a fit of a family by its ELBO: made to cover, then annealed, or with no chains sampled."""
    covering = _cover(log_joint, fit, family, config)
    if config.ais_chains:
        return annealed_from(log_joint, covering, config).estimate
    return proposal_log_evidence(log_joint, covering.proposal(), config.num_samples, config.chunk_size)


def annealed_from(
    log_joint: LogJoint, covering: Fit, config: EvidenceConfig, progress: Progress = lambda name: None
) -> Annealing:
    """Chains annealed from a covering fit, inflated, to the posterior of every scene."""
    return annealed(
        log_joint,
        covering.proposal(inflation=ANNEALING_INFLATION),
        num_chains=config.ais_chains,
        num_temperatures=config.ais_temperatures,
        leapfrog_steps=config.leapfrog_steps,
        chunk_size=config.chunk_size,
        progress=lambda step, total, acceptance: progress(
            f"ais, transition {step} of {total}, acceptance {float(acceptance.mean()):.2f}"
        ),
    )


def _fit(log_joint: LogJoint, q: Normal, family: Family, config: EvidenceConfig) -> Fit:
    return fit_gaussian(log_joint, q, family, config.fit_steps, chunk_size=config.chunk_size)


def _cover(log_joint: LogJoint, fit: Fit, family: Family, config: EvidenceConfig) -> Fit:
    return fit_gaussian(
        log_joint,
        fit,
        family,
        config.cover_steps,
        num_samples=config.cover_samples,
        step_size=0.2,
        exponent=1.0,
        chunk_size=config.chunk_size,
    )


def log_joint_and_posterior(run: Run, arguments: tuple[Tensor, ...]) -> tuple[LogJoint, Normal]:
    """log p(x, z), and the guide's posterior, of the scenes that the model's arguments are of."""
    with torch.no_grad():
        return LogJoint(run.model, *arguments), run.guide.posterior(*arguments)


def certify(
    run: Run,
    num_scenes: int,
    config: EvidenceConfig,
    viewpoints: Tensor | None = None,
    progress: AnnealingProgress | None = None,
) -> tuple[Sandwich, EvidenceEstimate]:
    """Bounds on log p(x) of scenes simulated from the run's model, and the refined importance estimate for them.

    The lower bound anneals from a Gaussian fitted around the exact draw, as on real scenes from one fitted around where
    the guide stands; the upper one from the exact draw to the prior. Slots drawn from the prior make scenes that no
    guide was trained on, so fits from where it stands are often in a wrong mode, and the importance estimate is low:
    the sandwich says by how much, and k̂ should.

    Args:
        run: the run.
        num_scenes: B.
        config: how hard to try.
        viewpoints: (B, V, 3) of the simulated views, if the model has any.
        progress: called after every transition of the chains.
    """
    conditions = () if viewpoints is None else (viewpoints,)
    z, arguments = simulate(run.model, *conditions, num_scenes=None if conditions else num_scenes)
    log_joint, q = log_joint_and_posterior(run, arguments)
    proposal = refined_fit(log_joint, q, config).proposal()
    estimate = proposal_log_evidence(log_joint, proposal, config.num_samples, config.chunk_size)
    around_exact = Normal(z, torch.full_like(z, START_SCALE))
    sandwich = bidirectional_log_evidence(
        log_joint,
        z,
        default_start(log_joint, None),
        config.bdmc_chains,
        config.bdmc_temperatures,
        config.leapfrog_steps,
        chunk_size=config.chunk_size,
        progress=progress,
        lower_start=refined_fit(log_joint, around_exact, config).proposal(),
        lower_chains=config.ais_chains or LOWER_CHAINS,
        lower_temperatures=config.ais_temperatures,
    )
    return sandwich, estimate

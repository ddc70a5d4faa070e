"""Log-evidence of a run's scenes, by several estimators side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.runs import Run
from pyro_compvae.checks import check_counts
from pyro_compvae.data.records import Scene
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence import (
    AnnealingConfig,
    EvidenceEstimate,
    Family,
    LogJoint,
    Proposal,
    RefinedConfig,
    Sandwich,
    TransitionProgress,
    annealed_from,
    bidirectional_log_evidence,
    cover,
    default_start,
    fit_and_cover,
    fit_gaussian,
    normal_proposal,
    plain_and_symmetric_log_evidence,
    proposal_log_evidence,
    refined_proposal_log_evidence,
    simulate,
)

OBSERVED = "observed"
"""The name of the estimate for the first V // 2 of V views; all other estimates are for all views."""

START_SCALE = 0.05
"""Scale of the Gaussian around an exact draw at which a fit starts. Guides have about this scale for slots that they
see well."""

LOWER_CHAINS = 128
"""Number of chains of the sandwich's lower bound, if no chains are wanted on real scenes."""

ESTIMATORS = 4
"""Version of the estimators. Raise it whenever the same settings give other numbers, so that saved ones are computed
again."""

EvidenceProgress = Callable[[str], object]
"""A function that is called with the name of an estimator when it is done, and with texts on annealing's progress."""


@dataclass(frozen=True)
class EvidenceConfig:
    """The effort of the estimates."""

    num_samples: int = RefinedConfig.num_samples
    """Number of importance samples per scene and estimator."""
    chunk_size: int = RefinedConfig.chunk_size
    """Draws, or chains, per scene that an estimator holds at a time."""
    families: tuple[Family, ...] = ()
    """Gaussians to fit, each starting at the guide's posterior; by default full, or block with more than 8 slots."""
    fit_steps: int = RefinedConfig.fit_steps
    """Natural-gradient steps on the ELBO, with 16 draws each."""
    cover_steps: int = RefinedConfig.cover_steps
    """Further steps towards KL(p ‖ q) for "..._covering", which make a fit cover more of the posterior."""
    cover_samples: int = RefinedConfig.cover_samples
    """Draws of each of these further steps."""
    inflation: float = 1.0
    """Factor on the guide's scale for "guide_inflated"; 1 leaves that estimate out."""
    ais_chains: int = RefinedConfig.num_chains
    """Chains annealed from the last covering fit; 0 leaves annealing out. With fewer than 30 chains there is no k̂, and
    a few chains are reliable only up to a small k̂. The sandwich's lower bound has the same effort."""
    ais_temperatures: int = RefinedConfig.num_temperatures
    """Steps of these chains from the fit to the posterior."""
    leapfrog_steps: int = RefinedConfig.leapfrog_steps
    """Mean number of leapfrog steps at every temperature, for all chains."""
    bdmc_chains: int = 2
    """Chains of the upper bound for simulated scenes, from the exact draw back to the prior. A few chains with many
    temperatures are best: the bound's error falls as one over the number of temperatures."""
    bdmc_temperatures: int = 8000
    """Number of temperatures of these chains."""

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
        """The families to fit to this many slots.

        Raises:
            ValueError: for more slots than an exact permanent allows, or, with "full", than permutations can be summed
                over.
        """
        return tuple(self.refined(family).family_of(num_slots) for family in self.families or (None,))

    def best(self, num_slots: int) -> str:
        """The name of the best estimate for this many slots: the annealed one, or that of the last covering fit.

        Raises:
            ValueError: for more slots than `families_of` allows.
        """
        family = self.families_of(num_slots)[-1]
        return "ais" if self.ais_chains else f"{family}_covering"

    def refined(self, family: Family | None = None) -> RefinedConfig:
        """The effort of `refined_log_evidence` with a family, by default the last of `families`."""
        return RefinedConfig(
            family=family or (self.families[-1] if self.families else None),
            fit_steps=self.fit_steps,
            cover_steps=self.cover_steps,
            cover_samples=self.cover_samples,
            num_chains=self.ais_chains,
            num_temperatures=self.ais_temperatures,
            leapfrog_steps=self.leapfrog_steps,
            num_samples=self.num_samples,
            chunk_size=self.chunk_size,
        )

    def sampled(self) -> RefinedConfig:
        """The same effort without annealing."""
        return replace(self.refined(), num_chains=0)


QUICK = EvidenceConfig(num_samples=1000, fit_steps=100, cover_steps=25, cover_samples=64, ais_chains=0)
"""A small effort, to compare many scenes under several models: it takes seconds per scene, and gives half a nat less
than annealing."""


def estimate_scenes(
    run: Run,
    scene: Scene,
    config: EvidenceConfig,
    progress: EvidenceProgress = lambda name: None,
    observed: bool = True,
    watch: Callable[[LogJoint], object] = lambda log_joint: None,
) -> dict[str, EvidenceEstimate]:
    """Estimate log p(x) of a batch of scenes by several estimators, and return the estimates by name.

    "guide" is importance sampling from the guide's posterior, whose mean log weight is the ELBO; "guide_symmetric"
    weighs the same draws by q̄; "guide_inflated" is symmetrised, and wider; "diagonal", "block" and "full" sample from
    symmetrised Gaussians fitted to every scene by their ELBO; "full_covering" and so on from those fitted further to
    cover more; "ais" is annealed from the last of these, inflated, as in `refined_log_evidence`; "observed" is like the
    last "..._covering", for the first V // 2 of V views, if wanted.

    ``progress`` is called with the name of every estimate, and ``watch`` with every log joint before it is evaluated.
    """
    arguments = run.guide.arguments(scene)
    log_joint, q = log_joint_and_posterior(run, arguments)
    watch(log_joint)
    estimates: dict[str, EvidenceEstimate] = {}

    def sample(name: str, proposal: Proposal) -> None:
        estimates[name] = proposal_log_evidence(log_joint, proposal, config.num_samples, config.chunk_size)
        progress(name)

    # Both use the same draws, so that their difference is the symmetry term without noise.
    estimates["guide"], estimates["guide_symmetric"] = plain_and_symmetric_log_evidence(
        log_joint, normal_proposal(q), config.num_samples, config.chunk_size
    )
    progress("guide")
    if config.inflation > 1:
        sample("guide_inflated", normal_proposal(Normal(q.loc, config.inflation * q.scale)))
    for family in config.families_of(run.model.num_slots):
        refined = config.refined(family)
        fit = fit_gaussian(log_joint, q, family, refined.fitting())
        sample(family, fit.proposal())
        covering = cover(log_joint, fit, refined)
        sample(f"{family}_covering", covering.proposal())
    if config.ais_chains:
        estimates["ais"] = annealed_from(log_joint, covering, refined, in_words(progress)).estimate
        progress("ais")
    if observed and scene.image.dim() == 5:
        log_joint, q = log_joint_and_posterior(run, run.guide.arguments(scene.view(slice(scene.image.shape[1] // 2))))
        watch(log_joint)
        estimates[OBSERVED] = refined_proposal_log_evidence(log_joint, q, config.sampled())
        progress(OBSERVED)
    return estimates


def in_words(progress: EvidenceProgress) -> TransitionProgress:
    """Turn the progress of annealing into a text with the transition and its acceptance."""
    return lambda step, total, acceptance: progress(
        f"ais, transition {step} of {total}, acceptance {float(acceptance.mean()):.2f}"
    )


def log_joint_and_posterior(run: Run, arguments: tuple[Tensor, ...]) -> tuple[LogJoint, Normal]:
    """log p(x, z) and the guide's posterior for the scenes in the model's arguments."""
    with torch.no_grad():
        return LogJoint(run.model, *arguments), run.guide.posterior(*arguments)


def certify(
    run: Run,
    num_scenes: int,
    config: EvidenceConfig,
    viewpoints: Tensor | None = None,
    progress: TransitionProgress | None = None,
) -> tuple[Sandwich, EvidenceEstimate]:
    """Bound log p(x) of scenes simulated from the run's model, and estimate it by refined importance sampling.

    The lower bound anneals from a Gaussian fitted around the exact draw, whereas real scenes have one fitted from the
    guide's posterior; the upper bound anneals from the exact draw to the prior. Slots drawn from the prior make scenes
    on which no guide was trained, so fits from its posterior are often in a wrong mode, and the importance estimate is
    low. The sandwich says by how much, and k̂ should warn of it.

    Args:
        run: the run.
        num_scenes: B, the number of scenes.
        config: the effort.
        viewpoints: the viewpoints (B, V, 3) of the simulated views, if the model has any.
        progress: called after every transition of the chains.
    """
    conditions = () if viewpoints is None else (viewpoints,)
    z, arguments = simulate(run.model, *conditions, num_scenes=None if conditions else num_scenes)
    log_joint, q = log_joint_and_posterior(run, arguments)
    estimate = refined_proposal_log_evidence(log_joint, q, config.sampled())
    around_exact = Normal(z, torch.full_like(z, START_SCALE))
    sandwich = bidirectional_log_evidence(
        log_joint,
        default_start(log_joint, None),
        z,
        AnnealingConfig(
            num_chains=config.bdmc_chains,
            num_temperatures=config.bdmc_temperatures,
            leapfrog_steps=config.leapfrog_steps,
            chunk_size=config.chunk_size,
        ),
        lower_start=fit_and_cover(log_joint, around_exact, config.refined()).proposal(),
        lower_config=replace(config.refined(), num_chains=config.ais_chains or LOWER_CHAINS).annealing(),
        progress=progress,
    )
    return sandwich, estimate

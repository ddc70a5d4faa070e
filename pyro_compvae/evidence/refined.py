"""The estimator to use: a proposal is fitted to every scene, made to cover the posterior, widened, and annealed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from pyro_compvae.checks import check_counts
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.annealing.chains import Annealing, TransitionProgress, annealed
from pyro_compvae.evidence.annealing.config import AnnealingConfig
from pyro_compvae.evidence.density import GRADIENT, LogJoint
from pyro_compvae.evidence.estimate import EvidenceEstimate
from pyro_compvae.evidence.fitting.gaussian import Family, Fit, FitConfig, Start, fit_gaussian
from pyro_compvae.evidence.importance import posterior_proposal, proposal_log_evidence
from pyro_compvae.evidence.proposals.symmetric import MAX_PERMUTED_SLOTS
from pyro_compvae.evidence.trace import check_eval
from pyro_compvae.evidence.unconstrained import UnconstrainedLogJoint, moments_of_draws
from pyro_compvae.permutation import check_num_slots

COVER_STEP_SIZE = 0.2
"""Size of the steps that make a fit cover the posterior, in units of a Newton step. Their weighted draws count for
fewer, so these steps are shorter than those of the fit before."""

USUAL_PILOT = 1000
"""About how many transitions a scene's pilot chains make, all together."""

COVER_EXPONENT = 1.0
"""Exponent of the bound that these steps ascend: all the way from KL(q ‖ p), which the ELBO lowers, to KL(p ‖ q)."""


@dataclass(frozen=True)
class RefinedConfig:
    """The effort of `refined_log_evidence`, which takes minutes for a batch of scenes on a CPU.

    Raises:
        ArgumentError: for numbers out of range.
    """

    family: Family | None = None
    """Which Gaussian is fitted: "diagonal", "block" (covariance within a slot) or "full" (across slots too). The
    default is "full", since slots that explain the same pixels are correlated, or "block" if the K! orders of the slots
    are too many to be summed."""

    fit_steps: int = 150
    """Natural-gradient steps on the ELBO, with 16 draws each. From a guide, the ELBO has stopped rising by then."""

    cover_steps: int = 50
    """Further steps towards KL(p ‖ q), since the best Gaussian by its ELBO is too narrow for a proposal."""

    cover_samples: int = 128
    """Draws of each of these steps, at least half of which have to count; fewer make a full covariance too noisy."""

    inflation: float = 1.25
    """Factor on the scale of the fit from which chains start, since they move inwards more easily than outwards. With
    15 temperatures it takes the median k̂ on 16 scenes of IODINE from 0.71 to 0.58; with 40 it was not measured
    again."""

    num_chains: int = 128
    """L, chains annealed per scene; with 0 there is no annealing, and draws come from the fit itself. 128 chains are
    reliable up to a k̂ of 0.53."""

    num_temperatures: int = 40
    """T, steps of each chain from the fit to the posterior. A few tens are enough, since the fit is close to it."""

    leapfrog_steps: int = 4
    """Mean number of leapfrog steps at every temperature, each with one evaluation of the log joint and its gradient. A
    few are enough in coordinates in which the fit is spherical."""

    num_samples: int = 2000
    """L without annealing, draws per scene; they are nearly enough for 0.7, the largest k̂ that is ever reliable."""

    symmetrise: bool = True
    """Whether draws are weighed by q̄ instead of q, for a model whose slots are exchangeable. It has no effect on
    models without slots."""

    chunk_size: int = 16
    """Draws, or chains, per scene held at a time; memory grows with it. A step of the fit needs 16 in any case."""

    def __post_init__(self) -> None:
        counts = ("fit_steps", "cover_steps", "cover_samples", "num_temperatures", "leapfrog_steps")
        check_counts(**{name: getattr(self, name) for name in (*counts, "num_samples", "chunk_size")})
        if self.family is not None and self.family not in get_args(Family):
            raise ArgumentError(f"family: expected one of {', '.join(get_args(Family))}, got {self.family!r}")
        if self.num_chains < 0:
            raise ArgumentError(f"num_chains: expected zero or more, got {self.num_chains}")
        if self.inflation < 1:
            raise ArgumentError(f"inflation: expected at least 1, got {self.inflation}")

    def family_of(self, num_slots: int) -> Family:
        """The family to fit to this many slots.

        Raises:
            ArgumentError: for more slots than an exact permanent allows, or, with "full", than permutations can be
                summed over.
        """
        few = num_slots <= MAX_PERMUTED_SLOTS or not self.symmetrise
        if self.symmetrise:
            check_num_slots(num_slots)
        if self.family == "full" and not few:
            raise ArgumentError(
                f"family: expected diagonal or block with {num_slots} slots, got full, which can be symmetrised with "
                f"up to {MAX_PERMUTED_SLOTS}"
            )
        return self.family or ("full" if few else "block")

    def evaluations(self) -> int:
        """About how many evaluations of a scene's log joint all of it takes, as `LogJoint.evaluated` counts them."""
        annealing = self.leapfrog_steps * (self.num_chains * self.num_temperatures + USUAL_PILOT)
        last = GRADIENT * annealing if self.num_chains else self.num_samples
        return self.fit_evaluations() + last

    def fit_evaluations(self) -> int:
        """The same for the fit alone."""
        return GRADIENT * (self.fitting().num_samples * self.fit_steps + self.cover_samples * self.cover_steps)

    def fitting(self) -> FitConfig:
        """The settings of the fit by its ELBO."""
        return FitConfig(steps=self.fit_steps, chunk_size=self.chunk_size)

    def covering(self) -> FitConfig:
        """The settings of the further fit, which makes the Gaussian cover the posterior."""
        return FitConfig(
            steps=self.cover_steps,
            num_samples=self.cover_samples,
            step_size=COVER_STEP_SIZE,
            exponent=COVER_EXPONENT,
            chunk_size=self.chunk_size,
        )

    def annealing(self) -> AnnealingConfig:
        """The settings of the chains from the fit to the posterior.

        Raises:
            ArgumentError: if there are no chains.
        """
        return AnnealingConfig(
            num_chains=self.num_chains,
            num_temperatures=self.num_temperatures,
            leapfrog_steps=self.leapfrog_steps,
            symmetrise=self.symmetrise,
            chunk_size=self.chunk_size,
        )


def refined_log_evidence(
    model: Callable[..., Any], guide: Callable[..., Any], *arguments: Tensor, config: RefinedConfig = RefinedConfig()
) -> EvidenceEstimate:
    """Estimate log p(x) of every scene as well as this package can: fit, cover, inflate, anneal.

    A Gaussian is fitted to the posterior of every scene, first by its ELBO, starting at the guide's posterior, and then
    so that it covers the posterior. It is made wider, and chains are annealed from it (`annealed`). So the guide
    decides which modes are found, and hardly anything else. The estimate's ``verdict()`` says whether to believe it.

    Any pair of Pyro programs will do if its sites lie in ``pyro.plate("scenes")``. If the guide has
    ``posterior(*arguments)``, a Normal of shape (B, K, D), the fit starts there, and the model's only latent site is
    "z" with exchangeable slots. With other guides the fit starts at the moments of their draws. The model may then have
    any continuous sites, which are not symmetrised (`UnconstrainedLogJoint`), so that only one order of exchangeable
    parts is found.

    Args:
        model, guide: the pair, in eval mode.
        arguments: the arguments of both: images x (B, 3, H, W) in [0, 1], or (B, V, 3, H, W) and viewpoints (B, V, 3).
        config: the effort.

    Raises:
        ArgumentError: for more slots than can be symmetrised.
        TraceError: (a ValueError) for sites outside the plate, discrete ones, factors in the guide, or train mode.
        FloatingPointError: if all draws of a scene have a density or a gradient that is not finite.
    """
    check_eval(guide, "guide")
    if hasattr(guide, "posterior"):
        log_joint = LogJoint(model, *arguments)
        return refined_proposal_log_evidence(log_joint, posterior_proposal(log_joint, guide), config)
    log_joint = UnconstrainedLogJoint(model, *arguments)
    return refined_proposal_log_evidence(log_joint, moments_of_draws(log_joint, guide, config.chunk_size), config)


def refined_proposal_log_evidence(
    log_joint: LogJoint, proposal: Start, config: RefinedConfig = RefinedConfig()
) -> EvidenceEstimate:
    """Estimate log p(x) as `refined_log_evidence` does, from any Gaussian proposal.

    Args:
        log_joint: log p(x, z) of the scenes.
        proposal: where the fit starts.
        config: the effort.
    """
    return log_evidence_from(log_joint, fit_and_cover(log_joint, proposal, config), config)


def fit_and_cover(log_joint: LogJoint, proposal: Start, config: RefinedConfig = RefinedConfig()) -> Fit:
    """The first half: a Gaussian of every scene, fitted by its ELBO and made to cover the posterior."""
    family = config.family_of(log_joint.event_shape[0])
    return cover(log_joint, fit_gaussian(log_joint, proposal, family, config.fitting()), config)


def cover(log_joint: LogJoint, fit: Fit, config: RefinedConfig = RefinedConfig()) -> Fit:
    """Continue a fit by its ELBO, which is of the configured family, so that it covers the posterior."""
    return fit_gaussian(log_joint, fit, config.family_of(log_joint.event_shape[0]), config.covering())


def annealed_from(
    log_joint: LogJoint,
    fit: Fit,
    config: RefinedConfig = RefinedConfig(),
    progress: TransitionProgress | None = None,
) -> Annealing:
    """The second half: chains from a covering fit, made wider, to the posterior, whose weighted draws they are."""
    return annealed(log_joint, fit.proposal(inflation=config.inflation), config.annealing(), progress)


def log_evidence_from(log_joint: LogJoint, fit: Fit, config: RefinedConfig = RefinedConfig()) -> EvidenceEstimate:
    """log p(x) from a covering fit, by annealing, or by draws from the fit if there are no chains."""
    if config.num_chains:
        return annealed_from(log_joint, fit, config).estimate
    return proposal_log_evidence(log_joint, fit.proposal(), config.num_samples, config.chunk_size, config.symmetrise)

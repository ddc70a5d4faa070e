"""Gaussian proposals fitted to the posterior of every scene, starting at the guide's posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.checks import check_counts
from pyro_compvae.errors import ArgumentError, NotFiniteError
from pyro_compvae.evidence.density import LogJoint, value_and_gradient
from pyro_compvae.evidence.fitting.convergence import check_held, step_share
from pyro_compvae.evidence.proposals.elliptical import Elliptical
from pyro_compvae.evidence.proposals.symmetric import FactorisedProposal, JointProposal, Proposal

Family = Literal["diagonal", "block", "full"]
"""Gaussians with independent latents, with a covariance within each slot, and with one across all slots."""

MIN_EFFECTIVE_SHARE, MAX_LOWERINGS = 0.5, 40
"""Share of the draws that must count for a weighted step, and how often the exponent is lowered to reach it."""


class Fit(NamedTuple):
    """A fitted Gaussian of every scene.

    loc: the mean, (B, K, D).
    scale_tril: Cholesky factor of the covariance, (B, K, D, D) for "diagonal" and "block", (B, K·D, K·D) for "full".
    elbo: (steps, B), nats, a noisy estimate per step.
    """

    loc: Tensor
    scale_tril: Tensor
    elbo: Tensor

    def proposal(self, df: float = math.inf, inflation: float = 1.0) -> Proposal:
        """The fit as a proposal, a Student-t if ``df`` is finite, with its scale multiplied by ``inflation``."""
        scale_tril = inflation * self.scale_tril
        if scale_tril.dim() == 4:
            return FactorisedProposal(Elliptical(self.loc, scale_tril, df))
        return JointProposal(Elliptical(self.loc.flatten(-2), scale_tril, df), self.loc.shape[-2])


Start = Normal | Fit | Proposal
"""Where a fit may start: at a guide's posterior, at another fit, or at a proposal that is Gaussian."""


@dataclass(frozen=True)
class FitConfig:
    """How a Gaussian is fitted.

    A scene costs steps · num_samples evaluations of the log joint and its gradient.

    Raises:
        ArgumentError: for numbers out of range.
    """

    steps: int = 150
    """Natural-gradient steps; 150 are enough from a guide's posterior, and a few tens from a start near the optimum."""

    num_samples: int = 16
    """L, draws per scene and step. Few draws make cheap, noisy steps, which suit a fit that has not arrived yet."""

    step_size: float = 0.3
    """ρ at the start; it falls to a twentieth along a cosine. Without noise, ρ = 1 is a Newton step."""

    exponent: float = 0.0
    """Which bound is ascended: 0 is the ELBO, and with 1, the largest value, q covers the posterior best."""

    chunk_size: int = 50
    """Draws per scene held at a time; memory grows with it. If a GPU has less room, they are evaluated in turns."""

    held: float = 0.0
    """Share of the steps before the step size falls; `elbo_slope` of these steps tells whether the fit has arrived.
    With 0 it falls from the first step."""

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, num_samples=self.num_samples, chunk_size=self.chunk_size)
        if not (self.step_size > 0 and 0 <= self.exponent <= 1):
            raise ArgumentError(
                f"expected a positive step_size and an exponent from 0 to 1, got step_size {self.step_size} and "
                f"exponent {self.exponent}"
            )
        check_held(self.held)


def fit_gaussian(log_joint: LogJoint, start: Start, family: Family, config: FitConfig = FitConfig()) -> Fit:
    r"""Fit a Gaussian to the posterior of every scene by natural gradients, all scenes at once.

    With z = μ + S ε, the gradient at a draw, in the coordinates in which q is spherical, is

        h = Sᵀ ∇_z [log p(x, z) − log q(z)] = Sᵀ ∇ log p(x, z) + ε

    This is the path derivative (Roeder et al. 2017), which is zero for every draw if q is the posterior. In these
    coordinates the Fisher information is constant, 1 for μ and the lower triangle and 2 for the diagonal, so that

        μ ← μ + ρ S Σ_l w̄_l h_l
        S ← S (exp(diag(ρ A) / 2) + strictly lower triangle of ρ A),      A = Σ_l w̄_l h_l ε_lᵀ

    is a natural-gradient step (Glasmachers et al. 2010), and no scale of the latents has to be known beforehand. A fit
    takes tens of steps where Adam takes hundreds. Near the optimum A is a sample covariance times an error, and the
    step is stable as long as ρ stays below the inverse of its largest eigenvalue, (1 + √(N / n))² for n draws in N
    dimensions (Marchenko & Pastur 1967); ρ is capped there, and steps are cut to a length of 1 in these coordinates.

    With w̄ = 1/L it ascends the ELBO, whose Gaussians are narrower than the posterior and therefore poor proposals.
    With w̄ ∝ (p/q)^exponent it ascends, up to the factor 1 − exponent that the curvature takes back, the Rényi bound
    (1/exponent) log E_q[(p/q)^exponent] (Li & Turner 2016; the gradient is the doubly reparameterised one of Tucker et
    al. 2019), and with an exponent of 1 it descends KL(p ‖ q); these Gaussians cover more. The weights are normalised
    over the L draws, which pulls the optimum back towards the ELBO's, and the exponent is lowered for scenes where less
    than half of the draws would count; so start from a fit with exponent 0.

    Args:
        log_joint: log p(x, z) of the scenes.
        start: the guide's posterior, batch shape (B, K, D), or a fit or a Gaussian proposal of the same or a smaller
            family.
        family: the family, "diagonal", "block" or "full".
        config: the effort.

    Raises:
        ValueError: for an unknown family, a family smaller than the start's, or a start for other scenes.
        FloatingPointError: if all draws of a scene have a density or a gradient that is not finite.
    """
    if family not in get_args(Family):
        raise ArgumentError(f"family: expected one of {', '.join(get_args(Family))}, got {family!r}")
    shape = (log_joint.num_scenes, *log_joint.event_shape)
    loc, scale_tril = _grouped(start, family, shape)
    elbos = []
    with torch.no_grad():
        for step in range(config.steps):
            noise = torch.randn(config.num_samples, *loc.shape, dtype=loc.dtype, device=loc.device)
            z = loc + torch.einsum("bgij,lbgj->lbgi", scale_tril, noise)
            log_p, gradient = value_and_gradient(log_joint, z.reshape(config.num_samples, *shape), config.chunk_size)
            finite = finite_draws(log_p, gradient)
            log_weights = log_p - _log_density_of_noise(noise, scale_tril)
            elbos.append(log_weights.mean(0))
            weights = _tempered_weights(log_weights.masked_fill(~finite, -torch.inf), config.exponent)
            gradient = gradient.masked_fill(~finite[..., None, None], 0.0).reshape(noise.shape)
            rho = config.step_size * step_share(step, config.steps, config.held)
            loc, scale_tril = _natural_step(loc, scale_tril, noise, gradient, weights, rho, family)
    return Fit(loc.reshape(shape), scale_tril.squeeze(1) if family == "full" else scale_tril, torch.stack(elbos))


def _location_and_factor(start: Start) -> tuple[Tensor, Tensor]:
    """The location (B, K, D) and the Cholesky factor, shaped as in a `Fit`."""
    if isinstance(start, Fit):
        return start.loc, start.scale_tril
    if isinstance(start, FactorisedProposal):
        return start.slots.loc, start.slots.scale_tril
    if isinstance(start, JointProposal):
        return start.joint.loc.unflatten(-1, (start.num_slots, -1)), start.joint.scale_tril
    if isinstance(start, Normal):
        return start.loc, torch.diag_embed(start.scale.detach().double())
    raise ArgumentError(f"start: expected a Normal, a Fit or a Gaussian proposal, got {type(start).__name__}")


def _grouped(start: Start, family: Family, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Location (B, G, N) and Cholesky factor (B, G, N, N) of G independent groups: one per slot, or one for all."""
    loc, scale_tril = _location_and_factor(start)
    if tuple(loc.shape) != shape:
        raise ArgumentError(f"start: expected shape {shape}, that of log_joint, got {tuple(loc.shape)}")
    if family == "full" and scale_tril.dim() == 4:
        scale_tril = _block_diagonal(scale_tril)
    if (family != "full" and scale_tril.dim() == 3) or (
        family == "diagonal" and bool((scale_tril.tril(-1) != 0).any())
    ):
        raise ArgumentError(f"start: expected a fit of {family!r} or of a smaller family, got a larger one")
    scale_tril = scale_tril.reshape(shape[0], -1, *scale_tril.shape[-2:])
    return loc.detach().double().reshape(scale_tril.shape[:-1]), scale_tril


def _natural_step(
    loc: Tensor, scale_tril: Tensor, noise: Tensor, gradient: Tensor, weights: Tensor, rho: float, family: Family
) -> tuple[Tensor, Tensor]:
    """Make the step that `fit_gaussian` describes.

    Args:
        loc, scale_tril: μ (B, G, N) and S (B, G, N, N).
        noise, gradient: ε and ∇ log p(x, z), (L, B, G, N).
        weights: w̄ (L, B).
        rho: ρ before the cap.
        family: the family, which says what part of the Cholesky factor may change.
    """
    dimensions = 1 if family == "diagonal" else loc.shape[-1]
    effective = 1 / weights.square().sum(0)
    rhos = (1 + (dimensions / effective).sqrt()).pow(-2).clamp(max=rho)  # (B,)
    path = torch.einsum("bgji,lbgj->lbgi", scale_tril, gradient) + noise
    move = _within_trust_region(torch.einsum("b,lb,lbgi->bgi", rhos, weights, path))
    change = torch.einsum("b,lb,lbgi,lbgj->bgij", rhos, weights, path, noise)
    diagonal = torch.diag_embed(0.5 * change.diagonal(dim1=-2, dim2=-1))
    change = _within_trust_region(diagonal if family == "diagonal" else diagonal + change.tril(-1))
    factor = torch.diag_embed(change.diagonal(dim1=-2, dim2=-1).exp()) + change.tril(-1)
    return loc + torch.einsum("bgij,bgj->bgi", scale_tril, move), scale_tril @ factor


def finite_draws(log_p: Tensor, gradient: Tensor) -> Tensor:
    """Which draws have finite log-densities (L, B) and gradients (L, B, K, D); (L, B).

    Raises:
        FloatingPointError: if a scene has no such draw.
    """
    finite = log_p.isfinite() & gradient.isfinite().all((-2, -1))
    if not finite.any(0).all():
        scene = int((~finite.any(0)).nonzero()[0])
        raise NotFiniteError(
            f"fit: expected finite log-densities and gradients, found none in {len(log_p)} draws for scene {scene}"
        )
    return finite


def _log_density_of_noise(noise: Tensor, scale_tril: Tensor) -> Tensor:
    """log q(z) at z = μ + S ε, (L, B), from ε (L, B, G, N) and S (B, G, N, N)."""
    log_det = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))
    return -0.5 * (noise.square().sum((-2, -1)) + noise[0, 0].numel() * math.log(2 * math.pi)) - log_det


def _tempered_weights(log_weights: Tensor, exponent: float) -> Tensor:
    """Normalised weights (L, B) ∝ exp(a log w), where a is the exponent, or less, so that half of the draws count.

    Draws of log weight -inf do not count, whatever the exponent.
    """
    none = log_weights.isneginf()
    power = torch.full_like(log_weights[0], exponent)

    def weights() -> Tensor:
        return torch.softmax((power * log_weights.masked_fill(none, 0.0)).masked_fill(none, -torch.inf), dim=0)

    for _ in range(MAX_LOWERINGS):
        few = 1 / weights().square().sum(0) < MIN_EFFECTIVE_SHARE * (~none).sum(0)
        if not few.any():
            break
        power = torch.where(few, 0.7 * power, power)
    return weights()


def _within_trust_region(update: Tensor) -> Tensor:
    """Updates (B, ...) in the coordinates in which q is spherical, scaled down to a norm of at most 1 per scene."""
    norm = update.flatten(1).norm(dim=1).reshape(-1, *[1] * (update.dim() - 1))
    return update / norm.clamp(min=1)


def _block_diagonal(blocks: Tensor) -> Tensor:
    """Block-diagonal matrices (B, K·D, K·D) of blocks (B, K, D, D)."""
    B, K, D, _ = blocks.shape
    full = blocks.new_zeros(B, K, D, K, D)
    slots = torch.arange(K, device=blocks.device)
    full[:, slots, :, slots] = blocks.transpose(0, 1)
    return full.reshape(B, K * D, K * D)

"""Gaussian proposals fitted to the posterior of every scene, from where the guide's posterior stands."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.evidence.elliptical import Elliptical
from pyro_compvae.evidence.proposals import FactorisedProposal, JointProposal, Proposal
from pyro_compvae.evidence.traces import LogJoint

Family = Literal["diagonal", "block", "full"]
"""Gaussians with independent latents, with a covariance within each slot, and with one across all slots."""

MIN_EFFECTIVE_SHARE, MAX_LOWERINGS = 0.25, 40
"""Share of the draws that must count for a weighted step, and how often the exponent is lowered for that."""


class Fit(NamedTuple):
    """A fitted Gaussian of every scene.

    loc: (B, K, D).
    scale_tril: Cholesky factor of the covariance, (B, K, D, D) for "diagonal" and "block", (B, K·D, K·D) for "full".
    elbo: (steps, B), nats, a noisy estimate per step.
    """

    loc: Tensor
    scale_tril: Tensor
    elbo: Tensor

    def proposal(self, df: float = math.inf, inflation: float = 1.0) -> Proposal:
        """The fit as a proposal: a Student-t with finite ``df``, and its scale multiplied by ``inflation``."""
        scale_tril = inflation * self.scale_tril
        if scale_tril.dim() == 4:
            return FactorisedProposal(Elliptical(self.loc, scale_tril, df))
        return JointProposal(Elliptical(self.loc.flatten(-2), scale_tril, df), self.loc.shape[-2])


def fit_gaussian(
    log_joint: LogJoint,
    start: Normal | Fit,
    family: Family,
    steps: int = 150,
    num_samples: int = 16,
    step_size: float = 0.3,
    exponent: float = 0.0,
) -> Fit:
    r"""Fit a Gaussian to the posterior of every scene by natural gradients, all scenes at once.

    With z = μ + S ε, the gradient that a draw feels in the coordinates in which q is spherical is

        h = Sᵀ ∇_z [log p(x, z) − log q(z)] = Sᵀ ∇ log p(x, z) + ε

    which is zero for every draw where q is the posterior: the path derivative (Roeder et al. 2017). In these
    coordinates the Fisher information is constant, 1 for μ and the lower triangle and 2 for the diagonal, so that

        μ ← μ + ρ S Σ_l w̄_l h_l
        S ← S (exp(diag(ρ A) / 2) + strictly lower triangle of ρ A),      A = Σ_l w̄_l h_l ε_lᵀ

    is a natural-gradient step (Glasmachers et al. 2010), and no scale of the latents has to be known beforehand. It
    needs tens of steps where Adam needs hundreds.

    With w̄ = 1/L it ascends the ELBO, whose Gaussians are narrower than the posterior: poor proposals. With
    w̄ ∝ (p/q)^exponent it ascends the Rényi bound (1/exponent) log E_q[(p/q)^exponent] (Li & Turner 2016; the
    gradient is the doubly reparameterised one of Tucker et al. 2019), which makes them cover more. The exponent is
    lowered for scenes where less than a quarter of the draws would count; start that from a fit with exponent 0.

    Args:
        log_joint: log p(x, z) of the scenes.
        start: the guide's posterior, batch shape (B, K, D), or a fit of the same or a smaller family.
        family: "diagonal", "block" or "full".
        steps: number of them; each evaluates the log joint and its gradient num_samples times per scene.
        num_samples: draws per scene and step, an even number: they come as pairs ±ε.
        step_size: ρ at the start; it falls to a twentieth along a cosine.
        exponent: in [0, 1).

    Raises:
        ValueError: for an unknown family, one that is smaller than the start's, or numbers out of range.
    """
    if family not in get_args(Family):
        raise ValueError(f"family: expected one of {', '.join(get_args(Family))}, got {family!r}")
    if steps < 1 or num_samples < 2 or num_samples % 2:
        raise ValueError(
            f"expected at least 1 step and an even number of samples, got {steps} steps and {num_samples} samples"
        )
    if not 0 <= exponent < 1:
        raise ValueError(f"exponent: expected at least 0 and less than 1, got {exponent}")
    B, K, D = start.loc.shape
    loc, scale_tril = start.loc.double(), _scale_tril(start)
    if family == "full" and scale_tril.dim() == 4:
        scale_tril = _block_diagonal(scale_tril)
    if (family != "full" and scale_tril.dim() == 3) or (
        family == "diagonal" and bool((scale_tril.tril(-1) != 0).any())
    ):
        raise ValueError(f"start: expected a fit of {family!r} or of a smaller family, got a larger one")
    # Independent groups of latents, (B, G, N) and (B, G, N, N): a group per slot, or one of all slots.
    scale_tril = scale_tril.reshape(B, -1, *scale_tril.shape[-2:])
    loc = loc.reshape(scale_tril.shape[:-1])
    elbos = []
    for step in range(steps):
        rho = step_size * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        half = torch.randn(num_samples // 2, *loc.shape, dtype=loc.dtype, device=loc.device)
        noise = torch.cat((half, -half))
        z = (loc + torch.einsum("bgij,lbgj->lbgi", scale_tril, noise)).reshape(num_samples, B, K, D)
        with torch.enable_grad():
            leaf = z.requires_grad_()
            log_p = log_joint(leaf)
            (gradient,) = torch.autograd.grad(log_p.sum(), leaf)
        log_weights = log_p.detach() - Elliptical(loc, scale_tril).log_prob(leaf.detach().reshape(noise.shape)).sum(-1)
        elbos.append(log_weights.mean(0))
        weights = _tempered_weights(log_weights, exponent)
        path = torch.einsum("bgji,lbgj->lbgi", scale_tril, gradient.reshape(noise.shape)) + noise
        move = _within_trust_region(rho * torch.einsum("lb,lbgi->bgi", weights, path))
        change = torch.einsum("lb,lbgi,lbgj->bgij", weights, path, noise)
        diagonal = 0.5 * change.diagonal(dim1=-2, dim2=-1)
        lower = torch.zeros_like(change) if family == "diagonal" else change.tril(-1)
        change = _within_trust_region(rho * (torch.diag_embed(diagonal) + lower))
        loc = loc + torch.einsum("bgij,bgj->bgi", scale_tril, move)
        factor = torch.diag_embed(change.diagonal(dim1=-2, dim2=-1).exp()) + change.tril(-1)
        scale_tril = scale_tril @ factor
    return Fit(loc.reshape(B, K, D), scale_tril.squeeze(1) if family == "full" else scale_tril, torch.stack(elbos))


def _tempered_weights(log_weights: Tensor, exponent: float) -> Tensor:
    """Normalised weights (L, B) ∝ exp(a log w), a the exponent or what leaves a quarter of the draws to count."""
    power = torch.full_like(log_weights[0], exponent)
    weights = torch.softmax(power * log_weights, dim=0)
    for _ in range(MAX_LOWERINGS):
        few = 1 / weights.square().sum(0) < MIN_EFFECTIVE_SHARE * len(log_weights)
        if not few.any():
            break
        power = torch.where(few, 0.7 * power, power)
        weights = torch.softmax(power * log_weights, dim=0)
    return weights


def _within_trust_region(update: Tensor) -> Tensor:
    """Updates (B, ...) in the coordinates in which q is spherical, scaled down to a norm of at most 1 per scene."""
    norm = update.flatten(1).norm(dim=1).reshape(-1, *[1] * (update.dim() - 1))
    return update / norm.clamp(min=1)


def _scale_tril(start: Normal | Fit) -> Tensor:
    return start.scale_tril if isinstance(start, Fit) else torch.diag_embed(start.scale.double())


def _block_diagonal(blocks: Tensor) -> Tensor:
    """(B, K, D, D) → (B, K·D, K·D)."""
    B, K, D, _ = blocks.shape
    full = blocks.new_zeros(B, K, D, K, D)
    slots = torch.arange(K, device=blocks.device)
    full[:, slots, :, slots] = blocks.transpose(0, 1)
    return full.reshape(B, K * D, K * D)

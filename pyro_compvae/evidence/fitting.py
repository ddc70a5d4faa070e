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
    steps: int = 500,
    num_samples: int = 8,
    learning_rate: float = 0.03,
) -> Fit:
    r"""Maximise the ELBO of every scene over a family of Gaussians, all scenes at once.

        z = μ + S ε,  μ = μ_0 + σ_0 u,  S = diag(σ_0) (diag(e^s) + strictly lower triangle)

    so that parameters have no unit: σ_0 is the starting scale of every latent. Adam with a cosine schedule; the
    gradient holds q fixed but for its draws (Roeder et al. 2017), which has no variance where q is the posterior.

    Args:
        log_joint: log p(x, z) of the scenes.
        start: the guide's posterior, batch shape (B, K, D), or a fit of a smaller family.
        family: "diagonal", "block" or "full".
        steps: of Adam.
        num_samples: draws per scene and step.
        learning_rate: at the start.

    Raises:
        ValueError: for an unknown family, one that is smaller than the start's, or numbers below 1.
    """
    if family not in get_args(Family):
        raise ValueError(f"family: expected one of {', '.join(get_args(Family))}, got {family!r}")
    if steps < 1 or num_samples < 1:
        raise ValueError(f"expected at least 1 step and 1 sample, got {steps} and {num_samples}")
    B, K, D = start.loc.shape
    loc, scale_tril = start.loc.double(), _scale_tril(start)
    if family == "full" and scale_tril.dim() == 4:
        scale_tril = _block_diagonal(scale_tril)
    if (family != "full" and scale_tril.dim() == 3) or (
        family == "diagonal" and bool((scale_tril.tril(-1) != 0).any())
    ):
        raise ValueError(f"start: expected a fit of {family!r} or of a smaller family, got a larger one")

    unit = scale_tril.diagonal(dim1=-2, dim2=-1).clone()  # σ_0: (B, K, D) or (B, K·D)
    loc = loc.reshape(unit.shape)
    shift = torch.zeros_like(unit, requires_grad=True)
    log_scale = torch.zeros_like(unit, requires_grad=True)
    lower = (scale_tril / unit.unsqueeze(-1)).tril(-1).requires_grad_()
    parameters = [shift, log_scale] if family == "diagonal" else [shift, log_scale, lower]

    def gaussian() -> Elliptical:
        factor = torch.diag_embed(log_scale.exp()) + lower.tril(-1)
        return Elliptical(loc + unit * shift, unit.unsqueeze(-1) * factor)

    optimiser = torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=0.01 * learning_rate)
    elbos = []
    with torch.enable_grad():
        for _ in range(steps):
            q = gaussian()
            z = q.rsample(num_samples)
            log_q = Elliptical(q.loc.detach(), q.scale_tril.detach()).log_prob(z).reshape(num_samples, B, -1).sum(-1)
            elbo = (log_joint(z.reshape(num_samples, B, K, D)) - log_q).mean(0)
            optimiser.zero_grad()
            # Only these: the decoder's weights are frozen, and their gradients would cost as much again.
            (-elbo.sum()).backward(inputs=parameters)
            optimiser.step()
            schedule.step()
            elbos.append(elbo.detach())
    fitted = gaussian()
    return Fit(fitted.loc.detach().reshape(B, K, D), fitted.scale_tril.detach(), torch.stack(elbos))


def _scale_tril(start: Normal | Fit) -> Tensor:
    return start.scale_tril if isinstance(start, Fit) else torch.diag_embed(start.scale.double())


def _block_diagonal(blocks: Tensor) -> Tensor:
    """(B, K, D, D) → (B, K·D, K·D)."""
    B, K, D, _ = blocks.shape
    full = blocks.new_zeros(B, K, D, K, D)
    slots = torch.arange(K, device=blocks.device)
    full[:, slots, :, slots] = blocks.transpose(0, 1)
    return full.reshape(B, K * D, K * D)

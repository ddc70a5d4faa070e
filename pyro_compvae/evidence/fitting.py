"""Proposals fitted to the posterior of every scene, from where the guide's posterior stands."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

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
    scale_tril: (B, K, D, D) for "diagonal" and "block", (B, K·D, K·D) for "full".
    elbo: (steps, B), nats, one noisy estimate per step.
    """

    loc: Tensor
    scale_tril: Tensor
    elbo: Tensor

    def proposal(self, df: float = math.inf, inflation: float = 1.0) -> Proposal:
        """The fit as a proposal, a Student-t with finite ``df``, its scale multiplied by ``inflation``."""
        scale_tril = inflation * self.scale_tril
        if scale_tril.dim() == 4:
            return FactorisedProposal(Elliptical(self.loc, scale_tril, df))
        return JointProposal(Elliptical(self.loc.flatten(-2), scale_tril, df), self.loc.shape[-2])


def fit_gaussian(
    log_joint: LogJoint,
    start: Normal | Fit,
    family: Family,
    steps: int = 1000,
    num_samples: int = 8,
    learning_rate: float = 0.03,
) -> Fit:
    B, K, D = start.loc.shape
    if isinstance(start, Normal):
        loc, tril = start.loc.double(), torch.diag_embed(start.scale.double())
    else:
        loc, tril = start.loc, start.scale_tril
    if family == "full" and tril.dim() == 4:
        full = tril.new_zeros(B, K, D, K, D)
        for k in range(K):
            full[:, k, :, k] = tril[:, k]
        tril = full.reshape(B, K * D, K * D)
    unit = tril.diagonal(dim1=-2, dim2=-1).clone()
    shift = torch.zeros_like(unit, requires_grad=True)
    log_scale = torch.zeros_like(unit, requires_grad=True)
    lower = (tril / unit.unsqueeze(-1)).tril(-1).clone().requires_grad_()
    parameters = [shift, log_scale] + ([] if family == "diagonal" else [lower])
    optimiser = torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=0.01 * learning_rate)
    flat = loc.reshape(unit.shape)

    def current() -> tuple[Tensor, Tensor]:
        factor = torch.diag_embed(log_scale.exp())
        if family != "diagonal":
            factor = factor + lower.tril(-1)
        return flat + unit * shift, unit.unsqueeze(-1) * factor

    elbos = []
    for _ in range(steps):
        mean, scale_tril = current()
        q = Elliptical(mean, scale_tril)
        z = q.rsample(num_samples)
        frozen = Elliptical(mean.detach(), scale_tril.detach())
        log_q = frozen.log_prob(z).reshape(num_samples, B, -1).sum(-1)
        elbo = (log_joint(z.reshape(num_samples, B, K, D)) - log_q).mean(0)
        optimiser.zero_grad()
        (-elbo.sum()).backward(inputs=parameters)
        optimiser.step()
        schedule.step()
        elbos.append(elbo.detach())
    with torch.no_grad():
        mean, scale_tril = current()
    return Fit(mean.detach().reshape(B, K, D), scale_tril.detach(), torch.stack(elbos))

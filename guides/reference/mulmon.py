"""MulMON's training loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_compvae.guides.mulmon import MulmonGuide
from pyro_compvae.guides.reference.refinement import Divergence, View, refine
from pyro_compvae.guides.reference.terms import decode, log_components


def plain_mulmon_loss(
    guide: MulmonGuide, x: Tensor, viewpoints: Tensor, num_observed: int, noise: Sequence[Tensor]
) -> Tensor:
    """−Σ_b of MulMON's objective, in nats (`MulmonGuide`). The first n views are observed and the rest are queries.

    Args:
        guide: the guide whose networks, T, β, s and σ_c are used.
        x: the views (B, V, 3, H, W).
        viewpoints: the viewpoints (B, V, 3), noise included if they are to have any.
        num_observed: n, the number of observed views.
        noise: n T + (V − n) standard normal draws (B, K, D), one per evaluation.
    """
    T, n, model = guide.num_iterations, num_observed, guide.model
    mean = x.new_zeros(len(x), model.num_slots, model.latent_dim)
    raw_scale = torch.full_like(mean, math.log(math.e - 1))
    objective = x.new_zeros(())
    for v in range(n):
        weights = [2 / (n + 1) * (v + 1) / n * 2 / (T + 1) * (t + 1) / T for t in range(T)]
        evaluations = list(zip(weights, noise[v * T : (v + 1) * T], strict=True))
        divergence = _divergence_from(mean, F.softplus(raw_scale), guide.analytic_kl)
        view = _seen_from(guide, viewpoints[:, v])
        terms, (mean, raw_scale) = refine(guide, view, x[:, v], (mean, raw_scale), evaluations, divergence)
        objective = objective + terms
    num_queries = x.shape[1] - n
    for v, draw in zip(range(n, x.shape[1]), noise[n * T :], strict=True):
        z = mean + F.softplus(raw_scale) * draw
        means, logits = decode(model.decoder, _seen_from(guide, viewpoints[:, v]).project(z))
        component, log_masks = log_components(x[:, v], means, model.scale), torch.log_softmax(logits[:, :, 0], dim=1)
        objective = objective + torch.logsumexp(log_masks + component, dim=1).sum() / num_queries
    return -objective


def _seen_from(guide: MulmonGuide, viewpoint: Tensor) -> View:
    """How slots (B, K, D) are seen from viewpoints (B, 3)."""
    model = guide.model
    context = viewpoint if guide.network.context_dim else None
    if model.turntable:
        rotation = _rotation(viewpoint, model.latent_dim)
        return View(lambda z: torch.einsum("bij,bkj->bki", rotation, z), context, rotation)
    code = model.view_encoder(viewpoint)[:, None].expand(-1, model.num_slots, -1)
    return View(lambda z: model.projector(torch.cat((z, code), dim=2)), context)


def _rotation(viewpoint: Tensor, latent_dim: int) -> Tensor:
    """R (B, D, D): latents i and i + D // 4, for i < D // 4, turn by the camera's azimuth; the others stay."""
    azimuth = torch.atan2(viewpoint[:, 1], viewpoint[:, 0] + 1)
    rotation = torch.eye(latent_dim).to(viewpoint).repeat(len(viewpoint), 1, 1)
    quarter = latent_dim // 4
    for i in range(quarter):
        j = i + quarter
        rotation[:, i, i], rotation[:, i, j] = azimuth.cos(), azimuth.sin()
        rotation[:, j, i], rotation[:, j, j] = -azimuth.sin(), azimuth.cos()
    return rotation


def _divergence_from(prior_mean: Tensor, prior_scale: Tensor, analytic: bool) -> Divergence:
    """Σ_b log q(z) − log q_{v−1}(z) at the sample."""

    def divergence(mean: Tensor, scale: Tensor, z: Tensor, t: int) -> Tensor:
        if t == 0:  # the posterior is the prior, and the gradients of both densities agree
            return z.new_zeros(())
        log_ratio = torch.log(prior_scale / scale)
        if analytic:
            return (log_ratio + 0.5 * (scale**2 + (mean - prior_mean) ** 2) / prior_scale**2 - 0.5).sum()
        return (log_ratio + 0.5 * ((z - prior_mean) / prior_scale) ** 2 - 0.5 * ((z - mean) / scale) ** 2).sum()

    return divergence

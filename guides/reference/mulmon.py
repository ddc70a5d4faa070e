"""MulMON's training loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_compvae.guides.mulmon import MulmonGuide
from pyro_compvae.guides.reference.refinement import Divergence, Projection, refine
from pyro_compvae.guides.reference.terms import decode, log_components
from pyro_compvae.models import MultiViewSceneModel


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
        divergence = _divergence_from(mean, F.softplus(raw_scale))
        context = viewpoints[:, v] if guide.network.context_dim else None
        terms, (mean, raw_scale) = refine(
            guide, _seen_from(model, viewpoints[:, v]), x[:, v], (mean, raw_scale), evaluations, divergence, context
        )
        objective = objective + terms
    num_queries = x.shape[1] - n
    for v, draw in zip(range(n, x.shape[1]), noise[n * T :], strict=True):
        z = mean + F.softplus(raw_scale) * draw
        means, logits = decode(model.decoder, _seen_from(model, viewpoints[:, v])(z))
        component, log_masks = log_components(x[:, v], means, model.scale), torch.log_softmax(logits[:, :, 0], dim=1)
        objective = objective + torch.logsumexp(log_masks + component, dim=1).sum() / num_queries
    return -objective


def _seen_from(model: MultiViewSceneModel, viewpoint: Tensor) -> Projection:
    """The map from z (B, K, D) to what the decoder sees of it from viewpoints (B, 3)."""
    code = model.view_encoder(viewpoint)[:, None].expand(-1, model.num_slots, -1)
    return lambda z: model.projector(torch.cat((z, code), dim=2))


def _divergence_from(prior_mean: Tensor, prior_scale: Tensor) -> Divergence:
    """Σ_b log q(z) − log q_{v−1}(z) at the sample."""

    def divergence(mean: Tensor, scale: Tensor, z: Tensor, t: int) -> Tensor:
        if t == 0:  # the posterior is the prior, and the gradients of both densities agree
            return z.new_zeros(())
        log_ratio = torch.log(prior_scale / scale)
        return (log_ratio + 0.5 * ((z - prior_mean) / prior_scale) ** 2 - 0.5 * ((z - mean) / scale) ** 2).sum()

    return divergence

"""MONet's training loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_compvae.guides.monet import MonetGuide
from pyro_compvae.guides.reference.terms import decode, lnms, log_components, prior_kl


def plain_monet_loss(guide: MonetGuide, x: Tensor, noise: Tensor) -> Tensor:
    """−Σ_b [ log Σ_k a_k N(x_b; μ_k, σ²) − β KL(q ‖ p) − γ KL(a ‖ m) + s L_NMS(z) ], in nats (`MonetGuide`).

    Masks stay in log space throughout, since a scope soon underflows in float32.

    Args:
        guide: the guide whose networks, β, γ, s and σ_c are used.
        x: images (B, 3, H, W).
        noise: a standard normal draw (B, K, D).
    """
    model = guide.model
    log_scope = torch.zeros_like(x[:, :1])
    log_attention = []
    for _ in range(model.num_slots - 1):
        log_alpha, log_rest = guide.attention(x, log_scope)
        log_attention.append(log_scope + log_alpha)
        log_scope = log_scope + log_rest
    log_a = torch.stack([*log_attention, log_scope], dim=1)  # (B, K, 1, H, W)
    images = x[:, None].expand(-1, model.num_slots, -1, -1, -1)
    encoded = guide.encoder(torch.cat((images, log_a), dim=2).flatten(0, 1))  # (B K, 2 D)
    mean, raw_scale = encoded.view(*noise.shape[:2], -1).chunk(2, dim=2)
    scale = F.softplus(raw_scale)
    z = mean + scale * noise
    means, logits = decode(model.decoder, z)
    log_a, log_m = log_a[:, :, 0], torch.log_softmax(logits[:, :, 0], dim=1)
    likelihood = torch.logsumexp(log_a + log_components(x, means, model.scale), dim=1).sum()
    mask_kl = (torch.exp(log_a) * (log_a - log_m)).sum()
    penalty = guide.beta * prior_kl(mean, scale) + guide.mask_strength * mask_kl
    return -(likelihood - penalty + lnms(guide, z))

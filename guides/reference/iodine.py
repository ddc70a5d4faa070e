"""IODINE's training loss."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyro_compvae.guides.iodine import IodineGuide
from pyro_compvae.guides.reference.refinement import View, refine
from pyro_compvae.guides.reference.terms import prior_kl


def plain_iodine_loss(guide: IodineGuide, x: Tensor, noise: Sequence[Tensor]) -> Tensor:
    """−Σ_b Σ_{t=1..T} (t/T) [ log p(x_b | z_t) − β KL_t + s L_NMS(z_t) ] in nats, with the weights of `guide`.

    Args:
        guide: the guide whose networks, T, β, s and σ_c are used.
        x: images (B, 3, H, W).
        noise: T+1 standard normal draws (B, K, D), one per evaluation.
    """
    T = guide.num_iterations
    shape = (len(x), guide.model.num_slots, guide.model.latent_dim)
    start = (guide.initial_mean.expand(shape), guide.initial_raw_scale.expand(shape))

    def divergence(mean: Tensor, scale: Tensor, z: Tensor, t: int) -> Tensor:
        return prior_kl(mean, scale)

    evaluations = [(t / T, noise[t]) for t in range(T + 1)]
    objective, _ = refine(guide, View(lambda z: z), x, start, evaluations, divergence)
    return -objective

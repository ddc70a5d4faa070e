"""Alignment of all draws to one order of the slots, without which "slot 2" has no meaning."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.errors import ArgumentError

ALIGNMENT = (
    "Slots of every draw are in the order that makes them likeliest under one diagonal Gaussian for each slot of the "
    "scene, fitted to the aligned draws themselves (Hungarian matching, then fitting, until no order changes; Stephens "
    "2000), starting from the guide's posterior."
)
"""The note in files of draws that were aligned."""

MIN_SCALE = 1e-3
"""Least standard deviation of a latent, so that equal draws have a density too."""


def align_slots(z: Tensor, start: Normal, max_rounds: int = 50) -> tuple[Tensor, Tensor]:
    r"""Put the slots of draws from a posterior without labels into one order (Stephens 2000, with Gaussians).

        maximise  Σ_l Σ_k log N(z_l,π_l(k); m_k, s_k²)   over the orders π_l and the slots' means m and scales s

    over both in turns, for each scene separately. Every turn makes the sum larger, so it ends, at an order that depends
    on the start only if there are several optima.

    Args:
        z: (L, B, K, D), draws for B scenes from all chains together.
        start: the first m and s, of batch shape (B, K, D).
        max_rounds: the largest number of turns.

    Returns:
        The draws in their new order (L, B, K, D), and π (L, B, K): slot k of the result is slot π(k) of z.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    if z.dim() != 4 or start.batch_shape != z.shape[1:]:
        raise ArgumentError(
            f"z: expected draws (L, B, K, D) of the scenes of start, {tuple(start.batch_shape)}, got {tuple(z.shape)}"
        )
    z, loc, scale = z.detach(), start.loc.detach().to(z), start.scale.detach().to(z)
    order = torch.full(z.shape[:-1], -1, device=z.device)
    aligned = z
    for _ in range(max_rounds):
        last, order = order, match_slots(z, Normal(loc, scale))
        if torch.equal(order, last):
            break
        aligned = z.gather(-2, order.unsqueeze(-1).expand_as(z))
        loc = aligned.mean(0)
        scale = (aligned - loc).square().mean(0).sqrt().clamp(min=MIN_SCALE)
    return aligned, order


def match_slots(z: Tensor, slots: Normal) -> Tensor:
    """The likeliest order of the slots of every draw under one distribution for each slot (Hungarian matching).

    Args:
        z: the draws, (L, B, K, D).
        slots: the distributions of the slots, of batch shape (B, K, D).

    Returns:
        π (L, B, K): slot π(k) of z belongs to slot k.
    """
    log_probs = [slots.log_prob(z[..., a, None, :].expand_as(z)).sum(-1) for a in range(z.shape[-2])]
    scores = torch.stack(log_probs, dim=-1).flatten(0, 1).cpu().numpy()  # (L·B, k, a)
    orders = np.stack([linear_sum_assignment(score, maximize=True)[1] for score in scores])
    return torch.from_numpy(orders).to(z.device).view(z.shape[:-1])

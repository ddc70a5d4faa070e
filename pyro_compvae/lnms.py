"""Latent non-maximum suppression (L-NMS): a correlation prior on slots (paper, Section 2.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_compvae.errors import ArgumentError
from pyro_compvae.factors import add_term


def slot_correlation(z: Tensor) -> Tensor:
    """Cosine similarity of every pair of slots: Σ_hj = ⟨z_h, z_j⟩ / (‖z_h‖ ‖z_j‖).

    Args:
        z: slots (..., K, D). A slot of zeros has correlation 0 with everything.

    Returns:
        (..., K, K), in [-1, 1].

    >>> import torch
    >>> slot_correlation(torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
    tensor([[1.0000, 0.0000, 0.7071],
            [0.0000, 1.0000, 0.7071],
            [0.7071, 0.7071, 1.0000]])
    """
    direction = F.normalize(z, dim=-1, eps=1e-12)
    with torch.autocast(z.device.type, enabled=False):
        return direction @ direction.mT


def lnms_log_density(z: Tensor, scale: float = 0.1) -> Tensor:
    """L_NMS(z) = Σ_{h≠j} log N(Σ_hj; 0, scale²), in nats (paper, Eq. 3).

    Every unordered pair counts twice, as in the paper. The value is a sum of log densities and may be positive.

    Args:
        z: slots (..., K, D).
        scale: standard deviation σ_c of a correlation; the paper's is 0.1.

    Returns:
        (...).

    Raises:
        ValueError: if z has no slot axis or the scale is not positive.

    At right angles every ordered pair has the largest log density, 1.38; equal slots lose 1 / (2 · 0.1²) = 50 each:

    >>> import torch
    >>> apart, equal = torch.eye(2), torch.ones(2, 2)
    >>> [round(float(lnms_log_density(z)), 2) for z in (apart, equal)]
    [2.77, -97.23]
    """
    if z.dim() < 2:
        raise ArgumentError(f"z: expected slots (..., K, D), got {tuple(z.shape)}")
    if not scale > 0:
        raise ArgumentError(f"scale: expected a positive standard deviation, got {scale}")
    num_slots = z.shape[-2]
    squares = slot_correlation(z).square()
    off_diagonal = squares.sum((-2, -1)) - squares.diagonal(dim1=-2, dim2=-1).sum(-1)
    log_normaliser = math.log(scale) + 0.5 * math.log(2 * math.pi)
    return off_diagonal * (-0.5 / scale**2) - num_slots * (num_slots - 1) * log_normaliser


def lnms_factor(z: Tensor, strength: float | Tensor, scale: float = 0.1) -> None:
    """Add strength · L_NMS(z) to the objective, from within a Pyro *guide* (paper, Eq. 4).

    The slots must be reparameterised samples. L-NMS belongs to training: guides call this in train mode only.
    """
    add_term("lnms", strength * lnms_log_density(z, scale))

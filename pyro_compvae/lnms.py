"""Latent non-maximum suppression (L-NMS): a correlation prior on slots (paper, Section 2.2).

It was published later as latent duplicate suppression (LDS; Li and Fisher, *Duplicate Latent Representation Suppression
for Multi-object Variational Autoencoders*, BMVC 2021).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_compvae.errors import ArgumentError
from pyro_compvae.factors import add_term

LnmsForm = Literal["sum", "mean", "presence"]
"""How the terms of pairs of slots become one number.

* "sum": over ordered pairs, as in the paper.
* "mean": over pairs, so that a strength means the same for every K, as in the public code of LDS (its weight of 500 on
  the mean squared cosine is a strength of 10 at σ_c = 0.1).
* "presence": the sum, each pair weighted by the product of its slots' presences, which leaves empty slots alone. Slots
  near the prior have random directions, and pay for each other: 131 nats at K = 7, D = 16.
"""


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


def lnms_log_density(z: Tensor, scale: float = 0.1, form: LnmsForm = "sum", presence: Tensor | None = None) -> Tensor:
    """L_NMS(z) = Σ_{h≠j} log N(Σ_hj; 0, scale²), in nats (paper, Eq. 3), or another of its forms.

    Every unordered pair counts twice, as in the paper. The value is a sum of log densities and may be positive. With
    "presence" the log densities are relative to their maximum, since a slot's presence would be rewarded otherwise.

    Args:
        z: slots (..., K, D).
        scale: standard deviation σ_c of a correlation; the paper's is 0.1.
        form: how the terms of pairs become one number; see `LnmsForm`.
        presence: how much there is of each slot, (..., K) in [0, 1]; for that form, and no other.

    Returns:
        (...).

    Raises:
        ValueError: if z has no slot axis, the scale is not positive, the form is unknown, or presences are missing or
            not wanted.

    At right angles every ordered pair has the largest log density, 1.38; equal slots lose 1 / (2 · 0.1²) = 50 each:

    >>> import torch
    >>> apart, equal = torch.eye(2), torch.ones(2, 2)
    >>> [round(float(lnms_log_density(z)), 2) for z in (apart, equal)]
    [2.77, -97.23]
    >>> [round(float(lnms_log_density(z, form="mean")), 2) for z in (apart, equal)]
    [1.38, -48.62]
    >>> round(float(lnms_log_density(equal, form="presence", presence=torch.tensor([1.0, 0.5]))), 2)
    -50.0
    """
    if z.dim() < 2:
        raise ArgumentError(f"z: expected slots (..., K, D), got {tuple(z.shape)}")
    if not scale > 0:
        raise ArgumentError(f"scale: expected a positive standard deviation, got {scale}")
    if form not in get_args(LnmsForm):
        raise ArgumentError(f"form: expected one of {', '.join(get_args(LnmsForm))}, got {form!r}")
    if (presence is None) == (form == "presence"):
        got = "none" if presence is None else "some"
        raise ArgumentError(f"presence: expected presences of the slots with form='presence' and no other, got {got}")
    num_slots = z.shape[-2]
    squares = slot_correlation(z).square()
    if presence is not None:
        squares = squares * presence.unsqueeze(-1) * presence.unsqueeze(-2)
    off_diagonal = squares.sum((-2, -1)) - squares.diagonal(dim1=-2, dim2=-1).sum(-1)
    exponents = off_diagonal * (-0.5 / scale**2)
    if presence is not None:
        return exponents
    num_pairs = num_slots * (num_slots - 1)
    total = exponents - num_pairs * (math.log(scale) + 0.5 * math.log(2 * math.pi))
    return total / max(num_pairs, 1) if form == "mean" else total


def strength_of_sum(strength: float, form: LnmsForm, num_slots: int) -> float:
    """The strength of the sum over pairs that is the same as this strength of another form.

    Raises:
        ArgumentError: for "presence", which is no function of the slots alone.
    """
    if form == "presence":
        raise ArgumentError(
            "form: expected sum or mean, which are densities of slots, got presence, whose weights depend on a "
            "posterior; name one of the former (--form sum)"
        )
    return strength / max(num_slots * (num_slots - 1), 1) if form == "mean" else strength


def lnms_factor(
    z: Tensor,
    strength: float | Tensor,
    scale: float = 0.1,
    form: LnmsForm = "sum",
    presence: Tensor | None = None,
) -> None:
    """Add strength · L_NMS(z) to the objective, from within a Pyro *guide* (paper, Eq. 4).

    The slots must be reparameterised samples. L-NMS belongs to training: guides call this in train mode only. Form and
    presence are those of `lnms_log_density`.
    """
    add_term("lnms", strength * lnms_log_density(z, scale, form, presence))

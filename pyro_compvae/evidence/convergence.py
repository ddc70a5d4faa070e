"""Whether a fit has arrived."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

NEGLIGIBLE = 0.2
"""Nats that an ELBO may still gain without being called on its way."""


class Slope(NamedTuple):
    """How a noisy ELBO moved over the second half of a fit, by a least-squares line through it.

    rise: (B,), nats from the middle to the end of the fit.
    standard_error: (B,), of the rise, from the scatter about the line.
    """

    rise: Tensor
    standard_error: Tensor

    @property
    def converged(self) -> Tensor:
        """Where the rise is within two standard errors of none, or negligible, (B,)."""
        return self.rise.abs() <= (2 * self.standard_error).clamp(min=NEGLIGIBLE)


def elbo_slope(elbo: Tensor) -> Slope:
    """The slope of ELBOs (steps, B), one noisy estimate per step.

    Raises:
        ValueError: for fewer than 6 steps, whose second half shows no scatter.
    """
    if len(elbo) < 6:
        raise ValueError(f"elbo: expected at least 6 steps, whose second half has a slope, got {len(elbo)}")
    tail = elbo[len(elbo) // 2 :].double()
    n = len(tail)
    time = torch.linspace(-0.5, 0.5, n, dtype=tail.dtype, device=tail.device).unsqueeze(1)
    centred = tail - tail.mean(0)
    rise = (time * centred).sum(0) / time.square().sum()
    scatter = (centred - rise * time).square().sum(0) / (n - 2)
    return Slope(rise, (scatter / time.square().sum()).sqrt() if n > 2 else torch.full_like(rise, math.inf))

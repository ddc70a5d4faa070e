"""Whether a fit had stopped rising before its steps were made small."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_compvae.errors import ArgumentError

NEGLIGIBLE_RISE = 0.2
"""Nats that an ELBO may still gain without being called on its way."""


class Slope(NamedTuple):
    """How a noisy ELBO moved over some steps, by a least-squares line through it.

    rise: (B,), nats from the first of the steps to the last.
    standard_error: (B,), of the rise, from the scatter about the line.
    """

    rise: Tensor
    standard_error: Tensor

    @property
    def converged(self) -> Tensor:
        """Where no rise, and no fall, is found: within two standard errors of none, or negligible, (B,)."""
        return self.rise.abs() <= (2 * self.standard_error).clamp(min=NEGLIGIBLE_RISE)


def step_share(step: int, steps: int, held: float, last: float = 0.05) -> float:
    """Share of the step size at a step: 1 for a share `held` of all steps, then along half a cosine to `last`.

    Raises:
        ValueError: unless `held` is from 0 to below 1.
    """
    check_held(held)
    fallen = max(step - held * steps, 0) / ((1 - held) * steps)
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * fallen))


def check_held(held: float) -> None:
    """Refuse what is no share of the steps that leaves some to settle.

    Raises:
        ValueError: unless `held` is from 0 to below 1.
    """
    if not 0 <= held < 1:
        raise ArgumentError(f"held: expected a share from 0 to below 1, got {held}")


def elbo_slope(elbo: Tensor, held: float) -> Slope:
    """The slope of ELBOs (steps, B), one noisy estimate per step, over the second half of the steps of constant size.

    There, noise is stationary, and an ELBO rises only if the fit is still on its way; while steps get shorter it rises
    because the fit settles.

    Raises:
        ValueError: for fewer than 3 steps to look at.
    """
    stop = int(held * len(elbo))
    part = elbo[stop // 2 : stop].double()
    if len(part) < 3:
        raise ArgumentError(f"elbo: expected at least 3 steps of constant size in a half, got {len(part)}")
    time = torch.linspace(-0.5, 0.5, len(part), dtype=part.dtype, device=part.device).unsqueeze(1)
    centred = part - part.mean(0)
    rise = (time * centred).sum(0) / time.square().sum()
    scatter = (centred - rise * time).square().sum(0) / (len(part) - 2)
    return Slope(rise, (scatter / time.square().sum()).sqrt())

"""A test of whether the ELBO of a fit had stopped rising before its steps were made small."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_compvae.errors import ArgumentError

NEGLIGIBLE_RISE = 0.2
"""Rise of an ELBO, in nats, that still counts as converged."""


class Slope(NamedTuple):
    """The change of a noisy ELBO over some steps, by a least-squares line through it.

    rise: (B,), nats from the first of the steps to the last.
    standard_error: (B,), the standard error of the rise, from the scatter about the line.
    """

    rise: Tensor
    standard_error: Tensor

    @property
    def converged(self) -> Tensor:
        """Whether the ELBO stays level, (B,): its change is within two standard errors of 0, or negligible."""
        return self.rise.abs() <= (2 * self.standard_error).clamp(min=NEGLIGIBLE_RISE)


def step_share(step: int, steps: int, held: float, last: float = 0.05) -> float:
    """The factor on the step size at a step: 1 for a share `held` of all steps, then along half a cosine to `last`.

    Raises:
        ValueError: unless `held` is from 0 to below 1.
    """
    check_held(held)
    fallen = max(step - held * steps, 0) / ((1 - held) * steps)
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * fallen))


def check_held(held: float) -> None:
    """Refuse a share of the steps that leaves none for the fit to settle.

    Raises:
        ValueError: unless `held` is from 0 to below 1.
    """
    if not 0 <= held < 1:
        raise ArgumentError(f"held: expected a share from 0 to below 1, got {held}")


def elbo_slope(elbo: Tensor, held: float) -> Slope:
    """The slope of ELBOs (steps, B), noisy estimates one per step, over the second half of the steps of constant size.

    In these steps the noise is stationary, and an ELBO rises only if the fit has not arrived yet. While steps get
    shorter, it also rises because the fit settles.

    Raises:
        ValueError: if these are fewer than 3 steps.
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

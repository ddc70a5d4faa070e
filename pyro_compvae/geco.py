"""GECO: a weight of the KL divergence that is as small as reconstructions need (Rezende & Viola 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyro_compvae.errors import ArgumentError

DECAY = 0.99
"""The share of the moving average of the constraint that remains after a step, as in EfficientMORL's code."""


class Geco(nn.Module):
    r"""The multiplier λ of the constraint that reconstructions are good enough (arXiv 1810.00597).

        C_t = target − log p(x | z) / (3 H W)            nats per pixel and channel, mean over the scenes of a step
        C̄ ← 0.99 C̄ + 0.01 C_t
        λ ← max(1, λ exp(rate · C̄))

    A guide that has one multiplies its β by 1/λ. That is the published objective, KL + λ (target − log p(x | z)), up to
    the factor λ, which Adam and the clipping of gradients hardly see. λ is at least 1, as in EfficientMORL's code
    (Emami et al. 2021), so that the objective is the ELBO where the target is met. EfficientMORL adds to a number whose
    softplus is λ; the factor here is the published one.

    Its state is part of the guide's, so it is in checkpoints and exports. `SceneElbo` observes and `TrainingStep`
    updates; under any other ELBO, or in a loop of your own, λ stays as it is unless you call `observe` and `update`.

    Args:
        target: the wanted log p(x | z) in nats per pixel and channel; see `best_log_likelihood`.
        rate: how fast log λ rises for every nat per pixel and channel that is missing.
        start: the λ of the first step.

    Raises:
        ArgumentError: for a rate that is not positive, or a start below 1.
    """

    constraint: Tensor
    log_multiplier: Tensor
    observed: Tensor | None = None

    def __init__(self, target: float, rate: float = 0.001, start: float = 1.0) -> None:
        super().__init__()
        if not rate > 0:
            raise ArgumentError(f"rate: expected a positive number, got {rate}")
        if not start >= 1:
            raise ArgumentError(f"start: expected at least 1, got {start}")
        self.target, self.rate = target, rate
        self.register_buffer("constraint", torch.tensor(math.nan))
        self.register_buffer("log_multiplier", torch.tensor(math.log(start)))

    @property
    def multiplier(self) -> Tensor:
        """λ, on the device of the guide."""
        return self.log_multiplier.exp()

    def observe(self, log_likelihood: Tensor, num_values: int) -> None:
        """Take note of log p(x | z), (B,) in nats, of images with that many colour values."""
        self.observed = log_likelihood.detach().mean() / num_values

    @torch.no_grad()
    def update(self, mean: Callable[[Tensor], Tensor] = lambda observed: observed) -> None:
        """Update C̄ and λ in place by what has been observed since the last update, if anything.

        Args:
            mean: the mean over the workers that share a step.
        """
        if self.observed is None:
            return
        now = self.target - mean(self.observed)
        self.observed = None
        average = DECAY * self.constraint + (1 - DECAY) * now
        self.constraint.copy_(torch.where(self.constraint.isnan(), now, average))
        self.log_multiplier.add_(self.rate * self.constraint).clamp_(min=0)


def best_log_likelihood(scale: float) -> float:
    """The log-density of a colour value at its mean, −log σ − log √(2π), which no reconstruction can exceed.

    >>> round(best_log_likelihood(0.1), 3), round(best_log_likelihood(0.3), 3)
    (1.384, 0.285)
    """
    return -math.log(scale) - 0.5 * math.log(2 * math.pi)

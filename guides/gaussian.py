"""The posterior of a slot in every guide: a factorised Gaussian whose scale goes through softplus."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal


class Gaussian(NamedTuple):
    """Posterior parameters λ of a factorised Gaussian over slots, (B, K, D) each; the scale goes through softplus."""

    mean: Tensor
    raw_scale: Tensor

    def distribution(self) -> Normal:
        """q(z | λ), batch shape (B, K, D)."""
        return Normal(self.mean, F.softplus(self.raw_scale), validate_args=False)


def inverse_softplus(scale: Tensor) -> Tensor:
    """The raw scale that softplus maps to a positive scale, log(exp(scale) − 1), in the precision of the scale."""
    return scale.expm1().log()

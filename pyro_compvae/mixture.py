"""The spatial Gaussian mixture: every pixel belongs to one slot."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions.utils import lazy_property

from pyro_compvae.errors import ArgumentError


class SpatialGaussianMixture(TorchDistribution):
    r"""Images each of whose pixels is drawn from one of K slots (paper, Eq. 1).

        C_i ~ Categorical(m_1i, ..., m_Ki),   m = softmax_k(mask_logits)
        x_i ~ N(means_{C_i, i}, scale² I_C)

    so that  log p(x) = Σ_i log Σ_k m_ki N(x_i; means_ki, scale² I_C),  in nats.

    The component is chosen once per *pixel* and shared by its channels. Several public codes mix every channel
    separately; that is another model, with another likelihood.

    Args:
        means: (..., K, C, H, W), colours in [0, 1].
        mask_logits: (..., K, 1, H, W); only differences between slots matter.
        scale: standard deviation of a colour channel, > 0.

    Raises:
        ValueError: if the shapes do not fit together or the scale is not positive.

    Two slots, black and white, share one pixel with equal probability:

    >>> means = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)
    >>> mixture = SpatialGaussianMixture(means, mask_logits=torch.zeros(2, 1, 1, 1), scale=0.1)
    >>> mixture.event_shape
    torch.Size([3, 1, 1])
    >>> black, grey = torch.zeros(3, 1, 1), torch.full((3, 1, 1), 0.5)
    >>> [round(float(mixture.log_prob(x)), 2) for x in (black, grey)]
    [3.46, -33.35]

    The mean is this grey, which neither slot would draw:

    >>> mixture.mean.flatten()
    tensor([0.5000, 0.5000, 0.5000])
    """

    arg_constraints = {  # noqa: RUF012 (the name and form that torch.distributions asks for)
        "means": constraints.independent(constraints.real, 4),
        "mask_logits": constraints.independent(constraints.real, 4),
    }
    support = constraints.independent(constraints.real, 3)

    def __init__(self, means: Tensor, mask_logits: Tensor, scale: float, validate_args: bool | None = None) -> None:
        if means.dim() < 4 or mask_logits.dim() < 4:
            raise ArgumentError(
                "expected means (..., K, C, H, W) and mask_logits (..., K, 1, H, W), "
                f"got {tuple(means.shape)} and {tuple(mask_logits.shape)}"
            )
        slots, channels, height, width = means.shape[-4:]
        if mask_logits.shape[-4:] != (slots, 1, height, width):
            raise ArgumentError(
                f"mask_logits: expected shape (..., {slots}, 1, {height}, {width}) to fit means "
                f"{tuple(means.shape)}, got {tuple(mask_logits.shape)}"
            )
        if not scale > 0:
            raise ArgumentError(f"scale: expected a positive standard deviation, got {scale}")
        self.means = means
        self.mask_logits = mask_logits
        self.scale = float(scale)
        batch_shape = broadcast_shape(means.shape[:-4], mask_logits.shape[:-4])
        super().__init__(batch_shape, torch.Size((channels, height, width)), validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: SpatialGaussianMixture | None = None
    ) -> SpatialGaussianMixture:
        """The same mixture with a larger batch shape; nothing is copied."""
        batch_shape = torch.Size(batch_shape)
        return SpatialGaussianMixture(
            self.means.expand(batch_shape + self.means.shape[-4:]),
            self.mask_logits.expand(batch_shape + self.mask_logits.shape[-4:]),
            self.scale,
            validate_args=False,
        )

    @lazy_property
    def log_masks(self) -> Tensor:
        """Log mixing proportions log m, (..., K, H, W); the proportions sum to one over K."""
        return F.log_softmax(self.mask_logits.squeeze(-3), dim=-3)

    def component_log_prob(self, value: Tensor) -> Tensor:
        """log N(x_i; means_ki, scale² I_C) without the mixing proportions: (..., C, H, W) → (..., K, H, W)."""
        channels = self.event_shape[0]
        squares = (value.unsqueeze(-4) - self.means).square().sum(-3)
        log_normaliser = channels * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return squares * (-0.5 / self.scale**2) - log_normaliser

    def pixel_log_prob(self, value: Tensor) -> Tensor:
        """log p(x_i) of every pixel: (..., C, H, W) → (..., H, W)."""
        return torch.logsumexp(self.log_masks + self.component_log_prob(value), dim=-3)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) in nats: (..., C, H, W) → (...)."""
        if self._validate_args:
            self._validate_sample(value)
        return self.pixel_log_prob(value).sum((-2, -1))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw images (*sample_shape, ..., C, H, W). The slot of a pixel is discrete, so there is no gradient."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            log_masks = self.log_masks.expand(shape + self.log_masks.shape[-3:])
            slot = torch.distributions.Categorical(logits=log_masks.movedim(-3, -1)).sample()  # (..., H, W)
            means = self.means.expand(shape + self.means.shape[-4:])
            index = slot[..., None, None, :, :].expand(*shape, 1, *self.event_shape)
            return torch.normal(means.gather(-4, index).squeeze(-4), self.scale)

    @property
    def mean(self) -> Tensor:
        """E[x] = Σ_k m_k means_k, (..., C, H, W), which is the reconstruction."""
        return (self.log_masks.exp().unsqueeze(-3) * self.means).sum(-4)

    @property
    def variance(self) -> Tensor:
        """Var[x] per channel, (..., C, H, W): the noise plus the spread of the slots' means."""
        second_moment = (self.log_masks.exp().unsqueeze(-3) * self.means.square()).sum(-4)
        return second_moment - self.mean.square() + self.scale**2

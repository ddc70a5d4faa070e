"""Generative models of scenes, as Pyro programs."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_compvae.mixture import SpatialGaussianMixture
from pyro_compvae.networks import SpatialBroadcastDecoder


class SceneModel(PyroModule):
    r"""A scene is K exchangeable slots, decoded one by one and composed pixel by pixel.

        z_bk ~ N(0, I_D)                         k = 1..K         site "z", event (K, D)
        (μ_bk, a_bk) = decoder(z_bk)                               means in [0, 1], mask logits
        x_bi ~ Σ_k softmax_k(a_bi)_k N(μ_bki, σ² I_3)             site "x", event (3, H, W)   (paper, Eq. 1)

    σ is the same for all slots, so the joint is invariant under permutations of the slots. Scenes lie in the plate
    "scenes"; further sample dimensions (particles) go to the left of it. There are no factors in it, in train mode
    or out of it, and ``model(x)`` works with every Pyro inference algorithm.

    Args:
        decoder: maps z (..., K, D) to means (..., K, 3, H, W) and mask logits (..., K, 1, H, W).
        num_slots: K.
        scale: σ, the standard deviation of a colour channel.
    """

    decoder: SpatialBroadcastDecoder

    def __init__(self, decoder: SpatialBroadcastDecoder, num_slots: int, scale: float = 0.1) -> None:
        super().__init__()
        self.decoder = decoder
        self.num_slots = num_slots
        self.latent_dim = decoder.latent_dim
        self.image_size = decoder.image_size
        self.scale = scale

    def prior(self) -> dist.TorchDistribution:
        """p(z) of one scene: standard normal, event (K, D)."""
        zero = next(self.decoder.parameters()).new_zeros(self.num_slots, self.latent_dim)
        return dist.Normal(zero, torch.ones_like(zero)).to_event(2)

    def likelihood(self, z: Tensor) -> SpatialGaussianMixture:
        """p(x | z): slots (..., K, D) → images of batch shape (...)."""
        means, mask_logits = self.decoder(z)
        return SpatialGaussianMixture(means, mask_logits, self.scale)

    def forward(self, x: Tensor | None = None, num_scenes: int | None = None) -> Tensor:
        """Run the program on images x (B, 3, H, W), or, with x = None, simulate ``num_scenes`` of them.

        Raises:
            ValueError: if x is not a batch of images of the model's size.
        """
        if x is not None:
            check_images(x, self.image_size)
            num_scenes = len(x)
        if num_scenes is None:
            raise ValueError("expected images x, or num_scenes to simulate without them; got neither")
        with pyro.plate("scenes", num_scenes, dim=-1):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z), obs=x)


def check_images(x: Tensor, image_size: tuple[int, int]) -> None:
    """Refuse what is not a batch of colour images of this size.

    Raises:
        ValueError: unless x is floating point of shape (B, 3, H, W).
    """
    if x.shape[1:] != (3, *image_size) or len(x) == 0 or not x.is_floating_point():
        raise ValueError(
            f"x: expected images (B, 3, {image_size[0]}, {image_size[1]}) of floating point in [0, 1], "
            f"got {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
        )

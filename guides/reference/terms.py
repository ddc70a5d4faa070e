"""The parts of all three losses: the decoder, and the densities of pixels and slots."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_compvae.decoder import SpatialBroadcastDecoder
from pyro_compvae.errors import ArgumentError
from pyro_compvae.guide import SceneGuide


def decode(decoder: SpatialBroadcastDecoder, z: Tensor) -> tuple[Tensor, Tensor]:
    """Means (B, K, 3, H, W) and mask logits (B, K, 1, H, W), with z (B, K, D) broadcast over the whole image."""
    B, K, D = z.shape
    H, W = decoder.first.image_size
    conv = decoder.first.conv
    canvas = z.reshape(B * K, D, 1, 1).expand(-1, -1, H, W)
    coordinates = decoder.first.coordinates.expand(B * K, -1, -1, -1)
    out = decoder.last(sequential(decoder.hidden, conv(torch.cat((canvas, coordinates), dim=1))))
    out = F.pixel_shuffle(out, decoder.upsample).view(B, K, 4, *decoder.image_size)
    return torch.sigmoid(out[:, :, :3]), out[:, :, 3:]


def sequential(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Apply the layers in turn, with no activation in place."""
    for layer in layers:
        x = type(layer)()(x) if isinstance(layer, nn.ELU | nn.ReLU) else layer(x)
    return x


def log_components(x: Tensor, means: Tensor, sigma: float) -> Tensor:
    """log N(x_i; means_ki, σ² I) of every pixel and slot, (B, K, H, W)."""
    squares = ((x[:, None] - means) / sigma) ** 2
    return (-0.5 * squares - math.log(sigma * math.sqrt(2 * math.pi))).sum(2)


def prior_kl(mean: Tensor, scale: Tensor) -> Tensor:
    """Σ_b KL(N(mean, scale²) ‖ N(0, I))."""
    return 0.5 * (mean**2 + scale**2 - 1 - 2 * torch.log(scale)).sum()


def lnms(guide: SceneGuide, z: Tensor) -> Tensor:
    """s Σ_b Σ_{h≠j} log N(cos(z_h, z_j); 0, σ_c²).

    Raises:
        ArgumentError: for a guide with another form of L-NMS than the paper's.
    """
    if guide.lnms_form != "sum":
        raise ArgumentError(f"lnms_form: expected sum, the paper's, got {guide.lnms_form}")
    K, sigma = z.shape[1], guide.lnms_scale
    total = z.new_zeros(())
    for h in range(K):
        for j in range(K):
            if h != j:
                cosine = F.cosine_similarity(z[:, h], z[:, j], dim=-1)
                total = total + (-0.5 * (cosine / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))).sum()
    return guide.lnms_strength * total

"""Layer normalisation of the refinement network's inputs, in the forms of the published codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_compvae.architectures import LayerNorm

EPSILON = 1e-5
"""What the published codes add to a variance, or to a standard deviation, before they divide by it."""


def normalise_images(inputs: Tensor, layer_norm: LayerNorm) -> Tensor:
    """Normalise over channels and pixels: (..., C, H, W) → (..., C, H, W)."""
    if layer_norm != "mulmon":
        return F.layer_norm(inputs, inputs.shape[-3:])
    dims = (-3, -2, -1)
    return _standardise(inputs, dims, correction=0)


def normalise_gradient(mean: Tensor, raw_scale: Tensor, layer_norm: LayerNorm) -> Tensor:
    """Normalise d ELBO/dλ, the halves (B, K, D) side by side: (B, K, 2 D)."""
    if layer_norm == "split":
        return torch.cat([F.layer_norm(half, half.shape[-1:]) for half in (mean, raw_scale)], dim=-1)
    both = torch.cat((mean, raw_scale), dim=-1)
    if layer_norm == "joint":
        return F.layer_norm(both, both.shape[-1:])
    return _standardise(both, (-1,), correction=1)


def _standardise(inputs: Tensor, dims: tuple[int, ...], correction: int) -> Tensor:
    deviation, mean = torch.std_mean(inputs, dims, correction=correction, keepdim=True)
    return (inputs - mean) / (deviation + EPSILON)

"""Layer normalisation of what the refinement network sees, in the forms that the published codes have."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LayerNorm = Literal["joint", "mulmon", "split"]
"""How inputs are brought to zero mean and unit variance; none of them has a learned scale and shift.

"joint": (v − mean) / √(variance + 1e-5), the gradient with respect to λ as one vector of 2 D, as in DeepMind's IODINE
    (Sonnet's layer normalisation).
"mulmon": (v − mean) / (standard deviation + 1e-5), λ's gradient likewise as one vector, by Bessel's formula for the
    standard deviation, as in MulMON's code. Gradients of slots that hold little of the image, whose variance is no
    larger than 1e-5, keep their size; under "joint" they shrink.
"split": as "joint", but the gradients of mean and raw scale each on their own. The presets sized for two CPU cores have
    it, so that λ's two halves are seen alike, whichever is the steeper.
"""

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

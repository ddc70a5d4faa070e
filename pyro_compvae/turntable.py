"""Latents that turn with a scene under cameras that look at it from all around.

MulMON learns how a camera changes the latents of a slot. Here it is known: half of the latents are coordinates on the
ground, which turn about the vertical axis, and the other half is the same from everywhere. Nothing is learned of
cameras, so that objects can be placed before geometry is known; this is ours, not the paper's.
"""

from __future__ import annotations

import torch
from torch import Tensor


def turn(z: Tensor, viewpoint: Tensor, back: bool = False) -> Tensor:
    """Turn latents into the frame of cameras, or back.

    The first D // 2 latents are pairs, x in their first half and y in their second, and turn by the camera's azimuth.

    Args:
        z: slots (..., K, D), where D is a multiple of 4.
        viewpoint: (..., 3), the camera's direction as seen from above minus (1, 0, 0), which is MulMON's format.
        back: whether to turn from the cameras' frame into that of the scene.

    Returns:
        (..., K, D), with the batch shapes broadcast.
    """
    cos, sin = _direction(viewpoint)
    if back:
        sin = -sin
    x, y, rest = _parts(z)
    x, y = cos * x + sin * y, cos * y - sin * x
    return torch.cat((x, y, rest.expand(*x.shape[:-1], -1)), dim=-1)


def turn_variances(values: Tensor, viewpoint: Tensor) -> Tensor:
    """What `turn` makes of the variances of independent latents, (..., K, D): pairs are mixed by cos² and sin².

    It is its own transpose, so that gradients turn back in the same way.
    """
    cos, _ = _direction(viewpoint)
    own = cos.square()
    x, y, rest = _parts(values)
    x, y = own * x + (1 - own) * y, own * y + (1 - own) * x
    return torch.cat((x, y, rest.expand(*x.shape[:-1], -1)), dim=-1)


def _direction(viewpoint: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the azimuth, (..., 1, 1) each; noise may have changed the vector's length."""
    cos, sin = viewpoint[..., None, None, 0] + 1, viewpoint[..., None, None, 1]
    length = torch.hypot(cos, sin)
    return cos / length, sin / length


def _parts(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The coordinates x and y, (..., K, D // 4) each, and the latents that do not turn."""
    quarter = z.shape[-1] // 4
    x, y, rest = z.split((quarter, quarter, z.shape[-1] - 2 * quarter), dim=-1)
    return x, y, rest

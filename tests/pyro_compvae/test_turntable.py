"""Latents that turn with the camera, against rotation matrices and samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_compvae import DecoderConfig, MultiViewSceneModel, SpatialBroadcastDecoder
from pyro_compvae.turntable import turn, turn_variances

K, D = 3, 9


def viewpoint(azimuth: Tensor) -> Tensor:
    """In MulMON's format: the camera's direction as seen from above, minus (1, 0, 0)."""
    return torch.stack((azimuth.cos() - 1, azimuth.sin(), torch.zeros_like(azimuth)), dim=-1)


def rotation(azimuth: float) -> Tensor:
    """Pairs (0, 2) and (1, 3) of nine latents turn."""
    matrix = torch.eye(D, dtype=torch.float64)
    for i, j in ((0, 2), (1, 3)):
        matrix[i, i] = matrix[j, j] = math.cos(azimuth)
        matrix[i, j], matrix[j, i] = math.sin(azimuth), -math.sin(azimuth)
    return matrix


@pytest.mark.parametrize("azimuth", [0.0, 0.6, math.pi / 2, 3.0, -2.0])
def test_pairs_turn_by_the_azimuth(azimuth: float) -> None:
    z = torch.randn(4, K, D, dtype=torch.float64)
    camera = viewpoint(torch.full((4,), azimuth, dtype=torch.float64))
    turned = turn(z, camera)
    torch.testing.assert_close(turned, z @ rotation(azimuth).T)
    torch.testing.assert_close(turn(turned, camera, back=True), z)
    torch.testing.assert_close(turn(z, torch.cat((1.3 * (camera[:, :1] + 1) - 1, 1.3 * camera[:, 1:]), dim=1)), turned)
    variances = z.exp()
    expected = torch.stack(
        [(rotation(azimuth) @ v.diag_embed() @ rotation(azimuth).T).diagonal(0, -2, -1) for v in variances]
    )
    torch.testing.assert_close(turn_variances(variances, camera), expected)


def test_views_and_particles_broadcast() -> None:
    z, cameras = torch.randn(5, 1, 2, K, D), viewpoint(torch.rand(4, 2))
    turned = turn(z, cameras)
    assert turned.shape == (5, 4, 2, K, D)
    torch.testing.assert_close(turned[3, 1], turn(z[3, 0], cameras[1]))
    assert turn_variances(z.exp(), cameras).shape == turned.shape


def test_a_scene_that_turns_with_its_camera_looks_the_same() -> None:
    model = MultiViewSceneModel(
        SpatialBroadcastDecoder(8, (6, 6), DecoderConfig(channels=(4,))), K, turntable=True
    ).eval()
    assert not {"view_encoder", "projector"} & {name for name, _ in model.named_children()}
    z, angle, by = torch.randn(1, K, 8), torch.tensor([0.4]), torch.tensor([1.1])
    here = model.likelihood(z, viewpoint(angle)).mean
    there = model.likelihood(turn(z, viewpoint(by), back=True), viewpoint(angle + by)).mean
    torch.testing.assert_close(here, there)
    assert not torch.allclose(here, model.likelihood(z, viewpoint(angle + by)).mean)


def test_too_few_latents_are_refused() -> None:
    decoder = SpatialBroadcastDecoder(3, (6, 6), DecoderConfig(channels=(4,)))
    with pytest.raises(ValueError, match="latent_dim: expected at least 4 for latents that turn, got 3"):
        MultiViewSceneModel(decoder, K, turntable=True)

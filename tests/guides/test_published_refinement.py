"""One update of λ by the refinement networks of the `paper` presets, against the publications' layers written out.

Counting parameters cannot detect an extra activation, so values are compared. There is one after every layer but the
last dense one, in MulMON's published code and in DeepMind's code for IODINE.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_compvae.guides import build_guide
from pyro_compvae.guides.gaussian import Gaussian
from pyro_compvae.guides.refinement.evaluation import SLOT_CHANNELS, RefinementInputs
from pyro_compvae.guides.refinement.guide import RefinementGuide
from pyro_compvae.runs.presets import preset

B, K, D, SIZE = 2, 7, 16, 64


def standardise(values: Tensor, name: str) -> Tensor:
    """λ's gradient as one vector: Sonnet's layer normalisation, or MulMON's."""
    centred = values - values.mean(-1, keepdim=True)
    if name == "iodine":
        return centred / torch.sqrt(values.var(-1, correction=0, keepdim=True) + 1e-5)
    return centred / (values.std(-1, keepdim=True) + 1e-5)


@pytest.mark.parametrize("name", ["iodine", "mulmon"])
def test_an_update_is_the_published_one(name: Any) -> None:
    guide = build_guide(preset("paper", name)).double()
    assert isinstance(guide, RefinementGuide)
    network = guide.network
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    image, slots = noise(B, 4, SIZE, SIZE), noise(B, K, SLOT_CHANNELS, SIZE, SIZE)
    mean, raw_scale, mean_gradient, scale_gradient = (0.1 * noise(B, K, D) for _ in range(4))
    h, c = noise(B * K, network.update.in_features), noise(B * K, network.update.in_features)

    act, padding = (F.elu, 1) if name == "iodine" else (F.relu, 0)
    shared = torch.cat((image, network.coordinates.expand(B, -1, -1, -1)), dim=1)
    features = torch.cat((shared[:, None].expand(-1, K, -1, -1, -1), slots), dim=2).flatten(0, 1)
    kernel = torch.cat((network.image_conv.weight, network.slot_conv.weight), dim=1)
    features = act(F.conv2d(features, kernel, network.image_conv.bias, stride=2, padding=padding))
    convs = [layer for layer in network.convs if isinstance(layer, nn.Conv2d)]
    assert len(convs) == 3
    for conv in convs:
        features = act(F.conv2d(features, conv.weight, conv.bias, stride=2, padding=padding))
    features = features.mean((2, 3)) if name == "iodine" else features.flatten(1)
    first, second = [layer for layer in network.mlp if isinstance(layer, nn.Linear)]
    features = second(act(first(features)))  # with nothing after it
    gradient = standardise(torch.cat((mean_gradient, scale_gradient), dim=2), name)
    flat = torch.cat((mean, raw_scale, gradient), dim=2).flatten(0, 1)
    assert network.lstm is not None
    hidden, cell = network.lstm(torch.cat((features, flat), dim=1), (h, c))
    step = network.update(hidden).view(B, K, 2 * D)

    inputs = RefinementInputs(image, slots)
    found, state = network(inputs, Gaussian(mean, raw_scale), Gaussian(mean_gradient, scale_gradient), (h, c))
    assert (step.abs() > 1e-3).any()
    torch.testing.assert_close(found.mean, mean + step[..., :D], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.raw_scale, raw_scale + step[..., D:], rtol=1e-9, atol=1e-12)
    assert state is not None
    torch.testing.assert_close(state, (hidden, cell), rtol=1e-9, atol=1e-12)
    assert (features < 0).any(), "an activation would have passed unseen"

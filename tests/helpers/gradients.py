"""Comparison of two losses of one guide by value and all gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_compvae.guide import SceneGuide


def gradients(loss: Tensor, guide: SceneGuide) -> dict[str, Tensor]:
    """The gradient of every trainable parameter, by name."""
    names, parameters = zip(*[(name, p) for name, p in guide.named_parameters() if p.requires_grad], strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def assert_same_loss_and_gradients(loss: Tensor, expected: Tensor, guide: SceneGuide) -> None:
    """Assert equality to nine digits, in float64; a parameter without any gradient would prove nothing."""
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    wanted = gradients(expected, guide)
    for name, gradient in gradients(loss, guide).items():
        scale = wanted[name].abs().max()
        assert scale > 0, f"{name} gets no gradient, so the comparison would prove nothing"
        torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=1e-9 * float(scale), msg=name)

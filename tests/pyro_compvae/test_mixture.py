"""The spatial Gaussian mixture against brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_compvae import SpatialGaussianMixture

K, C, H, W = 3, 3, 4, 5


def make(batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float64, scale: float = 0.1) -> SpatialGaussianMixture:
    means = torch.rand(*batch, K, C, H, W, dtype=dtype)
    return SpatialGaussianMixture(means, torch.randn(*batch, K, 1, H, W, dtype=dtype) * 2, scale)


def test_log_prob_is_one_component_per_pixel_shared_by_its_channels() -> None:
    mixture, x = make(), torch.rand(C, H, W, dtype=torch.float64)
    total = 0.0
    for i in range(H):
        for j in range(W):
            mask = mixture.mask_logits[:, 0, i, j].exp() / mixture.mask_logits[:, 0, i, j].exp().sum()
            density = 0.0
            for k in range(K):
                squares = ((x[:, i, j] - mixture.means[k, :, i, j]) / 0.1) ** 2
                density += float(mask[k]) * math.exp(-0.5 * float(squares.sum())) / (0.1 * math.sqrt(2 * math.pi)) ** C
            total += math.log(density)
    torch.testing.assert_close(float(mixture.log_prob(x)), total, rtol=1e-12, atol=0)


def test_density_integrates_to_one() -> None:
    """The integral is computed by brute force for an image of one channel and one pixel."""
    means = torch.tensor([0.2, 0.9], dtype=torch.float64).reshape(2, 1, 1, 1)
    logits = torch.tensor([0.3, -1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    grid = torch.linspace(-2, 3, 20_001, dtype=torch.float64)
    density = SpatialGaussianMixture(means, logits, 0.1).log_prob(grid.reshape(-1, 1, 1, 1)).exp()
    torch.testing.assert_close(float(torch.trapezoid(density, grid)), 1.0, rtol=1e-9, atol=0)


@pytest.mark.parametrize("batch", [(), (2,), (5, 2)])
def test_shapes_and_broadcasting(batch: tuple[int, ...]) -> None:
    mixture = make(batch)
    assert mixture.batch_shape == batch
    assert mixture.event_shape == (C, H, W)
    assert mixture.log_prob(torch.rand(C, H, W, dtype=torch.float64)).shape == batch
    assert mixture.sample((7,)).shape == (7, *batch, C, H, W)
    assert mixture.component_log_prob(mixture.mean).shape == (*batch, K, H, W)
    expanded = mixture.expand((6, *batch))
    x = expanded.sample()
    assert x.shape == (6, *batch, C, H, W)
    torch.testing.assert_close(expanded.log_prob(x)[4], mixture.log_prob(x[4]))


def test_masks_sum_to_one() -> None:
    log_masks = make((2,)).log_masks
    torch.testing.assert_close(torch.logsumexp(log_masks, dim=-3), torch.zeros(2, H, W, dtype=torch.float64))


def test_samples_have_the_stated_moments_and_share_the_slot_between_channels() -> None:
    n = 20_000
    mixture = make()
    x = mixture.sample((n,))
    error = (x.mean(0) - mixture.mean).abs() / (mixture.variance / n).sqrt()
    assert error.max() < 5, "standard errors"
    ratio = x.var(0) / mixture.variance
    assert (ratio - 1).abs().max() < 0.1
    # Channels co-vary through the slot: Cov = Σ m μ_a μ_b − E_a E_b.
    masks = mixture.log_masks.exp()
    expected = (masks * mixture.means[:, 0] * mixture.means[:, 1]).sum(0) - mixture.mean[0] * mixture.mean[1]
    assert expected.abs().max() > 0.03, "the premise: slots differ in both channels"
    covariance = ((x[:, 0] - x[:, 0].mean(0)) * (x[:, 1] - x[:, 1].mean(0))).mean(0)
    torch.testing.assert_close(covariance, expected, rtol=0, atol=0.006)


def test_float32_is_stable_far_from_the_data() -> None:
    """With masks of e^-200 and colours 60 standard deviations away, values and gradients are finite and accurate."""
    means = torch.rand(K, C, H, W) * 0.1 + 6
    logits = torch.zeros(K, 1, H, W)
    logits[0] = 200.0
    leaves = [means.requires_grad_(), logits.requires_grad_()]
    x = torch.rand(C, H, W) * 0.1
    log_prob = SpatialGaussianMixture(*leaves, 0.1).log_prob(x)
    gradients = torch.autograd.grad(log_prob, leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)
    precise = SpatialGaussianMixture(means.detach().double(), logits.detach().double(), 0.1).log_prob(x.double())
    torch.testing.assert_close(log_prob.double(), precise, rtol=1e-5, atol=0)


def test_gradients_are_exact() -> None:
    means, logits = torch.rand(2, C, 2, 2, dtype=torch.float64), torch.randn(2, 1, 2, 2, dtype=torch.float64)
    x = torch.rand(C, 2, 2, dtype=torch.float64)

    def log_prob(means: Tensor, logits: Tensor) -> Tensor:
        return SpatialGaussianMixture(means, logits, 0.3).log_prob(x)

    assert torch.autograd.gradcheck(log_prob, (means.requires_grad_(), logits.requires_grad_()))


def test_wrong_arguments_are_named() -> None:
    means = torch.zeros(K, C, H, W)
    with pytest.raises(ValueError, match=r"mask_logits: expected shape \(\.\.\., 3, 1, 4, 5\) .* got \(3, 4, 5, 1\)"):
        SpatialGaussianMixture(means, torch.zeros(K, H, W, 1), 0.1)
    with pytest.raises(ValueError, match=r"expected means \(\.\.\., K, C, H, W\).* got \(3, 4, 5\)"):
        SpatialGaussianMixture(torch.zeros(3, 4, 5), torch.zeros(K, 1, H, W), 0.1)
    with pytest.raises(ValueError, match="scale: expected a positive standard deviation, got 0"):
        SpatialGaussianMixture(means, torch.zeros(K, 1, H, W), 0.0)

"""Posterior-predictive checks against closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae import (
    DecoderConfig,
    MultiViewSceneModel,
    SceneModel,
    SpatialBroadcastDecoder,
    SpatialGaussianMixture,
)
from pyro_compvae.analysis.posterior.draws import Draws
from pyro_compvae.analysis.posterior.predictive_checks import channel_cdf, checks_table, join_sources, predictive_checks

SIZE = 8


class GreyDecoder(SpatialBroadcastDecoder):
    """Every slot is as grey as its first latent, and claims the image as much as the others."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        batch = z.shape[:-1]
        return z[..., :1, None, None].expand(*batch, 3, SIZE, SIZE), torch.zeros(*batch, 1, SIZE, SIZE)


def grey_model(num_slots: int = 1) -> SceneModel:
    return SceneModel(GreyDecoder(1, (SIZE, SIZE), DecoderConfig(channels=(2,))), num_slots, scale=0.1).eval()


def test_the_distribution_function_is_that_of_samples() -> None:
    mixture = SpatialGaussianMixture(torch.rand(3, 3, 4, 4), torch.randn(3, 1, 4, 4), 0.1)
    x = torch.rand(3, 4, 4)
    samples = mixture.expand([20_000]).sample()
    shares = (samples <= x).double().mean(0)
    assert float((channel_cdf(mixture, x) - shares).abs().max()) < 5 * 0.5 / math.sqrt(20_000)


def test_numbers_are_those_of_the_predictive_distribution_in_closed_form() -> None:
    # One slot, z ~ N(m, s²), x' ~ N(z, 0.1²): x' is N(m, s² + 0.1²) in every pixel.
    m, s = 0.4, 0.2
    z = m + s * torch.randn(2, 4000, 1, 1, 1)
    x = torch.rand(1, 3, SIZE, SIZE)
    checks = predictive_checks(grey_model(), Draws(z, "guide"), x)
    deviation = math.sqrt(s**2 + 0.01)
    error = 5 * deviation / math.sqrt(8000)
    np.testing.assert_allclose(checks["residual"][0], x - m, atol=error)
    np.testing.assert_allclose(checks["standard_deviation"], deviation, rtol=0.05)
    np.testing.assert_allclose(checks["pit"][0], Normal(m, deviation).cdf(x), atol=0.03)
    assert checks["pit"].dims == ("source", "scene", "channel", "y", "x")


def test_images_of_the_model_itself_have_uniform_pits() -> None:
    z = torch.full((1, 5, 40, 2, 1), 0.5)
    z[..., 1, :] = 0.9
    model = grey_model(num_slots=2)
    with torch.no_grad():
        images = model.likelihood(z[0, 0]).sample()
    checks = predictive_checks(model, Draws(z, "guide"), images)
    # Pixels choose their slots independently, but the channels of a pixel together, so only one channel is compared.
    for name in ("pit", "pit_replicated"):
        assert kstest(checks[name].isel(channel=0).values.ravel(), "uniform").pvalue > 1e-3
    wrong = predictive_checks(model, Draws(z - 0.1, "guide"), images)
    assert kstest(wrong["pit"].isel(channel=0).values.ravel(), "uniform").pvalue < 1e-6
    table = checks_table(join_sources([checks, wrong.assign_coords(source=["importance"])]))
    assert [line.split(":")[0] for line in table.splitlines()] == [
        "predictive checks, guide",
        "predictive checks, importance",
    ]


def test_views_are_checked_each_from_its_viewpoint() -> None:
    model = MultiViewSceneModel(GreyDecoder(1, (SIZE, SIZE), DecoderConfig(channels=(2,))), 2).eval()
    x, viewpoints, z = torch.rand(3, 4, 3, SIZE, SIZE), torch.randn(3, 4, 3), torch.randn(1, 1, 3, 2, 1)
    checks = predictive_checks(model, Draws(z, "guide"), x, viewpoints)
    assert checks["pit"].dims == ("source", "scene", "view", "channel", "y", "x")
    with torch.no_grad():
        mixture = model.likelihood(z[0, 0, 1:2], viewpoints[1, 2:3])
    np.testing.assert_allclose(checks["pit"][0, 1, 2], channel_cdf(mixture, x[1, 2])[0], atol=1e-5)
    assert float(checks["residual"][0, 1, 2, 0, 0, 0]) == pytest.approx(
        float(x[1, 2, 0, 0, 0] - mixture.mean[0, 0, 0, 0])
    )

"""NUTS on a model whose posterior is known."""

from __future__ import annotations

import arviz
import numpy as np
import pytest
import torch
import xarray
from helpers.slot_models import FactorisedGuide, LinearGaussian, SlotMixture
from torch import Tensor

from pyro_compvae.analysis.posterior.draws import Draws
from pyro_compvae.analysis.posterior.nuts import NutsConfig, nuts_draws
from pyro_compvae.analysis.posterior.slot_alignment import align_slots
from pyro_compvae.evidence import FitConfig, fit_gaussian
from pyro_compvae.evidence.density import LogJoint


def rhat(z: Tensor) -> float:
    """The largest R-hat of draws (C, N, ...)."""
    dims = ("chain", "draw", "scene", "slot", "latent")
    return float(arviz.rhat(xarray.Dataset({"z": (dims, z.numpy())}))["z"].max())


@pytest.mark.parametrize("fitted", [pytest.param(False, marks=pytest.mark.slow), True])
def test_draws_have_the_moments_of_the_posterior(fitted: bool) -> None:
    model = LinearGaussian(2, 2, scale=0.5)
    x = model.simulate(1)
    log_joint, q = LogJoint(model, x), FactorisedGuide(model).posterior(x)
    fit = fit_gaussian(log_joint, q, "full", FitConfig(steps=40)) if fitted else None
    steps = []
    draws = nuts_draws(log_joint, q, NutsConfig(250, 2, 60), fit, lambda chain, step: steps.append((chain, step)))
    assert draws.z.shape == (2, 250, 1, 2, 2)
    assert steps == [(chain, step) for chain in range(2) for step in range(310)]
    assert int(draws.of_draws["diverging"].sum()) == 0
    exact = model.posterior(x)
    # The data determine the sum of the slots well, and their difference not at all.
    sums, difference = draws.z[..., 0, 0, :] + draws.z[..., 0, 1, :], draws.z[..., 0, 0, :] - draws.z[..., 0, 1, :]
    mean, covariance = exact.mean.view(2, 2).sum(0), exact.covariance_matrix[0].view(2, 2, 2, 2)
    for found, centre, sign in ((sums, mean, 1), (difference, torch.zeros(2), -1)):
        spread = covariance[0, :, 0] + covariance[1, :, 1] + sign * (covariance[0, :, 1] + covariance[1, :, 0])
        deviation = spread.diagonal().sqrt()
        error = 5 * deviation / np.sqrt(150)  # an effective sample size below that of 500 independent draws
        assert bool(((found.flatten(0, 1).mean(0) - centre).abs() < error).all())
        np.testing.assert_allclose(found.flatten(0, 1).std(0), deviation, rtol=0.25)


@pytest.mark.slow
def test_chains_start_in_other_orders_and_agree_once_aligned() -> None:
    model = SlotMixture(3, scale=0.1)
    x = model.simulate(1)
    q = FactorisedGuide(model, widening=1.5).posterior(x)
    draws = nuts_draws(LogJoint(model, x), q, NutsConfig(num_draws=100, num_chains=4, warmup_steps=60))
    assert rhat(draws.z) > 2, "every chain in a mode of its own"
    aligned, _ = align_slots(draws.z.flatten(0, 1), q)
    aligned = aligned.unflatten(0, (4, 100))
    assert rhat(aligned) < 1.1
    exact = model.mode(x)
    pooled = aligned.flatten(0, 1)
    np.testing.assert_allclose(pooled.mean(0), exact.loc, atol=5 * float(exact.scale.max()) / np.sqrt(100))
    np.testing.assert_allclose(pooled.std(0), exact.scale.expand_as(exact.loc), rtol=0.3)


def test_bad_input_is_told_in_words() -> None:
    model = LinearGaussian(2, 1)
    one, two = model.simulate(1), model.simulate(2)
    guide = FactorisedGuide(model)

    def draw(x: Tensor, **options: object) -> Draws:
        return nuts_draws(LogJoint(model, x), guide.posterior(x), **options)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="log_joint: expected a single scene, got 2"):
        draw(two)
    with pytest.raises(ValueError, match="warmup_steps: expected at least 1, got 0"):
        NutsConfig(warmup_steps=0)
    block = fit_gaussian(LogJoint(model, one), guide.posterior(one), "block", FitConfig(steps=1))
    with pytest.raises(ValueError, match="fit: expected one of family 'full' to one scene"):
        draw(one, fit=block)

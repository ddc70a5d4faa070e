"""Draws from the guide and by importance, on models whose posterior is known."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.slot_models import FactorisedGuide, LinearGaussian, SlotMixture
from torch.distributions import Normal

from pyro_compvae.analysis.posterior.draws import guide_draws, importance_draws, resample, weighted_draws
from pyro_compvae.evidence import AnnealingConfig, annealed
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.proposals.symmetric import normal_proposal


def test_guide_draws_are_weighed_by_the_symmetrised_guide() -> None:
    model = SlotMixture(3, scale=0.1)
    x = model.simulate(2)
    guide = FactorisedGuide(model)
    draws = guide_draws(LogJoint(model, x), guide.posterior(x), num_draws=50, num_chains=3)
    assert draws.z.shape == (3, 50, 2, 3, 1)
    assert draws.of_draws["log_weight"].shape == (3, 50, 2)
    # The guide is exactly one of the modes: all weights are p(x), up to nearly impossible assignments of pixels.
    evidence = draws.of_draws["log_weight"].flatten(0, 1).logsumexp(0) - math.log(150)
    torch.testing.assert_close(evidence, model.log_evidence(x), atol=1e-6, rtol=0)


def test_importance_draws_have_the_moments_of_the_posterior() -> None:
    model = LinearGaussian(2, 1, scale=0.7)
    x = model.simulate(1)
    exact = model.posterior(x)
    q = FactorisedGuide(model, widening=1.3).posterior(x)
    draws = importance_draws(*weighted_draws(LogJoint(model, x), normal_proposal(q), 40_000), num_draws=4000)
    assert draws.source == "importance"
    assert float(draws.of_scenes["khat"]) < 0.5
    # All slots have the same marginal, so their order, which the posterior does not determine, does not matter.
    sums = draws.z.flatten(0, 1).squeeze(1).sum((-2, -1))
    variance = float(exact.covariance_matrix.sum())
    error = math.sqrt(variance / float(draws.of_scenes["ess"])) + math.sqrt(variance / 16_000)
    assert abs(float(sums.mean() - exact.mean.sum())) < 4 * error
    assert float(sums.var()) == pytest.approx(variance, rel=0.1)
    unweighted = float((q.scale**2).sum())
    assert unweighted > 1.2 * variance, "the proposal's own draws would fail"


def test_resampling_follows_the_weights() -> None:
    z = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 2, 1, 1)
    log_weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]).log().T
    kept, weights = resample(z, log_weights, 20_000)
    for b in range(2):
        shares = torch.bincount(kept[:, b, 0, 0].long(), minlength=4) / 20_000
        torch.testing.assert_close(shares, log_weights[:, b].exp(), atol=4 * 0.5 / math.sqrt(20_000), rtol=0)
    torch.testing.assert_close(weights, log_weights.gather(0, kept[..., 0, 0].long()))


def test_counts_below_one_are_named() -> None:
    model = LinearGaussian(2, 1)
    x = model.simulate(1)
    log_joint, q = LogJoint(model, x), Normal(torch.zeros(1, 2, 1), 1.0)
    with pytest.raises(ValueError, match="num_draws: expected at least 1, got 0"):
        guide_draws(log_joint, q, 0)
    with pytest.raises(ValueError, match="num_chains: expected at least 1, got 0"):
        importance_draws(*weighted_draws(log_joint, normal_proposal(q), 3), num_draws=10, num_chains=0)


def test_ends_of_annealed_chains_have_the_moments_of_the_posterior() -> None:
    model = LinearGaussian(2, 1, scale=0.7)
    x = model.simulate(1)
    log_joint = LogJoint(model, x)
    start = normal_proposal(FactorisedGuide(model, widening=1.5).posterior(x))
    config = AnnealingConfig(num_chains=4000, num_temperatures=4, leapfrog_steps=3, chunk_size=4000)
    chains = annealed(log_joint, start, config)
    draws = importance_draws(chains.z, chains.log_weights, num_draws=2000)
    exact = model.posterior(x)
    sums = draws.z.flatten(0, 1).squeeze(1).sum((-2, -1))
    variance = float(exact.covariance_matrix.sum())
    error = math.sqrt(variance / float(draws.of_scenes["ess"])) + math.sqrt(variance / 8000)
    assert abs(float(sums.mean() - exact.mean.sum())) < 4 * error
    assert float(sums.var()) == pytest.approx(variance, rel=0.15)

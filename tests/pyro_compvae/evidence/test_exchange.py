"""Models whose slots are not exchangeable, which q̄ must not weigh."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers.slot_models import FixedGuide, linear_gaussian
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.evidence import (
    AnnealingConfig,
    LogJoint,
    RefinedConfig,
    TraceError,
    annealed,
    annealed_log_evidence,
    bidirectional_log_evidence,
    importance_log_evidence,
    normal_proposal,
    plain_and_symmetric_log_evidence,
    proposal_log_evidence,
    refined_log_evidence,
    standard_normal_proposal,
)
from pyro_compvae.evidence.exchange import shuffles

X = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)
GUIDE = FixedGuide(0.3 * X[:, None, None].expand(3, 3, 1), torch.full((3, 3, 1), 0.9).double()).eval()
TRUTH = Normal(0.0, 2.5**0.5).log_prob(X)


def unequal(x: Tensor) -> None:
    """x_b ~ N(z_1 + z_2 + z_3 / 2, 1/2²), so that x_b ~ N(0, 2.5): the first two slots alone are exchangeable."""
    with pyro.plate("scenes", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(3, 1).double(), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z.squeeze(-1) @ WEIGHTS, 0.5), obs=x)


def test_slots_that_are_not_exchangeable_are_refused_by_every_estimator_that_symmetrises() -> None:
    log_joint, q = LogJoint(unequal, X), normal_proposal(GUIDE.posterior(X))
    effort = RefinedConfig(fit_steps=1, cover_steps=1, num_chains=2, num_temperatures=1)
    for call in (
        lambda: importance_log_evidence(unequal, GUIDE, X, num_samples=10),
        lambda: proposal_log_evidence(log_joint, q, 10),
        lambda: plain_and_symmetric_log_evidence(log_joint, q, 10),
        lambda: annealed(log_joint, q, AnnealingConfig(num_chains=2, num_temperatures=1)),
        lambda: annealed_log_evidence(unequal, GUIDE, X, config=AnnealingConfig(num_chains=2, num_temperatures=1)),
        lambda: refined_log_evidence(unequal, GUIDE, X, config=effort),
        lambda: bidirectional_log_evidence(
            log_joint, standard_normal_proposal(3, 3, 1), torch.zeros(3, 3, 1), AnnealingConfig(num_temperatures=1)
        ),
    ):
        with pytest.raises(TraceError, match=r"model: expected exchangeable slots, got .* order \[.*symmetrise=False"):
            call()


def test_without_symmetrisation_and_from_the_prior_they_are_right() -> None:
    plain = importance_log_evidence(unequal, GUIDE, X, num_samples=4000, chunk_size=1000, symmetrise=False)
    prior = proposal_log_evidence(LogJoint(unequal, X), standard_normal_proposal(3, 3, 1), 4000, 1000)
    for estimate in (plain, prior):
        assert (estimate.standard_error < 0.05).all()
        assert ((estimate.log_evidence - TRUTH).abs() < 4 * estimate.standard_error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_fault(dtype: torch.dtype) -> None:
    model, x = linear_gaussian(5, dtype)
    LogJoint(model, 100 * x).check_exchangeable()


def test_every_scene_has_another_order_of_its_slots() -> None:
    for K in (2, 3, 7):
        order = shuffles(50, K)
        assert torch.equal(order.sort(1).values, torch.arange(K).expand(50, K))
        assert not (order == torch.arange(K)).all(1).any()
    assert len(shuffles(50, 3).unique(dim=0)) == 5

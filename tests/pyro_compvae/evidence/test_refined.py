"""The refined estimate on models whose log p(x) is known: slot models, and Pyro programs of other kinds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers.slot_models import FactorisedGuide, LinearGaussian, SlotMixture
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence import (
    EvidenceEstimate,
    LogJoint,
    RefinedConfig,
    TraceError,
    UnconstrainedLogJoint,
    annealed_from,
    fit_and_cover,
    importance_log_evidence,
    normal_proposal,
    proposal_log_evidence,
    refined_log_evidence,
    refined_proposal_log_evidence,
)

B = 3
QUICK = RefinedConfig(
    fit_steps=80, cover_steps=20, cover_samples=64, num_chains=100, num_temperatures=5, leapfrog_steps=3, chunk_size=100
)


def assert_right(estimate: EvidenceEstimate, truth: Tensor) -> None:
    """Assert an estimate within 4 of its own standard errors, which must be small and come from enough chains."""
    assert (estimate.ess > 40).all(), estimate.ess
    assert (estimate.standard_error < 0.1).all(), estimate.standard_error
    error = (estimate.log_evidence - truth).abs()
    assert (error < 4 * estimate.standard_error).all(), error / estimate.standard_error


# These tests have slots, and a guide that knows its posterior.


def test_the_closed_form_is_met_from_a_guide_that_is_hopeless() -> None:
    model = LinearGaussian(3, 2, scale=0.3)
    x = model.simulate(B)
    guide = FactorisedGuide(model, widening=0.5, shift=torch.tensor([1.0, -1.5, 2.0]))
    truth = model.log_evidence(x)
    plain = importance_log_evidence(model, guide, x, num_samples=100)
    assert (plain.ess < 10).all(), "the premise"
    estimate = refined_log_evidence(model, guide, x, config=QUICK)
    assert estimate.log_weights.shape == (100, B)
    assert_right(estimate, truth)
    sampled = refined_log_evidence(model, guide, x, config=replace(QUICK, num_chains=0, num_samples=300))
    assert sampled.log_weights.shape == (300, B)
    assert_right(sampled, truth)


def test_all_orders_of_the_slots_count_unless_told_otherwise() -> None:
    model = SlotMixture(3, 0.1)
    x, guide = model.simulate(B), FactorisedGuide(model, 0.8)
    truth = model.log_evidence(x)
    assert_right(refined_log_evidence(model, guide, x, config=QUICK), truth)
    one_order = refined_log_evidence(model, guide, x, config=replace(QUICK, symmetrise=False))
    assert_right(one_order, truth - math.lgamma(4))


def test_both_forms_and_the_steps_by_hand_give_the_same_numbers() -> None:
    model = LinearGaussian(2, 2)
    x, few = model.simulate(B), RefinedConfig(fit_steps=5, cover_steps=3, num_chains=6, num_temperatures=3)
    guide = FactorisedGuide(model, widening=1.5)
    torch.manual_seed(1)
    first = refined_log_evidence(model, guide, x, config=few)
    torch.manual_seed(1)
    log_joint = LogJoint(model, x)
    second = refined_proposal_log_evidence(log_joint, normal_proposal(guide.posterior(x)), few)
    torch.manual_seed(1)
    log_joint = LogJoint(model, x)
    chains = annealed_from(log_joint, fit_and_cover(log_joint, guide.posterior(x), few), few)
    assert torch.equal(first.log_weights, second.log_weights)
    assert torch.equal(first.log_weights, chains.log_weights)
    assert chains.z.shape == (6, B, 2, 2)


# These tests have programs of other kinds, and guides that do not know their posterior.


class NormalGamma:
    """A model of points with unknown mean and precision, under the conjugate prior.

    τ_b ~ Gamma(a, b),    μ_b ~ N(0, 1 / (κ τ_b)),    x_ib ~ N(μ_b, 1 / τ_b),    i = 1..n
    """

    a, b, kappa = 3.0, 2.0, 0.5

    def __call__(self, x: Tensor) -> None:
        with pyro.plate("scenes", x.shape[1], dim=-1):
            tau = pyro.sample("precision", dist.Gamma(x.new_tensor(self.a), x.new_tensor(self.b)))
            mu = pyro.sample("mean", dist.Normal(0.0, (self.kappa * tau).rsqrt()))
            with pyro.plate("points", len(x), dim=-2):
                pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)

    def guide(self, x: Tensor) -> None:
        """A guide whose location, shape and width are all wrong."""
        with pyro.plate("scenes", x.shape[1], dim=-1):
            pyro.sample("mean", dist.Normal(x.mean(0) + 0.3, 0.5))
            pyro.sample("precision", dist.LogNormal(torch.zeros_like(x[0]), 0.8))

    def log_evidence(self, x: Tensor) -> Tensor:
        n, mean = len(x), x.mean(0)
        kappa, a = self.kappa + n, self.a + n / 2
        squares = (x - mean).square().sum(0) + self.kappa * n * mean.square() / kappa
        b = self.b + squares / 2
        gammas = math.lgamma(a) - math.lgamma(self.a) + self.a * math.log(self.b) - a * b.log()
        return gammas + 0.5 * math.log(self.kappa / kappa) - n / 2 * math.log(2 * math.pi)


class Levels:
    """A model with two levels of latent variables, the lower one in a plate to the right of the scenes' plate.

    m_b ~ N(0, I_2),    y_bi ~ N(m_b1, 1),    x_bi ~ N(y_bi + m_b2, s²),    i = 1..n
    """

    scale = 0.7

    def __call__(self, x: Tensor) -> None:
        with pyro.plate("scenes", len(x), dim=-2):
            m = pyro.sample("m", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            with pyro.plate("points", x.shape[1], dim=-1):
                y = pyro.sample("y", dist.Normal(m[..., 0], 1.0))
                pyro.sample("x", dist.Normal(y + m[..., 1], self.scale), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("scenes", len(x), dim=-2):
            pyro.sample("m", dist.Normal(x.new_zeros(2), 0.7).to_event(1))
            with pyro.plate("points", x.shape[1], dim=-1):
                pyro.sample("y", dist.Normal(0.5 * x, 1.5))

    def log_evidence(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        covariance = 2 * x.new_ones(n, n) + (1 + self.scale**2) * torch.eye(n).to(x)
        return MultivariateNormal(x.new_zeros(n), covariance).log_prob(x)


def test_bounded_sites_of_a_foreign_pair() -> None:
    model, x = NormalGamma(), torch.randn(5, B, dtype=torch.float64) * torch.tensor([0.4, 1.0, 2.0]) + 0.8
    plain = importance_log_evidence(model, model.guide, x, num_samples=20_000, chunk_size=5000, symmetrise=False)
    assert ((plain.log_evidence - model.log_evidence(x)).abs() < 5 * plain.standard_error + 0.01).all(), "the premise"
    assert_right(refined_log_evidence(model, model.guide, x, config=QUICK), model.log_evidence(x))


def test_several_sites_and_plates_of_a_foreign_pair() -> None:
    model, x = Levels(), 2 * torch.randn(B, 4, dtype=torch.float64) + 1
    estimate = refined_log_evidence(model, model.guide, x, config=QUICK)
    assert_right(estimate, model.log_evidence(x))


def test_a_single_number_per_scene() -> None:
    """x ~ Poisson(λ) with λ ~ Gamma is a negative binomial; the program is in float32, like most programs."""

    def model(x: Tensor) -> None:
        with pyro.plate("scenes", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("scenes", len(x)):
            pyro.sample("rate", dist.LogNormal(0.0, 1.0))

    x = torch.tensor([1.0, 7.0, 20.0])
    truth = dist.GammaPoisson(2.0, 0.5).log_prob(x)
    assert_right(refined_log_evidence(model, guide, x, config=QUICK), truth)


def test_an_autoguide_serves() -> None:
    model, x = NormalGamma(), torch.randn(5, B, dtype=torch.float64) + 0.8
    guide = AutoNormal(model).eval()
    guide(x)
    assert_right(refined_log_evidence(model, guide, x, config=QUICK), model.log_evidence(x))


def test_the_unconstrained_density_is_that_of_the_program() -> None:
    """log p(x, τ, μ) + log τ at u = (log τ, μ) is computed by hand, with a gradient, one draw and scene at a time."""
    model, x = NormalGamma(), torch.randn(5, B, dtype=torch.float64)
    log_joint = UnconstrainedLogJoint(model, x)
    assert (log_joint.num_scenes, log_joint.event_shape) == (B, (1, 2))
    u = torch.randn(4, B, 1, 2, dtype=torch.float64, requires_grad=True)
    value = log_joint(u)
    log_tau, mu = u.squeeze(-2).unbind(-1)
    tau = log_tau.exp()
    by_hand = dist.Gamma(model.a, model.b).log_prob(tau) + log_tau
    by_hand = by_hand + dist.Normal(0.0, (model.kappa * tau).rsqrt()).log_prob(mu)
    by_hand = by_hand + dist.Normal(mu, tau.rsqrt()).log_prob(x[:, None]).sum(0)
    torch.testing.assert_close(value, by_hand)
    torch.testing.assert_close(*(torch.autograd.grad(each.sum(), u)[0] for each in (value, by_hand)))


def test_values_go_there_and_back() -> None:
    for model, x in ((NormalGamma(), torch.randn(5, B).double()), (Levels(), torch.randn(B, 4).double())):
        log_joint = UnconstrainedLogJoint(model, x)
        u = torch.randn(7, B, *log_joint.event_shape, dtype=torch.float64)
        torch.testing.assert_close(log_joint.unconstrained(log_joint._values(u)), u)


def test_with_a_single_site_without_bounds_it_is_the_log_joint_of_slots() -> None:
    model = LinearGaussian(3, 2)
    x = model.simulate(B)
    z = torch.randn(4, B, 3, 2, dtype=torch.float64)
    flat = UnconstrainedLogJoint(model, x)
    torch.testing.assert_close(flat(z.flatten(-2).unsqueeze(-2)), LogJoint(model, x)(z))
    assert_right(refined_log_evidence(model, FactorisedGuide(model).__call__, x, config=QUICK), model.log_evidence(x))


# These tests check impossible arguments.


def test_programs_that_cannot_be_refined_are_named() -> None:
    def discrete(x: Tensor) -> None:
        with pyro.plate("scenes", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def other(x: Tensor) -> None:
        with pyro.plate("scenes", x.shape[1]):
            pyro.sample("elsewhere", dist.Normal(0.0, 1.0))

    def nothing(x: Tensor) -> None:
        with pyro.plate("scenes", x.shape[1]):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[0])

    x = torch.zeros(2, B)
    with pytest.raises(TraceError, match="model: expected continuous latent sites, got the discrete 'c'"):
        refined_log_evidence(discrete, other, x[0])
    with pytest.raises(TraceError, match="model: expected latent sites, found none"):
        refined_log_evidence(nothing, other, x)
    with pytest.raises(TraceError, match="guide: expected to sample the model's latent sites"):
        refined_log_evidence(NormalGamma(), other, x)
    model = LinearGaussian(2, 1)
    with pytest.raises(TraceError, match="guide: expected eval mode"):
        refined_log_evidence(model, torch.nn.Module().train(), model.simulate(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({name: 0}, f"{name}: expected at least 1, got 0")
            for name in ("fit_steps", "cover_steps", "cover_samples", "num_temperatures", "leapfrog_steps")
        ),
        ({"num_samples": 0}, "num_samples: expected at least 1, got 0"),
        ({"chunk_size": 0}, "chunk_size: expected at least 1, got 0"),
        ({"num_chains": -1}, "num_chains: expected zero or more, got -1"),
        ({"inflation": 0.5}, r"inflation: expected at least 1, got 0\.5"),
        ({"family": "banded"}, "family: expected one of diagonal, block, full, got 'banded'"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        RefinedConfig(**options)


def test_the_family_is_the_largest_that_can_be_symmetrised() -> None:
    assert [RefinedConfig().family_of(K) for K in (1, 8, 9)] == ["full", "full", "block"]
    assert RefinedConfig(symmetrise=False).family_of(20) == "full"
    assert RefinedConfig(family="diagonal").family_of(3) == "diagonal"
    with pytest.raises(ArgumentError, match="family: expected diagonal or block with 9 slots, got full"):
        RefinedConfig(family="full").family_of(9)
    with pytest.raises(ArgumentError, match=r"num_slots: expected 1 to 16 slots, .* got 17"):
        RefinedConfig().family_of(17)


def test_without_chains_it_is_importance_sampling_from_the_covering_fit() -> None:
    model = LinearGaussian(2, 1)
    x, few = model.simulate(B), RefinedConfig(fit_steps=3, cover_steps=3, num_chains=0, num_samples=40)
    log_joint, q = LogJoint(model, x), FactorisedGuide(model).posterior(x)
    torch.manual_seed(1)
    refined = refined_proposal_log_evidence(log_joint, q, few)
    torch.manual_seed(1)
    by_hand = proposal_log_evidence(log_joint, fit_and_cover(log_joint, q, few).proposal(), 40, few.chunk_size)
    assert torch.equal(refined.log_weights, by_hand.log_weights)

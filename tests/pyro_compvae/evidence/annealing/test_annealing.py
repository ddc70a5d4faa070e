"""Annealed importance sampling against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.slot_models import FixedGuide, LinearGaussian, SeparatedModel, linear_gaussian, rough_guide
from torch import Tensor, nn

from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence import (
    AnnealingConfig,
    annealed,
    annealed_log_evidence,
    importance_log_evidence,
    proposal_log_evidence,
)
from pyro_compvae.evidence.annealing.chains import anneal, default_start
from pyro_compvae.evidence.annealing.hmc import Target
from pyro_compvae.evidence.annealing.path import Path, make_plan
from pyro_compvae.evidence.density import LogJoint, TraceError
from pyro_compvae.evidence.proposals.elliptical import Elliptical
from pyro_compvae.evidence.proposals.symmetric import (
    FactorisedProposal,
    JointProposal,
    Proposal,
    standard_normal_proposal,
)


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_the_closed_form_is_met(start: str) -> None:
    model, x = linear_gaussian(2)
    guide = rough_guide(model, x) if start == "guide" else None
    if guide is not None:
        plain = importance_log_evidence(model, guide, x, num_samples=48)
        assert (plain.log_weights.std(0) > 1.5).all(), "the premise: the guide alone is poor"
    config = AnnealingConfig(num_chains=160, num_temperatures=160, leapfrog_steps=3, chunk_size=160)
    estimate = annealed_log_evidence(model, guide, x, config=config)
    assert estimate.log_weights.shape == (160, 2)
    assert (estimate.ess > 50).all()
    assert (estimate.standard_error < 0.1).all()
    assert ((estimate.log_evidence - model.log_evidence(x)).abs() < 4 * estimate.standard_error).all()


def test_a_start_with_the_right_covariance_is_all_but_exact() -> None:
    """The start is a Student-t around a displaced exact posterior, and the leapfrog runs in its coordinates."""
    model, x = linear_gaussian(2)
    posterior = model.posterior(x)
    start = JointProposal(Elliptical(posterior.mean + 0.1, posterior.scale_tril * 1.2, df=8.0), model.num_slots)
    config = AnnealingConfig(num_chains=32, num_temperatures=30, leapfrog_steps=2)
    few = annealed(LogJoint(model, x), start, config).estimate
    assert (few.standard_error < 0.1).all()
    assert ((few.log_evidence - model.log_evidence(x)).abs() < 4 * few.standard_error).all()


def test_float32_models_give_the_same_answer() -> None:
    model, x = linear_gaussian(1, torch.float32)
    config = AnnealingConfig(num_chains=32, num_temperatures=100, leapfrog_steps=2)
    estimate = annealed_log_evidence(model, None, x, config=config)
    assert estimate.log_weights.dtype == torch.float64
    assert ((estimate.log_evidence - model.log_evidence(x)).abs() < 4 * estimate.standard_error).all()


def test_only_the_symmetrised_guide_finds_both_modes() -> None:
    """The guide knows one of the two orders of the slots; no chain crosses to the other."""
    model, x = SeparatedModel(scale=0.1).eval(), torch.tensor([[-1.2, 0.7], [-0.4, 1.5]], dtype=torch.float64)
    guide = FixedGuide(x.unsqueeze(-1) + 0.05, torch.full((2, 2, 1), 0.15, dtype=torch.float64)).eval()
    exact = model.log_evidence(x)
    config = AnnealingConfig(num_chains=48, num_temperatures=20, leapfrog_steps=2)
    one_mode = annealed_log_evidence(model, guide, x, config=replace(config, symmetrise=False))
    both = annealed_log_evidence(model, guide, x, config=config)
    assert (both.standard_error < 0.1).all()
    assert ((both.log_evidence - exact).abs() < 4 * both.standard_error).all()
    assert (one_mode.standard_error < 0.1).all(), "the premise: nothing shows that it misses anything"
    missed = exact - one_mode.log_evidence
    assert ((missed - math.log(2)).abs() < 4 * one_mode.standard_error).all()


class _SlotBlindPath(Path):
    """The textbook path q̄^(1-β) p^β, though started from q."""

    def at(self, beta: Tensor) -> Target:
        return Target(self.factors, torch.stack((torch.zeros_like(beta), 1 - beta, beta)))


def test_slots_that_overlap_and_differ_in_scale() -> None:
    """If transitions treat slots differently, the textbook path is biased, and that of this package is not."""

    class Unit(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return -0.5 * (z - 0.4).square().sum((-2, -1)) - math.log(2 * math.pi)  # integrates to 1

    loc = torch.tensor([[[0.0], [1.2]]], dtype=torch.float64)
    start = FactorisedProposal(Elliptical(loc, torch.tensor([0.6, 1.8], dtype=torch.float64).reshape(1, 2, 1, 1)))
    log_joint: Any = Unit()
    log_joint.event_shape = (2, 1)
    betas = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)
    errors = {}
    for kind in (Path, _SlotBlindPath):
        path = kind(log_joint, start)
        with torch.no_grad():
            plan = make_plan(path, AnnealingConfig(num_temperatures=2, leapfrog_steps=2), betas)
            plan = plan._replace(step_sizes=torch.full_like(plan.step_sizes, 1.0))
            estimate = anneal(path, plan, start.rsample(40_000), chunk_size=40_000).estimate
        assert estimate.ess > 10_000
        errors[kind] = float(estimate.log_evidence / estimate.standard_error)  # log ∫ f_1 = 0
    assert abs(errors[Path]) < 4
    assert abs(errors[_SlotBlindPath]) > 6, "the premise"


def test_one_temperature_is_importance_sampling() -> None:
    model, x = linear_gaussian(2)
    guide = rough_guide(model, x)
    torch.manual_seed(3)
    config = AnnealingConfig(num_chains=7, num_temperatures=1)
    chains = annealed_log_evidence(model, guide, x, config=config)
    torch.manual_seed(3)
    plain = importance_log_evidence(model, guide, x, num_samples=7)
    torch.testing.assert_close(chains.log_weights, plain.log_weights, rtol=1e-12, atol=1e-12)


def test_seeds_decide_and_progress_is_told() -> None:
    model, x = linear_gaussian(2)
    told: list[tuple[int, int, Tensor]] = []

    def run() -> Tensor:
        torch.manual_seed(5)
        config = AnnealingConfig(num_chains=5, num_temperatures=6, leapfrog_steps=2, chunk_size=2)
        return annealed_log_evidence(
            model, None, x, config=config, progress=lambda done, total, rate: told.append((done, total, rate))
        ).log_weights

    torch.testing.assert_close(run(), run(), rtol=0, atol=0)
    assert [done for done, _, _ in told[:15]] == list(range(1, 16))
    assert {total for _, total, _ in told} == {15}  # five transitions of three chunks
    assert all(rate.shape == (2,) for _, _, rate in told)


def test_evaluations_are_one_per_leapfrog_step_and_acceptance_is_near_its_target() -> None:
    model, x = linear_gaussian(3)
    calls = []

    class Counted(LogJoint):
        def __call__(self, z: Tensor) -> Tensor:
            calls.append(len(z))
            return super().__call__(z)

    path = Path(Counted(model, x), standard_normal_proposal(3, 3, 2))
    with torch.no_grad():
        plan = make_plan(path, AnnealingConfig(num_temperatures=60, leapfrog_steps=3, target_acceptance=0.7))
        assert sum(calls) == plan.evaluations
        calls.clear()
        result = anneal(path, plan, path.start.rsample(40))
    assert sum(calls) == result.evaluations
    assert result.acceptance.shape == (59, 3)
    assert (result.acceptance.mean(0) - 0.7).abs().max() < 0.1
    assert (plan.temperatures.diff(dim=0) > 0).all()
    assert plan.step_sizes[0].min() > 1.5 * plan.step_sizes[-1].max(), "the posterior is narrower than the prior"


def test_steps_from_the_prior_follow_the_conditional_scales_of_the_posterior() -> None:
    """E (∂ log p)² is the precision of a Gaussian, I + AᵀA / σ² for every slot."""
    matrix = torch.tensor([[2.0, 0.02, 0.3], [1.0, 0.01, -0.2]], dtype=torch.float64)
    model = LinearGaussian(num_slots=3, scale=0.2, weight=matrix)
    path = Path(LogJoint(model, torch.tensor([[0.8, 0.1]], dtype=torch.float64)), standard_normal_proposal(1, 3, 3))
    with torch.no_grad():
        plan = make_plan(path, AnnealingConfig(num_temperatures=50, leapfrog_steps=4, pilot_chains=100))
    precision = 1 + matrix.square().sum(0) / 0.2**2
    assert precision.max() > 100 * precision.min(), "the premise"
    relative = plan.step_sizes[-1, 0] * precision.sqrt()
    torch.testing.assert_close(relative / relative.mean(), torch.ones(3, dtype=torch.float64), rtol=0.15, atol=0)


def test_temperatures_by_hand() -> None:
    model, x = linear_gaussian(2)
    line = torch.linspace(0, 1, 61, dtype=torch.float64)
    per_scene = torch.stack((line**4, line**3), dim=1)
    path = Path(LogJoint(model, x), standard_normal_proposal(2, 3, 2))
    with torch.no_grad():
        plan = make_plan(path, AnnealingConfig(num_temperatures=60, leapfrog_steps=3), per_scene)
        torch.testing.assert_close(plan.temperatures, per_scene)
        estimate = anneal(path, plan, path.start.rsample(32)).estimate
    assert ((estimate.log_evidence - model.log_evidence(x)).abs() < 4 * estimate.standard_error).all()


def test_chains_end_in_the_posterior() -> None:
    model, x = linear_gaussian(1)
    path = Path(LogJoint(model, x), default_start(LogJoint(model, x), None))
    config = AnnealingConfig(num_temperatures=150, leapfrog_steps=3)
    with torch.no_grad():
        result = anneal(path, make_plan(path, config), path.start.rsample(400), chunk_size=400)
    total = result.z.sum(-2)[:, 0]  # the image depends on the sum of the slots
    posterior = model.posterior(x)
    mean = posterior.mean.reshape(3, 2).sum(0)
    covariance = posterior.covariance_matrix.reshape(3, 2, 3, 2).sum((0, 2))
    weights = torch.softmax(result.log_weights, 0)
    assert result.estimate.ess > 150
    error = (covariance.diagonal() / result.estimate.ess).sqrt()
    assert ((weights * total).sum(0) - mean).abs().lt(4.5 * error).all()


def test_the_prior_needs_no_permanent() -> None:
    prior = standard_normal_proposal(2, 3, 2)
    z = prior.rsample(4)
    general = FactorisedProposal(prior.slots).symmetric_log_prob(z)
    torch.testing.assert_close(prior.symmetric_log_prob(z), general)
    torch.testing.assert_close(prior.symmetric_log_prob(z), torch.distributions.Normal(0, 1).log_prob(z).sum((-2, -1)))


def test_any_proposal_may_be_the_start() -> None:
    """For a proposal that has nothing but the protocol, the coordinates are the identity."""

    class Wide:
        num_slots = 3

        def rsample(self, num_samples: int) -> Tensor:
            return 1.5 * torch.randn(num_samples, 2, 3, 2, dtype=torch.float64)

        def log_prob(self, z: Tensor) -> Tensor:
            return torch.distributions.Normal(0.0, 1.5).log_prob(z).sum((-2, -1))

        symmetric_log_prob = log_prob

    model, x = linear_gaussian(2)
    wide: Proposal = Wide()
    config = AnnealingConfig(num_chains=32, num_temperatures=80, leapfrog_steps=3)
    estimate = annealed(LogJoint(model, x), wide, config).estimate
    assert ((estimate.log_evidence - model.log_evidence(x)).abs() < 4 * estimate.standard_error).all()
    plain = proposal_log_evidence(LogJoint(model, x), wide, 32)
    assert (plain.ess < estimate.ess / 2).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chains": 0}, "num_chains: expected at least 1, got 0"),
        ({"num_temperatures": 0}, "num_temperatures: expected at least 1, got 0"),
        ({"leapfrog_steps": -1}, "leapfrog_steps: expected at least 1, got -1"),
        ({"pilot_chains": 1}, "pilot_chains: expected at least 2, got 1"),
        ({"chunk_size": 0}, "chunk_size: expected at least 1, got 0"),
        ({"target_acceptance": 1.0}, "target_acceptance: expected a probability between 0 and 1, got 1.0"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        AnnealingConfig(**options)


def test_impossible_temperatures_are_named() -> None:
    model, x = linear_gaussian(2)
    path = Path(LogJoint(model, x), standard_normal_proposal(2, 3, 2))
    with pytest.raises(ArgumentError, match=r"temperatures: expected shape \(4,\) or \(4, 2\), got \(2,\)"):
        make_plan(path, AnnealingConfig(num_temperatures=3), torch.tensor([0.0, 1.0]))
    with pytest.raises(ArgumentError, match="temperatures: expected to rise from 0 to 1"):
        make_plan(path, AnnealingConfig(num_temperatures=2), torch.tensor([0.0, 1.2, 1.0]))


def test_guides_that_cannot_start_are_refused() -> None:
    model, x = linear_gaussian(2)
    with pytest.raises(TraceError, match=r"guide: expected a method posterior.*function has none"):
        annealed_log_evidence(model, lambda x: None, x)
    with pytest.raises(TraceError, match="guide: expected eval mode, got train mode"):
        annealed_log_evidence(model, rough_guide(model, x).train(), x)

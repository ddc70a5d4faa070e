"""Bidirectional Monte Carlo: sandwiches contain the closed form."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.slot_models import linear_gaussian, rough_guide
from torch.distributions import Normal

from pyro_compvae import DecoderConfig, MultiViewSceneModel, SceneModel, SpatialBroadcastDecoder
from pyro_compvae.evidence import AnnealingConfig, bidirectional_log_evidence, simulate
from pyro_compvae.evidence.annealing.chains import default_start
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.proposals.elliptical import Elliptical
from pyro_compvae.evidence.proposals.labelling import draw_matching, labelled
from pyro_compvae.evidence.proposals.symmetric import FactorisedProposal, JointProposal, normal_proposal
from pyro_compvae.permutation import all_permutations


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_the_sandwich_is_narrow_and_holds_the_truth(start: str) -> None:
    model, _ = linear_gaussian(1)
    z, arguments = simulate(model, num_scenes=8)
    log_joint, exact = LogJoint(model, *arguments), model.log_evidence(*arguments)
    guide = rough_guide(model, *arguments) if start == "guide" else None
    config = AnnealingConfig(num_chains=24, num_temperatures=150, leapfrog_steps=3)
    sandwich = bidirectional_log_evidence(log_joint, default_start(log_joint, guide), z, config)
    forward, reverse = sandwich.forward.estimate, sandwich.reverse.estimate
    assert (sandwich.lower < exact + 4 * forward.standard_error).all()
    assert (sandwich.upper > exact - 4 * reverse.standard_error).all()
    assert sandwich.width.mean() < 0.5
    torch.testing.assert_close(sandwich.width, sandwich.upper - sandwich.lower)
    assert sandwich.reverse.acceptance.mean() > 0.6
    torch.testing.assert_close(sandwich.lower, forward.log_evidence)


def test_too_few_temperatures_give_a_wide_sandwich_that_still_holds_the_truth() -> None:
    """Standard errors mean nothing here, but by Markov's inequality a bound is wrong by 3 nats once in 20 scenes."""
    model, _ = linear_gaussian(1)
    z, arguments = simulate(model, num_scenes=40)
    log_joint, exact = LogJoint(model, *arguments), model.log_evidence(*arguments)
    config = AnnealingConfig(num_chains=4, num_temperatures=2, leapfrog_steps=1)
    sandwich = bidirectional_log_evidence(log_joint, default_start(log_joint, None), z, config)
    assert sandwich.width.mean() > 2
    assert ((sandwich.lower <= exact + 3) & (sandwich.upper >= exact - 3)).float().mean() > 0.9
    assert (sandwich.lower - exact).mean() < 0 < (sandwich.upper - exact).mean()


def test_a_lower_bound_that_knows_the_exact_draw_is_tighter_and_still_one() -> None:
    model, _ = linear_gaussian(1)
    z, arguments = simulate(model, num_scenes=40)
    log_joint, exact = LogJoint(model, *arguments), model.log_evidence(*arguments)
    near = normal_proposal(Normal(z, torch.full_like(z, 0.5)))
    config = AnnealingConfig(num_chains=4, num_temperatures=3, leapfrog_steps=2)
    prior = default_start(log_joint, None)
    usual = bidirectional_log_evidence(log_joint, prior, z, config)
    more = AnnealingConfig(num_chains=64, num_temperatures=30, leapfrog_steps=2)
    knowing = bidirectional_log_evidence(log_joint, prior, z, config, lower_start=near, lower_config=more)
    assert len(knowing.forward.log_weights) == 64
    assert len(knowing.reverse.log_weights) == 4
    assert (exact - knowing.lower).mean() < 0.5 * (exact - usual.lower).mean()
    assert (knowing.lower < exact + 4 * knowing.forward.estimate.standard_error).all()
    assert knowing.pilot_evaluations > usual.pilot_evaluations


def test_simulate_serves_both_models() -> None:
    decoder = SpatialBroadcastDecoder(latent_dim=4, image_size=(8, 8), config=DecoderConfig(channels=(4,)))
    z, (x,) = simulate(SceneModel(decoder, num_slots=3).eval(), num_scenes=2)
    assert z.shape == (2, 3, 4)
    assert x.shape == (2, 3, 8, 8)
    viewpoints = torch.randn(2, 5, 3)
    model = MultiViewSceneModel(decoder, num_slots=3).eval()
    z, arguments = simulate(model, viewpoints)
    assert [argument.shape for argument in arguments] == [(2, 5, 3, 8, 8), (2, 5, 3)]
    log_joint = LogJoint(model, *arguments)
    config = AnnealingConfig(num_chains=2, num_temperatures=3, leapfrog_steps=1, pilot_chains=2)
    sandwich = bidirectional_log_evidence(log_joint, default_start(log_joint, None), z, config)
    assert sandwich.lower.isfinite().all()
    assert sandwich.upper.isfinite().all()


def test_matchings_are_drawn_in_proportion_to_their_products() -> None:
    n, K = 20_000, 3
    log_matrix = torch.randn(K, K, dtype=torch.float64) * 1.5
    draws = draw_matching(log_matrix.expand(n, K, K))
    for permutation in itertools.permutations(range(K)):
        weights = torch.stack([log_matrix[torch.arange(K), p].sum() for p in all_permutations(K)])
        p = float((log_matrix[torch.arange(K), list(permutation)].sum() - weights.logsumexp(0)).exp())
        frequency = float((draws == torch.tensor(permutation)).all(-1).double().mean())
        assert abs(frequency - p) < 4.5 * (p * (1 - p) / n) ** 0.5 + 1e-4


def test_both_kinds_of_proposal_order_slots_alike() -> None:
    """The same density is given as a factorised proposal and as a joint one."""
    n, B, K, D = 5000, 2, 3, 2
    loc = torch.randn(B, K, D, dtype=torch.float64)
    scale = torch.rand(B, K, D, dtype=torch.float64) + 0.5
    factorised = FactorisedProposal(Elliptical(loc, torch.diag_embed(scale)))
    joint = JointProposal(Elliptical(loc.flatten(-2), torch.diag_embed(scale.flatten(-2))), K)
    z = torch.randn(B, K, D, dtype=torch.float64)
    one, other = (labelled(proposal, z, n) for proposal in (factorised, joint))
    torch.testing.assert_close(one.sort(-2).values, z.sort(-2).values.expand_as(one))
    spread = (one.var(0) + other.var(0)).div(n).sqrt() + 1e-12
    assert ((one.mean(0) - other.mean(0)).abs() < 4.5 * spread).all()
    assert one.std(0).max() > 0.1, "the premise: the order is not certain"


def test_wrong_arguments_are_named() -> None:
    model, x = linear_gaussian(2)
    log_joint = LogJoint(model, x)
    start = default_start(log_joint, None)
    with pytest.raises(ValueError, match=r"z_exact: expected shape \(2, 3, 2\), .* got \(2, 2\)"):
        bidirectional_log_evidence(log_joint, start, torch.zeros(2, 2))
    wide = JointProposal(Elliptical(torch.zeros(1, 9), torch.eye(9).expand(1, 9, 9)), 9)
    with pytest.raises(ValueError, match="z: expected at most 8 slots that depend on one another, got 9"):
        labelled(wide, torch.zeros(1, 9, 1), 2)

"""Proposals as densities, and their mean over all permutations of the slots."""

from __future__ import annotations

import math
from itertools import permutations

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from pyro_compvae.evidence.proposals.elliptical import Elliptical
from pyro_compvae.evidence.proposals.symmetric import FactorisedProposal, JointProposal, Proposal, normal_proposal

B, K, D = 2, 3, 2


def scale_tril(*batch: int, size: int) -> Tensor:
    """A well-conditioned Cholesky factor, with correlations of about a half."""
    lower = 0.5 * torch.randn(*batch, size, size, dtype=torch.float64).tril(-1)
    return lower + torch.diag_embed(0.5 + torch.rand(*batch, size, dtype=torch.float64))


def factorised(df: float = math.inf) -> FactorisedProposal:
    return FactorisedProposal(Elliptical(torch.randn(B, K, D).double(), scale_tril(B, K, size=D), df))


def joint(df: float = math.inf) -> JointProposal:
    return JointProposal(Elliptical(torch.randn(B, K * D).double(), scale_tril(B, size=K * D), df), K)


@pytest.mark.parametrize("batch", [(), (3,), (3, 2)])
@pytest.mark.parametrize("df", [math.inf, 1.0, 4.5])
def test_elliptical_density_is_that_of_torch_and_pyro(df: float, batch: tuple[int, ...]) -> None:
    loc, tril = torch.randn(*batch, 4, dtype=torch.float64), scale_tril(*batch, size=4)
    z = 3 * torch.randn(5, *batch, 4, dtype=torch.float64)
    if df == math.inf:
        reference = MultivariateNormal(loc, scale_tril=tril)
    else:
        reference = dist.MultivariateStudentT(torch.tensor(df, dtype=torch.float64), loc, tril)
    log_prob = Elliptical(loc, tril, df).log_prob(z)
    assert log_prob.shape == (5, *batch)
    torch.testing.assert_close(log_prob, reference.log_prob(z), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("df", [math.inf, 12.0])
def test_elliptical_draws_have_the_mean_and_covariance(df: float) -> None:
    L = 40_000
    elliptical = Elliptical(torch.tensor([[0.0, 5.0, -2.0], [1.0, 0.0, 0.0]]).double(), scale_tril(2, size=3), df)
    z = elliptical.rsample(L)
    assert z.shape == (L, 2, 3)
    expected = elliptical.scale_tril @ elliptical.scale_tril.mT * (1 if df == math.inf else df / (df - 2))
    centred = z - elliptical.loc
    assert (centred.mean(0).abs() < 4.5 * (z.std(0) / math.sqrt(L))).all()
    products = torch.einsum("lbi,lbj->lbij", centred, centred)
    assert ((products.mean(0) - expected).abs() < 4.5 * products.std(0) / math.sqrt(L)).all()
    # The standard error is small enough to tell the factor of the Student-t from one.
    assert (products.std(0).diagonal(dim1=1, dim2=2) / math.sqrt(L) < 0.02 * expected.diagonal(dim1=1, dim2=2)).all()


def test_student_t_shares_one_chi_square_between_the_dimensions_and_none_between_the_batch() -> None:
    z = Elliptical(torch.zeros(2, 2).double(), torch.eye(2).double().expand(2, 2, 2), 9.0).rsample(40_000).square()
    within, between = (
        torch.corrcoef(torch.stack(pair))[0, 1] for pair in ((z[:, 0, 0], z[:, 0, 1]), (z[:, 0, 0], z[:, 1, 0]))
    )
    assert within > 0.08
    assert between.abs() < 0.03


def test_draws_are_differentiable() -> None:
    loc, tril = torch.zeros(3, dtype=torch.float64, requires_grad=True), scale_tril(size=3).requires_grad_()
    elliptical = Elliptical(loc, tril, 5.0)
    gradients = torch.autograd.grad(elliptical.rsample(4).sum(), (loc, tril))
    torch.testing.assert_close(gradients[0], torch.full((3,), 4.0).double())
    assert gradients[1].tril().abs().sum() > 0
    z = torch.randn(2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda loc, tril: Elliptical(loc, tril.tril(), 5.0).log_prob(z), (loc, tril))


@pytest.mark.parametrize("make", [factorised, joint])
@pytest.mark.parametrize("df", [math.inf, 5.0])
def test_symmetric_density_is_the_mean_over_all_permutations(make: type[Proposal], df: float) -> None:
    proposal = make(df)
    z = proposal.rsample(6)
    assert z.shape == (6, B, K, D)
    orders = list(permutations(range(K)))
    expected = torch.stack([proposal.log_prob(z[:, :, list(order)]) for order in orders]).logsumexp(0) - math.log(6)
    symmetric = proposal.symmetric_log_prob(z)
    torch.testing.assert_close(symmetric, expected, rtol=1e-10, atol=1e-10)
    assert ((symmetric - proposal.log_prob(z)).abs() > 0.1).any(), "the premise: slots differ"
    for order in ([2, 0, 1], [1, 0, 2]):
        torch.testing.assert_close(proposal.symmetric_log_prob(z[:, :, order]), symmetric)
        assert ((proposal.log_prob(z[:, :, order]) - proposal.log_prob(z)).abs() > 0.1).any()


def test_densities_against_torch_slot_by_slot() -> None:
    """One scene and one draw at a time, every slot of z is matched with its factor of q."""
    proposal = factorised()
    z = proposal.rsample(1)
    q = [MultivariateNormal(proposal.slots.loc[1, k], scale_tril=proposal.slots.scale_tril[1, k]) for k in range(K)]
    expected = sum(q[k].log_prob(z[0, 1, k]) for k in range(K))
    torch.testing.assert_close(proposal.log_prob(z)[0, 1], expected)
    loc, tril = torch.randn(B, K * D).double(), scale_tril(B, size=K * D)
    flat = MultivariateNormal(loc, scale_tril=tril)
    torch.testing.assert_close(JointProposal(Elliptical(loc, tril), K).log_prob(z), flat.log_prob(z.flatten(-2)))


def test_a_block_diagonal_covariance_makes_the_joint_proposal_factorise() -> None:
    proposal = factorised()
    slots = proposal.slots
    blocks = torch.stack([torch.block_diag(*slots.scale_tril[b]) for b in range(B)])
    together = JointProposal(Elliptical(slots.loc.flatten(-2), blocks), K)
    z = proposal.rsample(7)
    torch.testing.assert_close(together.log_prob(z), proposal.log_prob(z))
    torch.testing.assert_close(together.symmetric_log_prob(z), proposal.symmetric_log_prob(z))


def test_permutations_are_summed_in_parts_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    proposal = joint()
    z = proposal.rsample(5)
    whole = proposal.symmetric_log_prob(z)
    for held in (1, 12, 29):  # one permutation at a time; two; or five, with one left over
        monkeypatch.setattr("pyro_compvae.evidence.proposals.symmetric.PERMUTED_DRAWS", held)
        torch.testing.assert_close(proposal.symmetric_log_prob(z), whole)


@pytest.mark.parametrize("make", [factorised, joint])
@pytest.mark.parametrize("df", [math.inf, 5.0])
def test_both_densities_integrate_to_one(make: type[Proposal], df: float) -> None:
    """The integrals are estimated by importance sampling from a wide Student-t; separate slots have a factor 1/K!."""
    L = 100_000
    proposal = make(df)
    wide = JointProposal(
        Elliptical(torch.zeros(B, K * D).double(), 1.5 * torch.eye(K * D).double().expand(B, -1, -1), 3.0), K
    )
    z = wide.rsample(L)
    for log_prob in (proposal.log_prob, proposal.symmetric_log_prob):
        weights = (log_prob(z) - wide.log_prob(z)).exp()
        ess = weights.sum(0).square() / weights.square().sum(0)
        assert (ess > 400).all(), ess
        error = weights.std(0) / math.sqrt(L)
        assert ((weights.mean(0) - 1).abs() < 4 * error).all()


def test_the_proposal_of_a_guide_is_its_posterior_in_double_precision() -> None:
    q = Normal(torch.randn(B, K, D), 0.2 + torch.rand(B, K, D))
    proposal = normal_proposal(q)
    z = proposal.rsample(20_000)
    assert z.shape == (20_000, B, K, D)
    assert z.dtype == torch.float64
    expected = Normal(q.loc.double(), q.scale.double())
    torch.testing.assert_close(proposal.log_prob(z), expected.log_prob(z).sum((-2, -1)))
    error = (z.mean(0) - expected.loc).abs() / (expected.scale / math.sqrt(20_000))
    assert error.max() < 4.5
    torch.testing.assert_close(z.std(0), expected.scale, rtol=4.5 / math.sqrt(40_000), atol=0)
    torch.testing.assert_close(normal_proposal(q).num_slots, K)


def test_more_than_eight_correlated_slots_cannot_be_symmetrised() -> None:
    proposal = JointProposal(Elliptical(torch.zeros(1, 9).double(), torch.eye(9).double().unsqueeze(0)), 9)
    z = proposal.rsample(2)
    assert proposal.log_prob(z).shape == (2, 1)
    with pytest.raises(ValueError, match=r"symmetrise: expected at most 8 slots .* got 9, which have 362,880"):
        proposal.symmetric_log_prob(z)
    eight = JointProposal(Elliptical(torch.zeros(1, 8).double(), torch.eye(8).double().unsqueeze(0)), 8)
    z = eight.rsample(2)
    torch.testing.assert_close(eight.symmetric_log_prob(z), eight.log_prob(z))  # slots that are all alike

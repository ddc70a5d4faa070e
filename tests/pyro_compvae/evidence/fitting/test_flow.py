"""Flows for every scene: their densities, and posteriors that no Gaussian fits."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers.slot_models import FactorisedGuide, LinearGaussian
from torch import Tensor

from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.fitting.flow import Coupling, FlowConfig, FlowProposal, fit_flow
from pyro_compvae.evidence.fitting.gaussian import FitConfig, fit_gaussian
from pyro_compvae.evidence.importance import proposal_log_evidence
from pyro_compvae.evidence.proposals.elliptical import Elliptical
from pyro_compvae.permutation import all_permutations

B, K, D = 2, 3, 2


def bent_proposal() -> FlowProposal:
    """A flow with weights that are not zero and differ between scenes."""
    N = K * D
    coupling = Coupling.identity(B, N, layers=4, hidden=5, device=torch.device("cpu"))
    for weight in coupling.parameters():
        weight.add_(0.4 * torch.randn_like(weight))
    scale_tril = torch.eye(N).double().expand(B, N, N) + 0.3 * torch.randn(B, N, N).double().tril(-1)
    return FlowProposal(Elliptical(torch.randn(B, N).double(), scale_tril), coupling, K)


def test_the_density_is_that_of_the_draws() -> None:
    """The density follows from a change of variables, with the Jacobian by automatic differentiation."""
    proposal = bent_proposal()
    loc = proposal.gaussian.loc

    def draw(noise: Tensor) -> Tensor:
        return loc + torch.einsum(
            "bij,bj->bi", proposal.gaussian.scale_tril, proposal.coupling.forward(noise[:, None])[:, 0].double()
        )

    for _ in range(5):
        noise = torch.randn(B, K * D)
        jacobian = torch.autograd.functional.jacobian(draw, noise)  # (B, N, B, N)
        for b in range(B):
            log_det = torch.linalg.slogdet(jacobian[b, :, b].double()).logabsdet
            expected = dist.Normal(0.0, 1.0).log_prob(noise[b].double()).sum() - log_det
            z = draw(noise).unflatten(-1, (K, D))
            assert float(proposal.log_prob(z[None])[0, b]) == pytest.approx(float(expected), abs=1e-3)
            assert float(jacobian[b, :, 1 - b].abs().max()) == 0, "scenes have nothing to do with each other"


def test_symmetrised_densities_are_means_over_all_orders() -> None:
    proposal = bent_proposal()
    z = proposal.rsample(3)
    values = torch.stack([proposal.log_prob(z[..., order, :]) for order in all_permutations(K)])
    torch.testing.assert_close(proposal.symmetric_log_prob(z), values.logsumexp(0) - math.log(math.factorial(K)))
    assert (proposal.symmetric_log_prob(z) > proposal.log_prob(z) - math.log(6) - 1e-6).all()


def banana(x: Tensor) -> None:
    """A model with a bent ridge: z ~ N(0, I_2), x ~ N(z_2 + z_1², 0.3²)."""
    with pyro.plate("scenes", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(1, 2).double(), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z[..., 0, 1] + z[..., 0, 0].square(), 0.3), obs=x)


def test_a_bent_posterior_is_fitted_better_than_by_any_gaussian() -> None:
    x = torch.tensor([0.5, -0.5], dtype=torch.float64)
    grid = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 1, 1, 2)
    log_joint = LogJoint(banana, x)
    truth = log_joint(points.expand(-1, 2, -1, -1)).logsumexp(0) + 2 * math.log(float(grid[1] - grid[0]))
    start = torch.distributions.Normal(torch.zeros(2, 1, 2).double(), torch.ones(2, 1, 2).double())
    gaussian = fit_gaussian(log_joint, start, "full", FitConfig(steps=200))
    flow = fit_flow(log_joint, gaussian, FlowConfig(steps=400, learning_rate=1e-2, num_samples=32))
    short, shorter = (
        truth - proposal_log_evidence(log_joint, fit.proposal(), 4000, 4000).elbo for fit in (gaussian, flow)
    )
    assert (short > 0.2).all(), "a Gaussian must not do"
    assert (shorter < 0.3 * short).all()
    assert (shorter > -0.05).all()


def test_a_flow_starts_as_the_gaussian_and_asks_for_a_full_one() -> None:
    model = LinearGaussian(K, D, observed_dim=2, scale=0.7)
    x = model.simulate(B)
    log_joint, q = LogJoint(model, x), FactorisedGuide(model).posterior(x)
    full = fit_gaussian(log_joint, q, "full", FitConfig(steps=20))
    flow = fit_flow(log_joint, full, FlowConfig(steps=1, learning_rate=1e-12))
    z = torch.randn(7, B, K, D).double()
    torch.testing.assert_close(flow.proposal().log_prob(z), full.proposal().log_prob(z), atol=1e-4, rtol=1e-6)
    with pytest.raises(ValueError, match="gaussian: expected a fit of the family 'full'"):
        fit_flow(log_joint, fit_gaussian(log_joint, q, "block", FitConfig(steps=2)))
    with pytest.raises(ValueError, match="layers: expected at least 1, got 0"):
        FlowConfig(layers=0)

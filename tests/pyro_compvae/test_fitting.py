"""Fitted Gaussians where the best of every family is known in closed form."""

from __future__ import annotations

import pytest
import torch
from linear_gaussian import FactorisedGuide, LinearGaussian
from torch import Tensor

from pyro_compvae.evidence.fitting import Fit, _tempered_weights, fit_gaussian
from pyro_compvae.evidence.importance import proposal_log_evidence
from pyro_compvae.evidence.traces import LogJoint

B, K, D = 3, 3, 2


def make() -> tuple[LinearGaussian, Tensor, LogJoint, FactorisedGuide]:
    model = LinearGaussian(K, D, observed_dim=2, scale=0.7)
    x = model.simulate(B)
    return model, x, LogJoint(model, x), FactorisedGuide(model, widening=1.5, shift=torch.tensor([0.5, -1.0, 0.2]))


def gaps(model: LinearGaussian, x: Tensor) -> dict[str, Tensor]:
    """min KL(q ‖ p(z | x)) of every family, (B,): half the log ratio of the determinants of precisions."""
    precision = model.posterior(x).precision_matrix
    blocks = torch.stack([precision[:, k : k + D, k : k + D] for k in range(0, K * D, D)], dim=1)
    log_det = precision.logdet()
    return {
        "diagonal": 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - log_det),
        "block": 0.5 * (blocks.logdet().sum(-1) - log_det),
        "full": torch.zeros(B, dtype=torch.float64),
    }


def test_every_family_reaches_its_best_elbo() -> None:
    model, x, log_joint, guide = make()
    expected = gaps(model, x)
    assert (expected["diagonal"] > expected["block"] + 0.1).all(), "the families must differ"
    assert (expected["block"] > 0.1).all()
    fit: Fit | None = None
    for family in ("diagonal", "block", "full"):
        fit = fit_gaussian(log_joint, fit or guide.posterior(x), family, steps=300)  # type: ignore[arg-type]
        estimate = proposal_log_evidence(log_joint, fit.proposal(), 4000, 1000, symmetrise=False)
        error = estimate.log_weights.std(0) / 4000**0.5
        gap = model.log_evidence(x) - estimate.elbo
        assert (error < 0.05).all()
        assert ((gap - expected[family]).abs() < 4 * error + 0.01).all(), family
    assert fit is not None
    torch.testing.assert_close(fit.loc.flatten(1), model.posterior(x).mean, atol=0.02, rtol=0)
    covariance = fit.scale_tril @ fit.scale_tril.mT
    torch.testing.assert_close(covariance, model.posterior(x).covariance_matrix, atol=0.02, rtol=0)


def test_a_larger_family_starts_where_the_smaller_stood() -> None:
    _, x, log_joint, guide = make()
    block = fit_gaussian(log_joint, guide.posterior(x), "block", steps=20)
    full = fit_gaussian(log_joint, block, "full", steps=1, step_size=1e-9)
    z = torch.randn(7, B, K, D, dtype=torch.float64)
    torch.testing.assert_close(full.proposal().log_prob(z), block.proposal().log_prob(z), atol=1e-6, rtol=0)
    assert block.scale_tril[..., 1, 0].abs().min() > 1e-4, "without covariance the comparison proves little"


def test_proposals_are_wider_with_inflation_and_heavier_with_few_degrees_of_freedom() -> None:
    _, x, log_joint, guide = make()
    fit = fit_gaussian(log_joint, guide.posterior(x), "full", steps=5)
    far = fit.loc + 8 * fit.scale_tril.diagonal(dim1=-2, dim2=-1).reshape(fit.loc.shape)
    plain, wide, heavy = (p.log_prob(far[None]) for p in (fit.proposal(), fit.proposal(inflation=2), fit.proposal(5.0)))
    assert (wide > plain).all()
    assert (heavy > plain).all()


@pytest.mark.parametrize(
    ("message", "start", "family", "steps"),
    [
        ("family: expected one of diagonal, block, full, got 'banded'", None, "banded", 1),
        ("expected at least 1 step", None, "full", 0),
        ("start: expected a fit of 'block' or of a smaller family", "full", "block", 1),
        ("start: expected a fit of 'diagonal' or of a smaller family", "block", "diagonal", 1),
    ],
)
def test_bad_requests_are_named(message: str, start: str | None, family: str, steps: int) -> None:
    _, x, log_joint, guide = make()
    q = guide.posterior(x)
    with pytest.raises(ValueError, match=message):
        fit_gaussian(log_joint, fit_gaussian(log_joint, q, start, steps=2) if start else q, family, steps)  # type: ignore[arg-type]


def test_no_scale_has_to_be_known_beforehand() -> None:
    model, x, log_joint, _ = make()
    guide = FactorisedGuide(model, widening=0.01, shift=torch.tensor([30.0, -20.0, 10.0]))
    fit = fit_gaussian(log_joint, guide.posterior(x), "full", steps=300)
    torch.testing.assert_close(fit.loc.flatten(1), model.posterior(x).mean, atol=0.002, rtol=0)
    covariance = fit.scale_tril @ fit.scale_tril.mT
    torch.testing.assert_close(covariance, model.posterior(x).covariance_matrix, atol=0.002, rtol=0)


def test_the_optimum_of_the_renyi_bound_covers_more() -> None:
    """Against log ∫ p^a q^(1−a), which is known for Gaussians, maximised by torch's own optimiser."""
    model, x, log_joint, guide = make()
    exponent = 0.5
    elbo_fit = fit_gaussian(log_joint, guide.posterior(x), "diagonal")
    fit = fit_gaussian(log_joint, elbo_fit, "diagonal", steps=300, num_samples=400, step_size=0.1, exponent=exponent)

    precision = model.posterior(x).precision_matrix[0]
    log_variance = (1 / precision.diagonal()).log().requires_grad_()
    optimiser = torch.optim.LBFGS([log_variance], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def negative_bound() -> Tensor:
        optimiser.zero_grad()
        between = exponent * precision + (1 - exponent) * torch.diag_embed((-log_variance).exp())
        value = (0.5 * (1 - exponent) * log_variance.sum() + 0.5 * between.logdet()) / exponent
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(negative_bound)  # type: ignore[arg-type]
    expected = log_variance.detach().exp()
    narrow, marginal = 1 / precision.diagonal(), model.posterior(x).variance[0]
    assert (expected > 1.05 * narrow).all(), "the two bounds must differ"
    assert (expected < marginal).all()
    for b in range(B):
        fitted = fit.scale_tril[b].diagonal(dim1=-2, dim2=-1).square().flatten()
        torch.testing.assert_close(fitted, expected, rtol=0.05, atol=0)


def test_weights_are_tempered_until_enough_draws_count() -> None:
    log_weights = torch.stack((torch.linspace(0, 500, 64), torch.zeros(64), torch.linspace(0, 1, 64)), dim=1).double()
    weights = _tempered_weights(log_weights, 0.5)
    torch.testing.assert_close(weights.sum(0), torch.ones(3, dtype=torch.float64))
    effective = 1 / weights.square().sum(0)
    assert 16 <= effective[0] < 30
    torch.testing.assert_close(weights[:, 2], torch.softmax(0.5 * log_weights[:, 2], 0), msg="left as they are")
    torch.testing.assert_close(_tempered_weights(log_weights, 0.0), torch.full_like(weights, 1 / 64))


def test_numbers_out_of_range_are_named() -> None:
    _, x, log_joint, guide = make()
    with pytest.raises(ValueError, match="an even number of samples, got 150 steps and 3 samples"):
        fit_gaussian(log_joint, guide.posterior(x), "full", num_samples=3)
    with pytest.raises(ValueError, match=r"exponent: expected at least 0 and less than 1, got 1\.0"):
        fit_gaussian(log_joint, guide.posterior(x), "full", exponent=1.0)

"""Fitted Gaussians, compared with the best of every family in closed form."""

from __future__ import annotations

import pytest
import torch
from helpers.slot_models import FactorisedGuide, LinearGaussian
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.fitting.gaussian import Fit, FitConfig, _tempered_weights, fit_gaussian
from pyro_compvae.evidence.importance import proposal_log_evidence
from pyro_compvae.evidence.proposals.symmetric import normal_proposal

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
        fit = fit_gaussian(log_joint, fit or guide.posterior(x), family, FitConfig(steps=300))  # type: ignore[arg-type]
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
    block = fit_gaussian(log_joint, guide.posterior(x), "block", FitConfig(steps=20))
    full = fit_gaussian(log_joint, block, "full", FitConfig(steps=1, step_size=1e-9))
    z = torch.randn(7, B, K, D, dtype=torch.float64)
    torch.testing.assert_close(full.proposal().log_prob(z), block.proposal().log_prob(z), atol=1e-6, rtol=0)
    assert block.scale_tril[..., 1, 0].abs().min() > 1e-4, "without covariance the comparison proves little"


def test_a_gaussian_proposal_is_a_start_like_any_other() -> None:
    _, x, log_joint, guide = make()
    q, few = guide.posterior(x), FitConfig(steps=3)
    block = fit_gaussian(log_joint, q, "block", few)
    full = fit_gaussian(log_joint, q, "full", few)
    for start, same in ((q, normal_proposal(q)), (block, block.proposal()), (full, full.proposal())):
        fits = []
        for each in (start, same):
            torch.manual_seed(1)
            fits.append(fit_gaussian(log_joint, each, "full", few))
        assert torch.equal(fits[0].scale_tril, fits[1].scale_tril)


def test_proposals_are_wider_with_inflation_and_heavier_with_few_degrees_of_freedom() -> None:
    _, x, log_joint, guide = make()
    fit = fit_gaussian(log_joint, guide.posterior(x), "full", FitConfig(steps=5))
    far = fit.loc + 8 * fit.scale_tril.diagonal(dim1=-2, dim2=-1).reshape(fit.loc.shape)
    plain, wide, heavy = (p.log_prob(far[None]) for p in (fit.proposal(), fit.proposal(inflation=2), fit.proposal(5.0)))
    assert (wide > plain).all()
    assert (heavy > plain).all()


@pytest.mark.parametrize(
    ("message", "start", "family"),
    [
        ("family: expected one of diagonal, block, full, got 'banded'", None, "banded"),
        ("start: expected a fit of 'block' or of a smaller family", "full", "block"),
        ("start: expected a fit of 'diagonal' or of a smaller family", "block", "diagonal"),
    ],
)
def test_bad_requests_are_named(message: str, start: str | None, family: str) -> None:
    _, x, log_joint, guide = make()
    q = guide.posterior(x)
    with pytest.raises(ValueError, match=message):
        fit_gaussian(log_joint, fit_gaussian(log_joint, q, start, FitConfig(steps=2)) if start else q, family)  # type: ignore[arg-type]


def test_no_scale_has_to_be_known_beforehand() -> None:
    model, x, log_joint, _ = make()
    guide = FactorisedGuide(model, widening=0.01, shift=torch.tensor([30.0, -20.0, 10.0]))
    fit = fit_gaussian(log_joint, guide.posterior(x), "full", FitConfig(steps=300))
    torch.testing.assert_close(fit.loc.flatten(1), model.posterior(x).mean, atol=0.002, rtol=0)
    covariance = fit.scale_tril @ fit.scale_tril.mT
    torch.testing.assert_close(covariance, model.posterior(x).covariance_matrix, atol=0.002, rtol=0)


def test_the_optimum_of_the_renyi_bound_covers_more() -> None:
    """It maximises log ∫ p^a q^(1−a), which is known for Gaussians, as torch's own optimiser does."""
    model, x, log_joint, guide = make()
    exponent = 0.5
    elbo_fit = fit_gaussian(log_joint, guide.posterior(x), "diagonal")
    config = FitConfig(steps=300, num_samples=400, step_size=0.1, exponent=exponent)
    fit = fit_gaussian(log_joint, elbo_fit, "diagonal", config)

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
    assert 32 <= effective[0] < 48
    torch.testing.assert_close(weights[:, 2], torch.softmax(0.5 * log_weights[:, 2], 0), msg="left as they are")
    torch.testing.assert_close(_tempered_weights(log_weights, 0.0), torch.full_like(weights, 1 / 64))


def test_numbers_out_of_range_are_named() -> None:
    _, x, log_joint, guide = make()
    q = guide.posterior(x)
    for name in ("steps", "num_samples", "chunk_size"):
        with pytest.raises(ArgumentError, match=f"{name}: expected at least 1, got 0"):
            FitConfig(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"an exponent from 0 to 1, got step_size 0\.3 and exponent 1\.5"):
        FitConfig(exponent=1.5)
    with pytest.raises(ArgumentError, match=r"held: expected a share from 0 to below 1, got 1\.0"):
        FitConfig(held=1.0)
    with pytest.raises(ArgumentError, match="start: expected a Normal, a Fit or a Gaussian proposal, got Elliptical"):
        fit_gaussian(log_joint, normal_proposal(q).slots, "full")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"start: expected shape \(3, 3, 2\), that of log_joint, got \(2, 3, 2\)"):
        fit_gaussian(log_joint, guide.posterior(x[:2]), "full")


def test_as_many_dimensions_as_the_published_sizes_have() -> None:
    """With K = 7 and D = 16, fits in 112 dimensions must not diverge, and no family may get worse."""
    model = LinearGaussian(7, 16, observed_dim=20, scale=0.3)
    x = model.simulate(2)
    log_joint = LogJoint(model, x)
    q = FactorisedGuide(model, widening=0.5, shift=torch.linspace(-1, 1, 7)).posterior(x)
    block = fit_gaussian(log_joint, q, "block")
    full = fit_gaussian(log_joint, block, "full")
    covering = fit_gaussian(log_joint, full, "full", FitConfig(steps=100, num_samples=64, step_size=0.1, exponent=0.5))
    truth = model.log_evidence(x)
    gaps = [
        truth - proposal_log_evidence(log_joint, fit.proposal(), 500, symmetrise=False).elbo
        for fit in (block, full, covering)
    ]
    assert (gaps[0] > 5).all(), "the premise: slots are correlated"
    assert (gaps[1] < 1).all()
    assert (gaps[2] < 1).all()


def test_a_step_is_a_newton_step_near_the_optimum() -> None:
    """A full step from an error δ leaves one of order δ², which tests every factor of the natural gradient."""
    model, x, log_joint, _ = make()
    exact = model.posterior(x)
    delta = 0.02
    wrong = torch.eye(K * D, dtype=torch.float64) + delta * torch.randn(K * D, K * D, dtype=torch.float64).tril()
    loc = exact.mean + delta * torch.einsum("bij,j->bi", exact.scale_tril, torch.randn(K * D, dtype=torch.float64))
    start = Fit(loc.unflatten(-1, (K, D)), exact.scale_tril @ wrong, torch.zeros(1, B))
    config = FitConfig(steps=1, num_samples=200_000, step_size=1.0, chunk_size=50_000)
    fit = fit_gaussian(log_joint, start, "full", config)

    def errors(fit: Fit) -> tuple[Tensor, Tensor]:
        inverse = torch.linalg.inv(exact.scale_tril)
        location = torch.einsum("bij,bj->bi", inverse, fit.loc.flatten(1) - exact.mean)
        return location.norm(dim=-1), (inverse @ fit.scale_tril - torch.eye(K * D)).flatten(1).norm(dim=-1)

    for before, after in zip(errors(start), errors(fit), strict=True):
        assert (before > delta).all()
        assert (after < 0.12 * before).all()


class Cliff:
    """A standard normal that is cut off on one side, or has NaN in its gradient there."""

    def __init__(self, gradient: bool) -> None:
        self.num_scenes, self.event_shape, self.gradient = 2, (1, 1), gradient

    def __call__(self, z: Tensor) -> Tensor:
        value = -0.5 * z.square().sum((-2, -1))
        if self.gradient:  # the gradient at 0 is infinite, and is multiplied by 0 beyond the cliff
            return value + 0 * ((1 - z) + (1 - z).abs()).sqrt().sum((-2, -1))
        return value.masked_fill((z > 1).any(-1).any(-1), -torch.inf)


@pytest.mark.parametrize("exponent", [0.0, 0.5])
@pytest.mark.parametrize("gradient", [False, True])
def test_draws_beyond_a_cliff_do_not_count(gradient: bool, exponent: float) -> None:
    start = Normal(torch.zeros(2, 1, 1), torch.ones(2, 1, 1))
    log_joint = Cliff(gradient)
    fit = fit_gaussian(log_joint, start, "full", FitConfig(20, exponent=exponent))  # type: ignore[arg-type]
    assert fit.loc.isfinite().all()
    assert fit.scale_tril.isfinite().all()
    with pytest.raises(FloatingPointError, match="found none in 16 draws for scene 0"):
        fit_gaussian(log_joint, Normal(start.loc + 50, start.scale), "full", FitConfig(20))  # type: ignore[arg-type]


def test_a_start_with_a_graph_leaves_none_behind() -> None:
    _, x, log_joint, guide = make()
    q = guide.posterior(x)
    fit = fit_gaussian(log_joint, Normal(q.loc.requires_grad_(), q.scale), "block", FitConfig(steps=2))
    assert not any(part.requires_grad for part in fit)


def test_chunks_change_nothing() -> None:
    _, x, log_joint, guide = make()
    fits = []
    for chunk_size in (50, 3):
        torch.manual_seed(1)
        fits.append(fit_gaussian(log_joint, guide.posterior(x), "full", FitConfig(steps=3, chunk_size=chunk_size)))
    torch.testing.assert_close(fits[0].scale_tril, fits[1].scale_tril)

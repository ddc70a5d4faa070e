"""HMC against Gaussians whose moments are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_compvae.evidence.annealing.hmc import BOX, Target, hmc_step, jittered, leapfrog

L, B, K, D = 4000, 2, 2, 4


def gaussians() -> MultivariateNormal:
    """One correlated Gaussian for each scene, with different means and scales, of batch shape (B,)."""
    factor = torch.randn(B, K * D, K * D, dtype=torch.float64).tril(-1) * 0.3
    factor = factor + torch.diag_embed(torch.linspace(0.3, 2.0, K * D, dtype=torch.float64).repeat(B, 1))
    return MultivariateNormal(torch.randn(B, K * D, dtype=torch.float64) + 1, scale_tril=factor)


def target_of(density: MultivariateNormal) -> Target:
    return Target((lambda z: density.log_prob(z.flatten(-2)),), torch.ones(1, B, dtype=torch.float64))


def identity() -> Tensor:
    return torch.ones(B, K * D, 1, 1, dtype=torch.float64)


@pytest.mark.parametrize("coordinates", ["diagonal", "slots", "full"])
def test_a_correlated_gaussian_is_left_invariant(coordinates: str) -> None:
    """Chains start at exact draws, so that only invariance is tested; steps are so long that many are rejected."""
    density = gaussians()
    slots = density.covariance_matrix.reshape(B, K, D, K, D).diagonal(dim1=1, dim2=3).movedim(-1, 1)
    scale_tril = {
        "diagonal": identity(),
        "slots": torch.linalg.cholesky(slots),
        "full": density.scale_tril.unsqueeze(1),
    }[coordinates]
    target = target_of(density)
    point = target.evaluate(density.sample((L,)).reshape(L, B, K, D))
    step_size = torch.tensor([[0.5], [0.45]] if coordinates == "diagonal" else [[1.1], [1.0]], dtype=torch.float64)
    step_size = step_size * torch.linspace(0.8, 1.2, scale_tril.shape[-1])
    rates = []
    for _ in range(12):
        before = point
        point, info = hmc_step(target, point, step_size, scale_tril, jittered(3))
        rates.append(info.acceptance.mean())
    assert 0.15 < torch.stack(rates).mean() < 0.95, "the premise: some are rejected"
    assert (before.z != point.z).any()
    z, covariance = point.z.flatten(-2), density.covariance_matrix
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    assert ((z.mean(0) - density.mean).abs() < 4.5 * (variance / L).sqrt()).all()
    centred = z - density.mean
    observed = torch.einsum("lbi,lbj->bij", centred, centred) / L
    error = ((variance[:, :, None] * variance[:, None] + covariance**2) / L).sqrt()  # by Isserlis' theorem
    assert ((observed - covariance).abs() < 4.5 * error).all()


def test_chains_find_the_gaussian_from_elsewhere() -> None:
    density = gaussians()
    target, scale_tril = target_of(density), density.scale_tril.unsqueeze(1)
    point = target.evaluate(torch.full((L, B, K, D), 4.0, dtype=torch.float64))
    for _ in range(25):
        point, _ = hmc_step(target, point, torch.full((B, 1), 0.6, dtype=torch.float64), scale_tril, jittered(3))
    error = (density.variance / L).sqrt()
    assert ((point.z.flatten(-2).mean(0) - density.mean).abs() < 4.5 * error).all()
    # Points carry the values and gradients of their z, also after rejections.
    fresh = target.evaluate(point.z)
    torch.testing.assert_close(fresh.log_factors, point.log_factors)
    torch.testing.assert_close(fresh.gradients, point.gradients)


def test_small_steps_are_accepted_and_the_step_size_is_of_the_scene() -> None:
    density = gaussians()
    target = target_of(density)
    point = target.evaluate(density.sample((200,)).reshape(200, B, K, D))
    _, info = hmc_step(target, point, torch.tensor([[0.01], [1.5]], dtype=torch.float64), identity(), 5)
    rate = info.acceptance.mean(0)
    assert rate[0] > 0.999
    assert rate[1] < 0.5


def test_leapfrog_runs_backwards_with_the_momentum_reversed() -> None:
    density = gaussians()
    target, scale_tril = target_of(density), density.scale_tril.unsqueeze(1)
    point = target.evaluate(density.sample((5,)).reshape(5, B, K, D))
    momentum = torch.randn(5, B, 1, K * D, dtype=torch.float64)
    step_size = 0.3 + 0.4 * torch.rand(B, K * D, dtype=torch.float64)
    end, there, inside = leapfrog(target, point, momentum, step_size, scale_tril, 7)
    assert inside.all()
    assert (end.z - point.z).abs().min() > 1e-4, "the premise: it went somewhere"
    back, here, _ = leapfrog(target, end, -there, step_size, scale_tril, 7)
    torch.testing.assert_close(back.z, point.z, rtol=0, atol=1e-12)
    torch.testing.assert_close(-here, momentum, rtol=0, atol=1e-12)


def test_powers_multiply_factors() -> None:
    first, second = gaussians(), gaussians()
    factors = (lambda z: first.log_prob(z.flatten(-2)), lambda z: second.log_prob(z.flatten(-2)))
    powers = torch.tensor([[0.3, 1.0], [0.7, -0.2]], dtype=torch.float64)
    target = Target(factors, powers)
    z = torch.randn(3, B, K, D, dtype=torch.float64)
    leaf = z.clone().requires_grad_()
    expected = powers[0] * factors[0](leaf) + powers[1] * factors[1](leaf)
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    point = target.evaluate(z)
    torch.testing.assert_close(target.log_density(point), expected.detach())
    torch.testing.assert_close(target.gradient(point), gradient)


@pytest.mark.parametrize("outside", [math.nan, -math.inf])
def test_densities_that_are_not_finite_reject(outside: float) -> None:
    """The target is a half-normal: trajectories that cross zero are rejected, and the rest stays half-normal."""

    def half_normal(z: Tensor) -> Tensor:
        return torch.where((z > 0).all((-2, -1)), -0.5 * z.square().sum((-2, -1)), outside)

    target = Target((half_normal,), torch.ones(1, 1, dtype=torch.float64))
    point = target.evaluate(torch.randn(L, 1, 1, 1, dtype=torch.float64).abs())
    crossed = 0
    for _ in range(10):
        step_size = torch.full((1, 1), 0.7, dtype=torch.float64)
        point, info = hmc_step(target, point, step_size, torch.ones(1, 1, 1, 1, dtype=torch.float64), 2)
        crossed += int((info.acceptance == 0).sum())
    assert crossed > L, "the premise"
    assert all(part.isfinite().all() for part in point)
    expected, error = math.sqrt(2 / math.pi), math.sqrt((1 - 2 / math.pi) / L)
    assert abs(float(point.z.mean()) - expected) < 4 * error


def test_steps_far_too_long_reject_without_asking_the_density_outside_the_box() -> None:
    asked = []

    def normal(z: Tensor) -> Tensor:
        asked.append(float(z.detach().abs().max()))
        return -0.5 * z.square().sum((-2, -1))

    target = Target((normal,), torch.ones(1, B, dtype=torch.float64))
    start = target.evaluate(torch.randn(20, B, K, D, dtype=torch.float64))
    step_size = torch.tensor([[1e200], [0.1]], dtype=torch.float64)
    end, info = hmc_step(target, start, step_size, identity(), 4)
    assert max(asked) <= BOX
    assert (info.acceptance[:, 0] == 0).all()
    torch.testing.assert_close(end.z[:, 0], start.z[:, 0], rtol=0, atol=0)
    assert info.accepted[:, 1].all(), "its neighbour goes on"


def test_jitter_is_symmetric_about_the_mean() -> None:
    assert {jittered(1) for _ in range(20)} == {1}
    assert {jittered(5) for _ in range(200)} == {3, 4, 5, 6, 7}

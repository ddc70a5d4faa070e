"""The slopes of noisy ELBOs."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from pyro_compvae.evidence.fitting.convergence import elbo_slope, step_share

STEPS, HELD = 80, 0.5


def test_the_error_of_a_rise_is_its_scatter_over_repetitions() -> None:
    noise = torch.randn(STEPS, 4000, dtype=torch.float64)
    slope = elbo_slope(noise, HELD)
    assert abs(float(slope.rise.mean())) < 4 * float(slope.rise.std()) / 4000**0.5
    assert float(slope.rise.std()) == pytest.approx(float(slope.standard_error.square().mean().sqrt()), rel=0.05)
    # The test is at two standard errors, with 18 degrees of freedom.
    assert 0.92 < float(slope.converged.double().mean()) < 0.96


def test_a_line_is_found_and_what_comes_before_and_after_is_not_looked_at() -> None:
    elbo = torch.full((STEPS, 2), -1e6, dtype=torch.float64)
    elbo[STEPS // 4 : STEPS // 2] = torch.linspace(0, 3, STEPS // 4, dtype=torch.float64).unsqueeze(1)
    slope = elbo_slope(elbo, HELD)
    torch.testing.assert_close(slope.rise, torch.full((2,), 3.0, dtype=torch.float64))
    assert not slope.converged.any()
    assert elbo_slope(0.05 * elbo, HELD).converged.all(), "0.15 nats are negligible"
    assert not elbo_slope(-elbo, HELD).converged.any(), "a fit that falls has not arrived either"


def test_steps_are_held_then_fall_to_a_twentieth() -> None:
    shares = [step_share(step, 100, 0.5) for step in range(101)]
    assert shares[:51] == [1.0] * 51
    assert all(a > b for a, b in pairwise(shares[50:]))
    assert shares[100] == pytest.approx(0.05)
    assert step_share(50, 100, 0.0) == pytest.approx(0.525)


def test_too_few_steps_are_named() -> None:
    with pytest.raises(ValueError, match=r"held: expected a share from 0 to below 1, got 1\.0"):
        step_share(3, 10, 1.0)
    with pytest.raises(ValueError, match="expected at least 3 steps of constant size in a half, got 2"):
        elbo_slope(torch.zeros(8, 1), HELD)

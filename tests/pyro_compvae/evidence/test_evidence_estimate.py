"""Estimates from importance weights whose distribution is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_compvae.evidence import EvidenceEstimate
from pyro_compvae.evidence.estimate import (
    estimate_from_log_weights,
    leave_one_out_logsumexp,
    log_mean_exp,
    reliable_khat,
)
from pyro_compvae.evidence.pareto import MIN_DRAWS, pareto_smoothed


def log_normal(L: int, B: int, sigma: float) -> Tensor:
    """Log-normal weights with mean 1, as logarithms (L, B)."""
    return sigma * torch.randn(L, B, dtype=torch.float64) - 0.5 * sigma**2


def pareto(L: int, B: int, khat: float) -> Tensor:
    """Log weights (L, B) with P(w > t) = t^(-1/khat), whose mean weight is 1 / (1 - khat) for khat < 1."""
    return -khat * torch.rand(L, B, dtype=torch.float64).log()


def test_all_numbers_of_three_weights_by_hand() -> None:
    """The weights are 1, 2 and 3 at a scale of e^-1000."""
    estimate = estimate_from_log_weights(torch.tensor([[1.0], [2.0], [3.0]]).double().log() - 1000)
    values = {
        "log_evidence": math.log(2) - 1000,
        "standard_error": math.sqrt(1 / 3) / 2,  # sample variance 1, 3 draws, and a mean of 2
        "ess": 36 / 14,
        "elbo": math.log(6) / 3 - 1000,
    }
    for name, value in values.items():
        torch.testing.assert_close(getattr(estimate, name), torch.tensor([value]).double(), msg=name)
    leave_one_out = (math.log(2.5) + math.log(2) + math.log(1.5)) / 3
    torch.testing.assert_close(
        estimate.jackknife(), torch.tensor([3 * math.log(2) - 2 * leave_one_out - 1000]).double()
    )


def test_shapes_and_precision() -> None:
    estimate = estimate_from_log_weights(log_normal(100, 4, 1.0).float())
    for name in ("log_evidence", "standard_error", "khat", "ess", "elbo"):
        assert getattr(estimate, name).shape == (4,)
        assert getattr(estimate, name).dtype == torch.float64
    assert estimate.log_weights.shape == (100, 4)
    for value in (estimate.jackknife(), estimate.smoothed(), estimate.iwae(7)):
        assert value.shape == (4,)


def test_scenes_do_not_mix_and_a_constant_factor_comes_out() -> None:
    log_weights = log_normal(200, 3, 1.0)
    shift = torch.tensor([0.0, -1e4, 300.0]).double()
    both, plain = estimate_from_log_weights(log_weights + shift), estimate_from_log_weights(log_weights)
    for name in ("standard_error", "khat", "ess"):
        torch.testing.assert_close(getattr(both, name), getattr(plain, name), rtol=1e-6, atol=1e-8)
    for name in ("log_evidence", "elbo"):
        torch.testing.assert_close(getattr(both, name), getattr(plain, name) + shift)
    for name in ("jackknife", "smoothed"):
        torch.testing.assert_close(getattr(both, name)(), getattr(plain, name)() + shift)
    for b in range(3):
        alone = estimate_from_log_weights(log_weights[:, b : b + 1])
        torch.testing.assert_close(alone.khat[0], plain.khat[b])
        torch.testing.assert_close(alone.smoothed()[0], plain.smoothed()[b])


def test_standard_error_is_the_spread_of_repeated_estimates() -> None:
    repeats = 2000
    estimate = estimate_from_log_weights(log_normal(500, repeats, 0.7))
    spread = estimate.log_evidence.std()
    stated = estimate.standard_error.square().mean().sqrt()
    # A standard deviation of 2000 values is known to 1.6 %; the delta method errs by a part in L.
    assert (stated / spread - 1).abs() < 4 / math.sqrt(2 * repeats)
    # It also has the right size: (e^σ² - 1) / L
    torch.testing.assert_close(float(stated), math.sqrt((math.exp(0.49) - 1) / 500), rtol=0.02, atol=0)


def test_jackknife_takes_the_bias_of_the_log_away() -> None:
    repeats, L, sigma = 50_000, 20, 0.8
    estimate = estimate_from_log_weights(log_normal(L, repeats, sigma))
    plain, corrected = estimate.log_evidence, estimate.jackknife()
    error = float(plain.std()) / math.sqrt(repeats)
    expected = -(math.exp(sigma**2) - 1) / (2 * L)
    assert expected < -10 * error, "the premise: the bias is seen"
    assert plain.mean() == pytest.approx(expected, rel=0.15)
    assert abs(float(corrected.mean())) < 0.2 * abs(expected)
    with pytest.raises(ValueError, match="jackknife: expected at least 2 draws, got 1"):
        estimate_from_log_weights(torch.zeros(1, 3)).jackknife()


@pytest.mark.parametrize("khat", [0.25, 0.5, 0.8, 1.2])
def test_khat_is_the_shape_of_the_tail(khat: float) -> None:
    scenes = 10
    estimate = estimate_from_log_weights(pareto(20_000, scenes, khat) - 700)
    assert (estimate.khat.mean() - khat).abs() < 0.15
    # The tail has 425 draws: the standard deviation of a fitted shape is (1 + k) / √425.
    assert ((estimate.khat - khat).abs() < 4 * (1 + khat) / math.sqrt(425)).all()


def test_khat_of_bounded_weights_is_far_below_the_band() -> None:
    estimate = estimate_from_log_weights(torch.rand(5000, 5, dtype=torch.float64).log())
    assert (estimate.khat < 0).all()
    assert estimate.reliable.all()


@pytest.mark.parametrize("rounding", [0.0, 1e-12])
def test_equal_weights_are_the_best_there_are(rounding: float) -> None:
    """Weights from the exact posterior differ between draws by rounding only."""
    estimate = estimate_from_log_weights(-12345.6 + rounding * torch.randn(100, 2, dtype=torch.float64))
    torch.testing.assert_close(estimate.log_evidence, torch.full((2,), -12345.6, dtype=torch.float64))
    torch.testing.assert_close(estimate.smoothed(), estimate.log_evidence)
    torch.testing.assert_close(estimate.jackknife(), estimate.log_evidence)
    assert (estimate.standard_error < 1e-6).all()
    torch.testing.assert_close(estimate.ess, torch.full((2,), 100.0, dtype=torch.float64))
    assert (estimate.khat == -math.inf).all()
    assert estimate.reliable.all()


def test_smoothing_replaces_the_largest_weights_and_no_others() -> None:
    log_weights = pareto(1000, 3, 0.6) - 50
    smoothed, _ = pareto_smoothed(log_weights)
    tail = math.ceil(3 * math.sqrt(1000))
    order = log_weights.argsort(0)
    before, after = log_weights.gather(0, order), smoothed.gather(0, order)
    torch.testing.assert_close(after[:-tail], before[:-tail])
    assert ((after[-tail:] - before[-tail:]).abs().max(0).values > 0.01).all()
    assert (after.diff(dim=0) >= -1e-9).all(), "their order stays"
    assert (after <= before[-1] + 1e-9).all(), "none is larger than the largest"


def test_smoothing_brings_the_estimate_closer_to_the_truth() -> None:
    repeats, khat = 300, 0.65
    estimate = estimate_from_log_weights(pareto(1000, repeats, khat))
    truth = -math.log(1 - khat)
    plain, smoothed = ((value - truth).square().mean().sqrt() for value in (estimate.log_evidence, estimate.smoothed()))
    assert smoothed < 0.95 * plain
    light = estimate_from_log_weights(log_normal(1000, repeats, 0.5))
    assert (light.khat < 0.7).float().mean() > 0.99
    assert (light.smoothed().mean()).abs() < 0.2 * light.standard_error.mean(), "and leaves light tails alone"


def test_too_few_draws_for_khat_say_so() -> None:
    assert MIN_DRAWS == 30
    few, enough = log_normal(29, 3, 1.0), log_normal(30, 3, 1.0)
    estimate = estimate_from_log_weights(few)
    assert estimate.khat.isnan().all()
    assert not estimate.reliable.any()
    assert estimate.verdict() == "29 draws are too few to tell whether to believe the estimates"
    torch.testing.assert_close(estimate.smoothed(), estimate.log_evidence)
    assert estimate_from_log_weights(enough).khat.isfinite().all()


def test_a_single_draw_has_no_standard_error() -> None:
    estimate = estimate_from_log_weights(torch.tensor([[-3.0, 2.0]]))
    assert estimate.log_evidence.tolist() == estimate.elbo.tolist() == [-3.0, 2.0]
    assert estimate.standard_error.isnan().all()
    assert estimate.ess.tolist() == [1.0, 1.0]


def test_weights_of_zero_count_as_zero() -> None:
    """Among other weights they count in the mean; alone they give an evidence of zero, which is not reliable."""
    log_weights = log_normal(2000, 2, 0.5)
    log_weights[::2, 0] = -math.inf
    log_weights[:, 1] = -math.inf
    estimate = estimate_from_log_weights(log_weights)
    expected = torch.tensor([math.log(0.5), -math.inf]).double()
    torch.testing.assert_close(
        estimate.log_evidence[0], log_mean_exp(log_weights[1::2, 0]) + math.log(0.5), rtol=1e-12, atol=1e-12
    )
    for value in (estimate.log_evidence, estimate.smoothed()):
        torch.testing.assert_close(value, expected, rtol=0, atol=4 * float(estimate.standard_error[0]))
    assert estimate.jackknife()[0] == pytest.approx(math.log(0.5), abs=4 * float(estimate.standard_error[0]))
    assert estimate.khat[0] < 0.7
    assert estimate.khat[1].isnan()
    assert estimate.verdict().startswith("believe 1 of 2 scenes")


def with_khat(khat: list[float], ess: list[float], num_draws: int = 5000) -> EvidenceEstimate:
    zeros = torch.zeros(len(khat))
    return EvidenceEstimate(zeros, zeros, torch.tensor(khat), torch.tensor(ess), torch.zeros(num_draws, len(khat)))


def test_verdicts() -> None:
    good = with_khat([0.2, -0.4, 0.69], [300.0, 50.0, 120.0])
    assert good.verdict() == "believe it: k̂ < 0.7 for all 3 scenes, median effective sample size 120 of 5000"
    mixed = with_khat([0.2, 0.7, 0.99, 1.0, 3.0, math.inf], [300.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    assert mixed.reliable.tolist() == [True] + [False] * 5
    assert mixed.verdict() == (
        "believe 1 of 6 scenes (k̂ < 0.7); 2 are biased low by an unknown amount, 3 are lower bounds and no more "
        "(k̂ ≥ 1); median effective sample size 3 of 5000"
    )


def test_fewer_draws_bear_a_smaller_khat() -> None:
    """The threshold is min(1 − 1 / log10 L, 0.7) (Vehtari et al. 2024)."""
    assert [reliable_khat(L) for L in (1, 10, 100, 10**4)] == [-math.inf, 0.0, 0.5, 0.7]
    few = with_khat([0.4, 0.6], [20.0, 20.0], num_draws=64)
    assert few.reliable.tolist() == [True, False]
    assert few.verdict().startswith("believe 1 of 2 scenes (k̂ < 0.45)")


def test_iwae_by_hand_and_what_it_refuses() -> None:
    log_weights = torch.randn(7, 2, dtype=torch.float64)
    estimate = estimate_from_log_weights(log_weights)
    weights = log_weights.exp()
    expected = torch.stack([weights[:3].mean(0).log(), weights[3:6].mean(0).log()]).mean(0)  # the seventh is left over
    torch.testing.assert_close(estimate.iwae(3), expected)
    torch.testing.assert_close(estimate.iwae(1), estimate.elbo)
    torch.testing.assert_close(estimate.iwae(7), estimate.log_evidence)
    for num_samples in (0, 8, -1):
        with pytest.raises(ValueError, match=f"num_samples: expected 1 to 7, the draws there are, got {num_samples}"):
            estimate.iwae(num_samples)


def test_iwae_has_the_expected_value_of_its_number_of_samples() -> None:
    """For log-normal weights with small σ the bias is -Var/2L, by Taylor expansion."""
    sigma = 0.3
    estimate = estimate_from_log_weights(log_normal(200_000, 1, sigma))
    for num_samples in (1, 2, 5):
        bound = float(estimate.iwae(num_samples))
        error = sigma / math.sqrt(200_000)
        assert bound == pytest.approx(-(math.exp(sigma**2) - 1) / (2 * num_samples), abs=4 * error + 2e-3 / num_samples)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_leave_one_out_against_brute_force(dim: int) -> None:
    values = torch.randn(6, 5, dtype=torch.float64)
    values[2, 3] = 1e3  # without the bias the rest must be exact
    values[4, 1] = -math.inf
    result = leave_one_out_logsumexp(values, dim)
    assert result.shape == values.shape
    for i in range(values.shape[dim]):
        others = torch.cat((values.narrow(dim, 0, i), values.narrow(dim, i + 1, values.shape[dim] - i - 1)), dim)
        torch.testing.assert_close(result.select(dim, i), others.logsumexp(dim), rtol=1e-13, atol=1e-13)


def test_leave_one_out_of_one_and_two() -> None:
    assert leave_one_out_logsumexp(torch.tensor([3.0])).tolist() == [-math.inf]
    assert leave_one_out_logsumexp(torch.tensor([3.0, -7.0])).tolist() == [-7.0, 3.0]


def test_leave_one_out_gradient() -> None:
    values = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(leave_one_out_logsumexp, (values,))

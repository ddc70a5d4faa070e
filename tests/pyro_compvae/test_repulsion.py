"""The repulsive prior: its normaliser, its draws, and the evidence under it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from scipy.special import hyp1f1

from pyro_compvae import RepulsivePrior, lnms_log_density, repulsive
from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.annealing.chains import anneal
from pyro_compvae.evidence.annealing.config import AnnealingConfig
from pyro_compvae.evidence.annealing.path import Path as AnnealingPath
from pyro_compvae.evidence.annealing.path import make_plan
from pyro_compvae.evidence.density import LogJoint
from pyro_compvae.evidence.proposals.symmetric import standard_normal_proposal
from pyro_compvae.guides import build_guide
from pyro_compvae.normaliser import UnnormalisedRepulsion, _cached, cache_path, estimate_log_normaliser
from pyro_compvae.repulsion import repulsion_of
from pyro_compvae.runs.presets import preset

EFFORT = {"num_chains": 512, "num_temperatures": 40}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _cached.cache_clear()


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normalisers are estimated with little effort by default."""
    monkeypatch.setattr(estimate_log_normaliser, "__defaults__", (0.1, 64, 10, 3))


def closed_form(latent_dim: int, strength: float, scale: float) -> float:
    """log Z of two slots. The squared cosine of random directions is Beta(1/2, (D − 1)/2), so the mean of exp(−s Σ² /
    σ_c²) is Kummer's function."""
    mean = hyp1f1(0.5, latent_dim / 2, -strength / scale**2)
    return math.log(mean) - 2 * strength * (math.log(scale) + 0.5 * math.log(2 * math.pi))


@pytest.mark.parametrize(("latent_dim", "strength", "scale"), [(2, 1.0, 0.1), (8, 0.15, 0.1), (3, 2.0, 0.5)])
def test_two_slots_against_the_closed_form(latent_dim: int, strength: float, scale: float) -> None:
    value, error, _ = estimate_log_normaliser(2, latent_dim, strength, scale, **EFFORT)
    assert 0 < error < 0.06
    assert abs(value - closed_form(latent_dim, strength, scale)) < 4 * error


@pytest.mark.parametrize(("num_slots", "latent_dim", "strength"), [(3, 4, 0.02), (5, 8, 0.02), (7, 16, 0.02)])
def test_weak_repulsion_against_plain_monte_carlo(num_slots: int, latent_dim: int, strength: float) -> None:
    z = torch.randn(40_000, num_slots, latent_dim, dtype=torch.float64)
    weights = (strength * lnms_log_density(z)).exp()
    expected, spread = float(weights.mean().log()), float(weights.std() / weights.mean()) / 40_000**0.5
    value, error, _ = estimate_log_normaliser(num_slots, latent_dim, strength, **EFFORT)
    assert abs(value - expected) < 4 * math.hypot(error, spread)
    assert error < 0.05


@pytest.mark.slow
def test_strong_repulsion_against_another_schedule() -> None:
    """The other schedule has temperatures at powers of four instead of the pilot's, and other numbers of steps."""
    K, D, strength = 5, 8, 0.15
    value, error, _ = estimate_log_normaliser(K, D, strength, num_chains=1024, num_temperatures=60)

    config = AnnealingConfig(num_temperatures=80, leapfrog_steps=3, pilot_chains=16)
    path = AnnealingPath(UnnormalisedRepulsion((K, D), strength, 0.1), standard_normal_proposal(1, K, D))
    with torch.no_grad():
        plan = make_plan(path, config, torch.linspace(0, 1, 81, dtype=torch.float64) ** 4)
        other = anneal(path, plan, path.start.rsample(1024), chunk_size=1024).estimate
    assert abs(value - float(other.log_evidence)) < 4 * math.hypot(error, float(other.standard_error))
    assert max(error, float(other.standard_error)) < 0.1


def test_no_repulsion_is_the_normal_prior() -> None:
    assert estimate_log_normaliser(4, 3, 0.0, **EFFORT)[:2] == (0.0, 0.0)
    z = torch.randn(6, 4, 3)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum((-2, -1))
    torch.testing.assert_close(RepulsivePrior(4, 3, 0.0).log_prob(z), expected)


def test_what_was_estimated_is_kept_and_random_numbers_are_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state()
    first = estimate_log_normaliser(3, 4, 0.1, **EFFORT)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(json.loads(cache_path().read_text()).values()) == [list(first)]
    _cached.cache_clear()
    monkeypatch.setattr("pyro_compvae.normaliser.annealed", None)  # not called again
    assert estimate_log_normaliser(3, 4, 0.1, **EFFORT) == first
    monkeypatch.undo()


def test_a_damaged_cache_or_one_that_cannot_be_written_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = estimate_log_normaliser(3, 4, 0.1, **EFFORT)
    cache_path().write_text("{ not JSON")
    _cached.cache_clear()
    assert estimate_log_normaliser(3, 4, 0.1, **EFFORT) == first
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    _cached.cache_clear()
    assert estimate_log_normaliser(3, 4, 0.1, **EFFORT) == first


def test_draws_repel_one_another() -> None:
    """E[s dL/ds] under p̃ is d log Z/ds, here by finite differences."""
    K, D, strength, step = 4, 6, 0.1, 0.02
    effort = {"num_chains": 1024, "num_temperatures": 60}
    prior = RepulsivePrior(K, D, strength, log_normaliser=0.0)
    z = prior.expand(torch.Size([3])).sample(torch.Size([500]))
    assert z.shape == (500, 3, K, D)
    values = lnms_log_density(z.double()).flatten()
    above, below = (estimate_log_normaliser(K, D, strength + sign * step, **effort) for sign in (1, -1))
    slope = (above.log_normaliser - below.log_normaliser) / (2 * step)
    error = math.hypot(above.standard_error, below.standard_error) / (2 * step)
    error = math.hypot(error, float(values.std()) / len(values) ** 0.5)
    assert abs(float(values.mean()) - slope) < 4 * error
    independent = lnms_log_density(torch.randn(1500, K, D, dtype=torch.float64))
    assert float(values.mean()) > float(independent.mean()) + 10 * error


@pytest.mark.usefixtures("_quick")
def test_a_repulsive_model_is_plain_pyro_and_shares_its_weights() -> None:
    guide = build_guide(preset("tiny", "iodine")).eval()
    model, strength = guide.model, 0.2
    other = repulsive(model, strength)
    assert repulsion_of(model) is None
    assert repulsion_of(other) is not None
    assert all(a is b for a, b in zip(model.parameters(), other.parameters(), strict=True))
    x = torch.rand(2, 3, *model.image_size)
    K, D = model.num_slots, model.latent_dim
    z = torch.randn(5, 2, K, D)
    log_z = estimate_log_normaliser(K, D, strength).log_normaliser
    difference = LogJoint(other, x)(z) - LogJoint(model, x)(z)
    torch.testing.assert_close(difference, (strength * lnms_log_density(z) - log_z).double(), atol=1e-3, rtol=1e-5)
    as_mean = LogJoint(repulsive(model, strength * K * (K - 1), form="mean"), x)(z)
    torch.testing.assert_close(as_mean, LogJoint(other, x)(z))
    with pytest.raises(ArgumentError, match="form: expected sum or mean"):
        repulsive(model, strength, form="presence")
    images = Predictive(other, num_samples=3)(None, 2)["x"]
    assert images.shape == (3, 2, 3, *model.image_size)
    trace = poutine.trace(other).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes["z"]["log_prob"].shape == (2,)
    other.num_slots += 1
    with pytest.raises(ArgumentError, match=f"num_slots: expected {K} slots .* got \\({K + 1}, {D}\\)"):
        other(None, 2)


@pytest.mark.usefixtures("_quick")
def test_nothing_is_estimated_inside_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    other = repulsive(build_guide(preset("tiny", "iodine")).model, 0.2)
    monkeypatch.setattr("pyro_compvae.repulsion.estimate_log_normaliser", None)
    assert other(None, 2).shape == (2, 3, *other.image_size)


def test_impossible_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="num_slots: expected at least 2, of which one repels the other, got 1"):
        estimate_log_normaliser(1, 4, 0.1)
    with pytest.raises(ValueError, match="strength: expected zero or more, got -1"):
        estimate_log_normaliser(2, 4, -1.0)
    with pytest.raises(ValueError, match=r"scale: expected a positive standard deviation, got 0\.0"):
        estimate_log_normaliser(2, 4, 1.0, 0.0)

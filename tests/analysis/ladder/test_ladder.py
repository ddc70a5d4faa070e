"""Gap ladders on models for which every rung's gap has a closed form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from helpers.slot_models import FactorisedGuide, FixedGuide, LinearGaussian, SeparatedModel
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.ladder.compute import GAPS, Ladder, LadderConfig, gap_ladder
from pyro_compvae.analysis.ladder.data_set import ladder_data
from pyro_compvae.analysis.ladder.figure import ladder_figure
from pyro_compvae.analysis.ladder.table import ladder_table
from pyro_compvae.evidence.density import LogJoint

B, K, D = 3, 3, 2
QUICK = LadderConfig(approach_steps=60, fit_steps=60, flow_steps=40, num_samples=4000, chunk_size=2000, ais_chains=32)


@pytest.fixture(scope="module")
def linear() -> tuple[Ladder, dict[str, Tensor]]:
    """A ladder on a Gaussian posterior with dependence between slots and within them, and its exact gaps."""
    torch.manual_seed(0)
    model = LinearGaussian(K, D, observed_dim=2, scale=0.7)
    x = model.simulate(B)
    guide = FactorisedGuide(model, widening=1.3, shift=torch.tensor([0.5, -1.0, 0.2]))
    posterior, q = model.posterior(x), guide.posterior(x)
    precision = posterior.precision_matrix
    blocks = torch.stack([precision[:, k : k + D, k : k + D] for k in range(0, K * D, D)], dim=1)
    amortised = torch.distributions.MultivariateNormal(q.loc.flatten(1), torch.diag_embed(q.scale.square().flatten(1)))
    diagonal = 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - precision.logdet())
    block = 0.5 * (blocks.logdet().sum(-1) - precision.logdet())
    expected = {
        "amortisation": torch.distributions.kl_divergence(amortised, posterior) - diagonal,
        "within_slot": diagonal - block,
        "independence": block,
        "non_gaussian": torch.zeros_like(block),
        "log_evidence": model.log_evidence(x),
    }
    return gap_ladder(LogJoint(model, x), q, QUICK), expected


def test_gaps_are_their_closed_forms(linear: tuple[Ladder, dict[str, Tensor]]) -> None:
    ladder, expected = linear
    gaps, errors = ladder.gaps(), ladder.standard_errors()
    for name in ("amortisation", "within_slot", "independence", "non_gaussian"):
        assert ((gaps[name] - expected[name]).abs() < 4 * errors[name] + 0.01).all(), name
        assert (errors[name] < 0.15).all(), name
    for name in ("amortisation", "within_slot", "independence"):
        assert (expected[name] > 0.1).all(), "a gap that is none shows nothing"
    assert all(rung.slope.converged.all() for rung in ladder.rungs.values())
    assert ladder.rungs["diagonal"].evaluations == 60 * 16 + 60 * 128 + 4000
    assert ladder.rungs["full"].evaluations == 60 * 128 + 4000
    assert not any(failed.any() for failed in ladder.failures().values())


def test_an_exchangeable_posterior_has_no_symmetry_gap(linear: tuple[Ladder, dict[str, Tensor]]) -> None:
    ladder, expected = linear
    assert (ladder.gaps()["symmetry"].abs() < 0.02).all()
    assert (ladder.gaps()["residual"].abs() < 4 * ladder.standard_errors()["residual"] + 0.01).all()
    error = ladder.evidence.log_evidence - expected["log_evidence"]
    assert (error.abs() < 4 * ladder.evidence.standard_error).all()
    assert (ladder.evidence.standard_error < 0.1).all()


def test_gaps_sum_to_the_whole(linear: tuple[Ladder, dict[str, Tensor]]) -> None:
    ladder, _ = linear
    whole = ladder.evidence.log_evidence - ladder.rungs["amortised"].elbo
    torch.testing.assert_close(torch.stack(list(ladder.gaps().values())).sum(0), whole)
    assert tuple(ladder.gaps()) == GAPS


@pytest.mark.parametrize("flow_steps", [0, 40])
def test_two_separated_slots_have_a_symmetry_gap_of_log_2(flow_steps: int) -> None:
    model = SeparatedModel().eval()
    x = torch.tensor([[-1.0, 1.2], [-0.5, 2.0]], dtype=torch.float64)
    guide = FixedGuide(x.unsqueeze(-1), torch.full((2, 2, 1), 0.15, dtype=torch.float64))
    config = LadderConfig(60, 40, flow_steps, num_samples=2000, symmetry_samples=2000, chunk_size=2000, ais_chains=32)
    ladder = gap_ladder(LogJoint(model, x), guide.posterior(x), config)
    gaps = ladder.gaps()
    assert ("non_gaussian" in gaps) == (flow_steps > 0)
    torch.testing.assert_close(gaps["symmetry"], torch.full((2,), math.log(2)).double(), atol=1e-6, rtol=0)
    error = ladder.evidence.log_evidence - model.log_evidence(x)
    assert (error.abs() < 4 * ladder.evidence.standard_error + 1e-3).all()
    for name in ("within_slot", "independence", "residual"):
        assert (gaps[name].abs() < 4 * ladder.standard_errors()[name] + 0.02).all(), name


def test_what_did_not_converge_and_what_got_worse_are_said(linear: tuple[Ladder, dict[str, Tensor]]) -> None:
    model = LinearGaussian(K, D, observed_dim=2, scale=0.1)
    x = model.simulate(B)
    far = Normal(torch.full((B, K, D), 40.0).double(), torch.full((B, K, D), 1e-3).double())
    config = LadderConfig(approach_steps=1, fit_steps=20, flow_steps=0, num_samples=100, ais_chains=4)
    ladder = gap_ladder(LogJoint(model, x), far, config)
    assert not ladder.rungs["diagonal"].slope.converged.any()
    assert f"0 of {B}" in ladder_table(ladder_data(ladder)).splitlines()[2]

    good, _ = linear
    full = good.rungs["full"]
    worse = full._replace(elbo=full.elbo - torch.tensor([0.0, 3.0, 0.0]))
    broken = good._replace(rungs=good.rungs | {"full": worse})
    assert broken.failures()["full"].tolist() == [False, True, False]
    lost = full._replace(elbo=full.elbo - torch.tensor([torch.inf, 0, 0]), standard_error=full.elbo * torch.nan)
    assert good._replace(rungs=good.rungs | {"full": lost}).failures()["full"].tolist() == [True, False, False]
    row = next(line for line in ladder_table(ladder_data(broken)).splitlines() if line.startswith("full"))
    assert f"1 of {B}" in row


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ValueError, match="fit_steps: expected at least 20, or convergence cannot be judged; got 5"):
        LadderConfig(fit_steps=5)
    with pytest.raises(ValueError, match="flow_steps: expected at least 20"):
        LadderConfig(flow_steps=3)
    with pytest.raises(ValueError, match="num_samples, symmetry_samples: expected at least 2"):
        LadderConfig(num_samples=0)
    with pytest.raises(ValueError, match="cover_steps: expected at least 1, got 0"):
        LadderConfig(cover_steps=0)


def test_the_figure_shows_every_part(linear: tuple[Ladder, dict[str, Tensor]], tmp_path: Path) -> None:
    ladder_figure(tmp_path / "ladder.png", ladder_data(linear[0]), "a title")
    assert (tmp_path / "ladder.png").stat().st_size > 10_000


@pytest.mark.slow(seconds=50)
def test_the_full_covariance_of_112_dimensions_is_found() -> None:
    """The sizes are the published ones, K = 7 and D = 16, and the independence gap is 33 nats."""
    model = LinearGaussian(7, 16, observed_dim=20, scale=0.3)
    x = model.simulate(2)
    guide = FactorisedGuide(model, widening=1.3, shift=torch.linspace(-1, 1, 7))
    ladder = gap_ladder(LogJoint(model, x), guide.posterior(x), LadderConfig(flow_steps=0, num_samples=2000))
    precision = model.posterior(x).precision_matrix
    blocks = torch.stack([precision[:, k : k + 16, k : k + 16] for k in range(0, 112, 16)], dim=1)
    expected = 0.5 * (blocks.logdet().sum(-1) - precision.logdet())
    assert (expected > 30).all()
    gaps, errors = ladder.gaps(), ladder.standard_errors()
    assert ((gaps["independence"] - expected).abs() < 4 * errors["independence"] + 0.01).all()
    assert (gaps["residual"].abs() < 4 * errors["residual"] + 0.01).all()

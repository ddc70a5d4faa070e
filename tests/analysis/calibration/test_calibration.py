"""Simulation-based calibration raises no alarm about an exact posterior, and alarms about planted faults.

Every alarm below uses Bonferroni's correction over all test quantities at 1 %, so an exact posterior raises one in at
most 1 % of the experiments.
"""

from __future__ import annotations

import pytest
import torch
from helpers.slot_models import FactorisedGuide, LinearGaussian
from scipy.stats import binom
from torch import Tensor

from pyro_compvae.analysis.calibration.compute import QUANTITIES, invariants, ranks, scene_ranks
from pyro_compvae.analysis.calibration.uniformity import uniformity
from pyro_compvae.evidence.density import LogJoint

LEVEL = 0.01


def experiment(num_scenes: int, scale: float = 1.0, shift: float = 0.0, num_draws: int = 60) -> bool:
    """Whether calibration raises an alarm about the exact posterior with a multiplied scale and a shifted mean, the
    shift being in standard deviations."""
    model = LinearGaussian(num_slots=3, latent_dim=2, observed_dim=4, scale=0.5)
    z_exact = torch.randn(num_scenes, 3, 2, dtype=torch.float64)
    x = z_exact.sum(-2) @ model.weight.T + model.bias + model.scale * torch.randn(num_scenes, 4, dtype=torch.float64)
    exact = model.posterior(x)
    noise = exact.sample((num_draws,)) - exact.mean
    z = (exact.mean + shift * exact.stddev + scale * noise).unflatten(-1, (3, 2))
    q = FactorisedGuide(model).posterior(x)
    found = scene_ranks(LogJoint(model, x), q, z_exact, z)
    assert found.shape == (len(QUANTITIES), num_scenes)
    return min(uniformity(values.numpy()).p_value for values in found) <= LEVEL / len(QUANTITIES)


@pytest.mark.parametrize("seed", range(5))
def test_an_exact_posterior_passes(seed: int) -> None:
    torch.manual_seed(seed)
    assert not experiment(num_scenes=300)


@pytest.mark.parametrize("fault", [{"scale": 0.5}, {"scale": 1.5}, {"shift": 0.5}, {"shift": -0.5}])
@pytest.mark.parametrize("seed", range(5))
def test_planted_faults_are_found(fault: dict[str, float], seed: int) -> None:
    torch.manual_seed(seed)
    assert experiment(num_scenes=300, **fault)


def test_the_share_of_false_alarms_is_as_stated() -> None:
    torch.manual_seed(0)
    alarms = sum(experiment(num_scenes=40, num_draws=20) for _ in range(150))
    assert alarms <= binom.ppf(0.999, 150, LEVEL)


def test_invariants_do_not_change_under_permutations_and_are_what_they_are_called() -> None:
    model = LinearGaussian(num_slots=3, latent_dim=2)
    x = model.simulate(2)
    log_joint, q = LogJoint(model, x), FactorisedGuide(model, shift=torch.arange(3.0)).posterior(x)
    z = torch.randn(5, 2, 3, 2, dtype=torch.float64)
    found, permuted = (invariants(log_joint, q, draws) for draws in (z, z[..., [2, 0, 1], :]))
    assert set(found) == set(QUANTITIES)
    for name, values in found.items():
        torch.testing.assert_close(values, permuted[name])
    torch.testing.assert_close(found["log_joint"], log_joint(z))
    torch.testing.assert_close(found["log_likelihood"] + found["log_prior"], log_joint(z))
    torch.testing.assert_close(found["largest_norm"], z.square().sum(-1).sqrt().max(-1).values)
    cosines = torch.nn.functional.cosine_similarity(z.unsqueeze(-2), z.unsqueeze(-3), dim=-1)
    pairs = [(0, 1), (0, 2), (1, 2)]
    torch.testing.assert_close(found["largest_cosine"], torch.stack([cosines[..., j, k] for j, k in pairs]).amax(0))


def test_ranks_count_and_break_ties_at_random() -> None:
    draws = torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None].expand(4, 5000)

    def spread(value: float) -> Tensor:
        return ranks(torch.full((5000,), value), draws)

    untied = spread(1.5)
    assert float(untied.min()) >= 2 / 5
    assert float(untied.max()) <= 3 / 5
    tied = spread(1.0)
    assert float(tied.min()) < 0.21
    assert float(tied.max()) > 0.59
    assert float(tied.mean()) == pytest.approx(0.4, abs=0.01)

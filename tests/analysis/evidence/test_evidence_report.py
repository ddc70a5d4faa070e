"""Tables of evidence for estimates whose relation is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_compvae.analysis.evidence.data_set import sandwich_data
from pyro_compvae.analysis.evidence.table import comparisons, evidence_table, sandwich_table
from pyro_compvae.evidence import Sandwich
from pyro_compvae.evidence.annealing.chains import Annealing
from pyro_compvae.evidence.estimate import EvidenceEstimate, estimate_from_log_weights

B, L = 3, 3000


def around(log_evidence: list[float], spread: float = 0.1, num_draws: int = L) -> EvidenceEstimate:
    """An estimate from log-normal weights whose mean is known."""
    noise = spread * torch.randn(num_draws, len(log_evidence), dtype=torch.float64)
    return estimate_from_log_weights(torch.tensor(log_evidence).double() + noise - spread**2 / 2)


def some() -> dict[str, EvidenceEstimate]:
    plain = around([10.0, 20.0, 30.0], 5.0)
    return {
        "guide": plain,
        "guide_symmetric": estimate_from_log_weights(plain.log_weights + 2),
        "full": around([20.0, 30.0, 40.0], 3.0),
        "full_covering": around([20.0, 30.0, 40.0]),
        "ais": around([20.5, 30.0, 42.0], num_draws=100),
    }


def test_numbers_of_the_table() -> None:
    lines = evidence_table(some(), dimensions=12).splitlines()
    cells = {line.split()[0]: line for line in lines[1:6]}
    assert list(cells) == list(some())
    assert "30.00 ± 11.32" in cells["full_covering"]  # 1.96 · 10 / √3
    assert f"{-30 / (12 * math.log(2)):.4f}" in cells["full_covering"]
    assert "100%" in cells["full_covering"]
    assert "0%" in cells["guide"]
    assert "0.70 with 3,000 draws, 0.50 with 100 draws" in "".join(lines)


def test_estimates_are_compared_scene_by_scene() -> None:
    symmetry, gap, ais = comparisons(some())
    assert symmetry.endswith("2.00 ± 0.00 nats, from 2.00 to 2.00")
    assert gap.startswith("gap of the guide, log p̂(x) − ELBO of q̄: at least ")
    assert "within 1 nat on 2 of 3 scenes, and on 2 of the 3 where full_covering is reliable" in ais


def test_a_single_scene_has_no_interval_and_few_draws_no_khat() -> None:
    estimates = {name: around([10.0], num_draws=10) for name in ("guide", "guide_symmetric", "full_covering")}
    table = evidence_table(estimates, 12)
    assert "±" not in table[: table.index("Nats per scene")]
    assert table.count("few draws") == 3
    assert "nan" not in table


def annealing(log_weights: Tensor) -> Annealing:
    return Annealing(log_weights, torch.zeros(len(log_weights), B, 1, 1), torch.zeros(1, B), 0)


@pytest.mark.parametrize(("importance", "where"), [(10.0, "inside"), (7.0, "2.00 below"), (14.0, "2.00 above")])
def test_where_the_estimate_lies(importance: float, where: str) -> None:
    flat = torch.zeros(30, B, dtype=torch.float64)
    sandwich = Sandwich(annealing(flat + 9), annealing(flat - 12), 0)
    rows = sandwich_table(sandwich_data(sandwich, around([importance] * B, 0.001))).splitlines()
    assert all(row.split()[1:4] == ["9.00", "12.00", "3.00"] for row in rows[1 : B + 1])
    assert all(row.endswith(where) for row in rows[1 : B + 1])
    doubtful = around([importance] * B, 0.001)._replace(khat=torch.full((B,), 0.9))
    warned = "" if where == "inside" else ", as k̂ warns"
    assert all(
        row.endswith(where + warned)
        for row in sandwich_table(sandwich_data(sandwich, doubtful)).splitlines()[1 : B + 1]
    )


def test_a_single_chain_has_no_error_and_bounds_all_the_same() -> None:
    one = torch.zeros(1, B, dtype=torch.float64)
    sandwich = Sandwich(annealing(one + 9), annealing(one - 12), 0)
    for importance, where in ((10.0, "inside"), (8.5, "0.50 below")):
        rows = sandwich_table(sandwich_data(sandwich, around([importance] * B, 0.001))).splitlines()
        assert all(row.endswith(where) for row in rows[1 : B + 1])


def test_bounds_that_met_are_no_contradiction() -> None:
    noise = 0.5 * torch.randn(30, B, dtype=torch.float64)
    sandwich = Sandwich(annealing(10.02 + noise), annealing(-10 + noise), 0)
    rows = sandwich_table(sandwich_data(sandwich, around([10.0] * B))).splitlines()
    assert (sandwich.width < 0).any() or (sandwich.width < 0.5).all()
    assert all(row.endswith("inside") for row in rows[1 : B + 1])

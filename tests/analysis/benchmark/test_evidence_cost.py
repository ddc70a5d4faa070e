"""The two ways to draw importance samples estimate the same; the tests never ask how long they take."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from pyro_compvae.analysis.benchmark.evidence_cost import OURS_WAY, WAYS, SamplingCase, Way, measure, sampler
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.presets import preset


def test_both_ways_estimate_the_same() -> None:
    """All slots are alike, so that q̄ = q and the two differ only by chance."""
    model = build_guide(preset("tiny", "iodine")).model.eval()
    model.scale = 2.0  # this much noise hides most of what the slots paint, so that a few draws are enough
    x = torch.rand(1, 3, *model.image_size)
    shape = (1, model.num_slots, model.latent_dim)
    q = Normal(torch.zeros(shape), torch.ones(shape))
    torch.set_grad_enabled(False)
    try:
        estimates = []
        for way in WAYS:
            run, _ = sampler(way, model, q, x)
            estimates.append([float(run(20)) for _ in range(8)])
    finally:
        torch.set_grad_enabled(True)
    means = [sum(values) / len(values) for values in estimates]
    errors = [torch.tensor(values).std() / math.sqrt(len(values)) for values in estimates]
    error = math.hypot(*map(float, errors))
    assert 0 < error < 0.5
    assert abs(means[0] - means[1]) < 4 * error


@pytest.mark.parametrize("way", WAYS)
def test_costs_are_of_all_samples(way: Way) -> None:
    cost = measure(SamplingCase("tiny", way, 5, "cpu"))
    assert cost.seconds > cost.symmetric_seconds
    assert (cost.symmetric_seconds > 0) == (way == OURS_WAY)

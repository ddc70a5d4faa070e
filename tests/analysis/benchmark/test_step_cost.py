"""The benchmark's measurements; the tests never ask how long anything took."""

from __future__ import annotations

from typing import get_args

import pyro.poutine as poutine
import pytest
import torch

from pyro_compvae.analysis.benchmark.step_cost import (
    BASELINE,
    COMPILED,
    OURS,
    STEPS,
    VARIANTS,
    Case,
    make_guide,
    measure_in_new_process,
    num_observed,
    training_step,
)
from pyro_compvae.guides import MulmonGuide
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName

GUIDES = get_args(GuideName)


def make_case(guide: GuideName, variant: str, size: str = "tiny") -> Case:
    return Case(size, guide, variant, "cpu")


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_variants_have_the_same_weights(guide: GuideName, variant: str) -> None:
    case = make_case(guide, variant, "default")
    assert case.config().training.precision == VARIANTS[variant]
    assert case.config().lnms
    made, baseline = make_guide(case), make_guide(make_case(guide, BASELINE, "default"))
    assert all(p.is_contiguous() for p in made.parameters())  # Pyro's parameter store does not copy such weights
    assert torch.equal(made.model.decoder.last.weight, baseline.model.decoder.last.weight)
    assert made.lnms_strength > 0


@pytest.mark.parametrize("guide", GUIDES)
def test_all_variants_compute_the_same_losses(guide: GuideName) -> None:
    """The losses also agree in the second step, after an update by the same gradients."""
    steps = {variant: training_step(make_case(guide, variant)) for variant in VARIANTS if variant != COMPILED}
    losses = {variant: torch.stack([step(), step()]) for variant, step in steps.items()}
    assert losses[BASELINE][0] != losses[BASELINE][1], "the weights did not move, so the second step proves nothing"
    for variant in steps:
        tolerance = 1e-4 if VARIANTS[variant] == "float32" else 2e-2
        torch.testing.assert_close(losses[variant], losses[BASELINE], rtol=tolerance, atol=0, msg=variant)


@pytest.mark.parametrize("size", ["paper", "default", "tiny"])
def test_mulmon_observes_the_median_number_of_views(size: str) -> None:
    config = preset(size, "mulmon")
    assert config.views is not None
    possible = range(1, min(config.views.max_observed, config.data.num_views - 1) + 1)
    assert num_observed(config) == possible[len(possible) // 2]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_guide_observes_as_many_views_as_it_is_told(n: int) -> None:
    guide = make_guide(make_case("mulmon", OURS))
    assert isinstance(guide, MulmonGuide)
    x, viewpoints = torch.rand(2, 6, 3, *guide.model.image_size), torch.rand(2, 6, 3)
    guide.num_observed = n
    trace = poutine.trace(guide).get_trace(x, viewpoints)
    assert sum(name.startswith("view_") for name in trace.nodes) == n


@pytest.mark.slow
def test_worker_measures_in_a_new_process() -> None:
    measured = measure_in_new_process(make_case("mulmon", OURS))
    assert len(measured.seconds) == STEPS
    assert min(measured.seconds) > 0
    assert measured.peak_bytes > 0

"""The benchmark's measurements; never how long anything took."""

from __future__ import annotations

import pytest
import torch

from analysis.step_cost import BASELINE, STEPS, VARIANTS, Case, make_guide, measure_in_new_process


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_variants_have_the_same_weights_in_their_layout(variant: str) -> None:
    case = Case("default", variant, 2, "cpu")
    layout, precision = VARIANTS[variant]
    assert case.config().training.precision == precision
    assert case.config().lnms
    guide, baseline = make_guide(case), make_guide(Case("default", BASELINE, 2, "cpu"))
    assert all(p.is_contiguous(memory_format=layout) for p in guide.parameters() if p.dim() == 4)
    assert torch.equal(guide.model.decoder.last.weight, baseline.model.decoder.last.weight)


def test_worker_measures_in_a_new_process() -> None:
    measured = measure_in_new_process(Case("tiny", "single pass", 2, "cpu"))
    assert len(measured.seconds) == STEPS
    assert min(measured.seconds) > 0
    assert measured.peak_bytes > 0

"""The cases and exponents of the growth of a training step."""

from __future__ import annotations

import pytest

from pyro_compvae.analysis.benchmark.growth import AXES, growth_cases, growth_row
from pyro_compvae.analysis.benchmark.step_cost import OURS, training_step
from pyro_compvae.runs.presets import preset


@pytest.mark.parametrize("axis", AXES)
def test_one_size_grows_and_the_step_still_runs(axis: str) -> None:
    cases = growth_cases("tiny", "iodine", OURS, axis, "cpu")
    start = preset("tiny", "iodine")
    values = [dict(case.changes)[AXES[axis]] for case in cases]
    assert values == [values[0], 2 * values[0], 4 * values[0]]
    assert cases[0].config() == start.replace({"lnms": True})
    assert cases[2].config() == start.replace({"lnms": True, AXES[axis]: values[2]})
    assert training_step(cases[1])().isfinite()


def test_exponents_of_power_laws_are_found() -> None:
    case = growth_cases("tiny", "iodine", OURS, "T", "cpu")[0]
    row = growth_row(case, "T", {"step_ms": [3.0, 6.0, 12.0], "memory_mib": [7.0, 7.0, 7.0], "gflop": [1.0, 4.0, 16.0]})
    exponents = [row[f"{name}_exponent"] for name in ("step_ms", "memory_mib", "gflop")]
    assert exponents == pytest.approx([1.0, 0.0, 2.0], abs=1e-9)
    assert row["values"] == [2, 4, 8]

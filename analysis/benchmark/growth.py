"""The growth of a training step's time, memory and arithmetic with its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from pyro_compvae.analysis.benchmark.step_cost import Case
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName

AXES = {
    "B": "training.batch_size",
    "K": "num_slots",
    "T": "refinement.num_iterations",
    "D": "latent_dim",
    "H and W": "data.image_size",
}
"""The sizes that may grow, with their fields in the configuration."""

FACTORS = (1, 2, 4)
"""The factors by which a size grows from that of the preset."""


def growth_cases(size: str, guide: GuideName, variant: str, axis: str, device: str) -> list[Case]:
    """The cases of a preset with one of its sizes multiplied by each of FACTORS."""
    start: Any = reduce(getattr, AXES[axis].split("."), preset(size, guide))
    return [Case(size, guide, variant, device, ((AXES[axis], factor * start),)) for factor in FACTORS]


def exponent(values: Sequence[float]) -> float:
    """The exponent a of the power law y ∝ x^a that fits positive values at FACTORS best, in least squares of logs."""
    return float(np.polyfit(np.log(FACTORS), np.log(values), 1)[0])


def growth_row(case: Case, axis: str, measured: dict[str, list[float]]) -> dict[str, Any]:
    """The numbers at all FACTORS, by name, with their exponents; `case` is the smallest one."""
    exponents = {f"{name}_exponent": exponent(values) for name, values in measured.items()}
    ((_, start),) = case.changes
    sizes = [factor * start for factor in FACTORS]
    return {"size": case.size, "guide": case.guide, "variant": case.variant, "axis": axis, "values": sizes} | (
        measured | exponents
    )

"""How time, memory and arithmetic of a training step grow with its sizes."""

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
"""What may grow, and the field of the configuration that says so."""

FACTORS = (1, 2, 4)
"""Factors by which a size grows from that of the preset."""


def growth_cases(size: str, guide: GuideName, variant: str, axis: str, device: str) -> list[Case]:
    """A preset with one of its sizes multiplied by each of FACTORS."""
    start: Any = reduce(getattr, AXES[axis].split("."), preset(size, guide))
    return [Case(size, guide, variant, device, ((AXES[axis], factor * start),)) for factor in FACTORS]


def exponent(values: Sequence[float]) -> float:
    """a of the power law y ∝ x^a that goes best through positive values at FACTORS, by least squares of the logs."""
    return float(np.polyfit(np.log(FACTORS), np.log(values), 1)[0])


def growth_row(case: Case, axis: str, measured: dict[str, list[float]]) -> dict[str, Any]:
    """Numbers at all FACTORS, by name, with the exponents they grow with; `case` is the smallest."""
    exponents = {f"{name}_exponent": exponent(values) for name, values in measured.items()}
    ((_, start),) = case.changes
    sizes = [factor * start for factor in FACTORS]
    return {"size": case.size, "guide": case.guide, "variant": case.variant, "axis": axis, "values": sizes} | (
        measured | exponents
    )

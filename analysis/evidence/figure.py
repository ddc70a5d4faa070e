"""A figure of estimates of log p(x) against their number of draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure

from pyro_compvae.analysis.evidence.compute import OBSERVED
from pyro_compvae.analysis.evidence.table import half_interval
from pyro_compvae.analysis.figures.style import PALETTE, save_figure
from pyro_compvae.evidence import EvidenceEstimate


def evidence_figure(path: Path, estimates: Mapping[str, EvidenceEstimate], title: str = "") -> None:
    """Draw the importance-weighted bound of every estimator against its number of draws, relative to the last
    estimator.

    The bounds of a good estimator rise quickly and then stay level; a bound that still rises at the right end has not
    arrived. Bands are 95 % intervals over scenes of the difference from the last estimator's log p̂(x).

    Args:
        path: the PNG file, written atomically.
        estimates: the estimates by name, for the same scenes.
        title: the title above the picture.
    """
    shown = {name: estimate for name, estimate in estimates.items() if name != OBSERVED}
    last, reference = list(shown.items())[-1]
    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    axis = figure.subplots()
    # If there are more estimators than colours, the next ones have another line style.
    styles = itertools.product(("-", "--", ":"), PALETTE)
    for (name, estimate), (line, colour) in zip(shown.items(), styles, strict=False):
        counts = draw_counts(len(estimate.log_weights))
        short = torch.stack([reference.log_evidence - estimate.iwae(count) for count in counts])  # (counts, B)
        mean, error = short.mean(1), half_interval(short)
        axis.plot(counts, mean, "o" + line, color=colour, markersize=3, label=name)
        axis.fill_between(counts, (mean - error).clamp(min=LEAST), mean + error, color=colour, alpha=0.2, linewidth=0)
    axis.set_xscale("log")
    axis.set_yscale("symlog", linthresh=LINEAR)
    axis.invert_yaxis()
    axis.yaxis.set_major_formatter("{x:g}")
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.set_xlabel("draws per scene, L")
    axis.set_ylabel(f"nats below log p̂(x) of {last}\n(logarithmic beyond ±{LINEAR})")
    axis.legend(fontsize=8)
    if title:
        axis.set_title(title, fontsize=9)
    save_figure(path, figure)


LINEAR = 1
"""Nats up to which the vertical axis is linear."""

LEAST = -1e3
"""Lower end of bands, in nats, so that the band of an outlier does not set the scale."""


def draw_counts(num_samples: int) -> list[int]:
    """The numbers 1, 2, 5, 10, ... below that of all draws, and that of all draws."""
    steps = (1, 2, 5)
    counts = [step * 10**power for power in range(int(math.log10(num_samples)) + 1) for step in steps]
    return [count for count in counts if count < num_samples] + [num_samples]

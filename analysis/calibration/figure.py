"""A figure of ranks and coverage against the uniform distribution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_compvae.analysis.calibration.compute import QUANTITIES
from pyro_compvae.analysis.calibration.table import coverage
from pyro_compvae.analysis.calibration.uniformity import uniformity
from pyro_compvae.analysis.figures.style import PALETTE, save_figure

PROBABILITY = 0.99
"""Probability that the band contains the whole curve. A calibrated posterior's curve for one quantity leaves it by
chance one time in a hundred."""


COLOURS = {"guide": PALETTE[0], "importance": PALETTE[5]}


def calibration_figure(path: Path, data: xarray.Dataset, title: str = "") -> None:
    """Draw ECDF differences of every quantity with simultaneous 99 % bands, and expected coverage in the last panel.

    If a line is below the band, ranks are too large, so the draws are too small. If it is S-shaped, first above and
    then below, the draws are too narrow; the other way round, they are too wide.

    Args:
        path: the picture file, written atomically.
        data: the result of `calibrate`.
        title: the title above the picture.
    """
    figure = Figure(figsize=(12, 5), dpi=120, layout="constrained")
    axes = figure.subplots(2, 5, sharex=True).ravel()
    for axis, name in zip(axes, QUANTITIES, strict=False):
        for source in data["source"].values:
            _ecdf_difference(axis, data["rank"].sel(source=source, quantity=name).values, str(source))
        axis.set_title(QUANTITIES[name], fontsize=8)
        axis.tick_params(labelbottom=True)
    last = axes[len(QUANTITIES)]
    for source in data["source"].values:
        _ecdf_difference(last, coverage(data["rank"].sel(source=source), str(source)), str(source))
    last.set_title("coverage − its level", fontsize=8)
    for axis in axes[len(QUANTITIES) + 1 :]:
        axis.axis("off")
    handles, labels = last.get_legend_handles_labels()
    axes[-1].legend(handles, labels, fontsize=8, loc="center")
    figure.supxlabel("rank (last panel: level)", fontsize=9)
    figure.supylabel("ECDF − uniform", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=9)
    save_figure(path, figure)


def _ecdf_difference(axis: Axes, values: NDArray, source: str) -> None:
    found = uniformity(values, PROBABILITY)
    ends = (0.0, 1.0)
    points = np.concatenate((ends[:1], found.points, ends[1:]))
    lower, upper, difference = (np.pad(line, 1) for line in (found.lower, found.upper, found.difference))
    if not axis.lines:  # the band depends on the number of scenes only, so it is drawn once
        axis.fill_between(points, lower, upper, step="mid", color="0.6", alpha=0.35, linewidth=0, label="99 % band")
        axis.axhline(0, color="0.5", linewidth=0.8)
    style = "-" if source == "guide" else "--"
    axis.plot(points, difference, style, color=COLOURS[source], linewidth=1.4, label=source)
    axis.tick_params(labelsize=7)

"""A figure that compares two kinds of runs, image by image, like the paper's Figure 5."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.scale import SymmetricalLogScale
from numpy.typing import NDArray

from pyro_compvae.analysis.comparison.compute import METRICS, delta, undefined
from pyro_compvae.analysis.comparison.table import LABELS
from pyro_compvae.analysis.figures.decompositions import PALETTE, save_figure


def comparison_figure(path: Path, data: xarray.Dataset, title: str = "") -> None:
    """Draw the paper's Figure 5 and a panel that answers what it leaves open, with a colour for every pair of runs.

    Panel 1 shows ΔL⁺ of every image, and its mean. Panels 2 and 3 show Δ mIoU and Δ MSE against ΔL⁺, with Pearson's
    correlation (in their own units; the paper scales both axes to [0, 1]); without masks there is no mIoU. Panel 4
    shows Δ log p̂(x) and −Δ gap against ΔL⁺, which is their sum.

    Args:
        path: the PNG file, written atomically.
        data: the result of `compare`.
        title: the title above the picture.
    """
    metrics = [name for name in METRICS[:2] if name not in undefined(data)]
    figure = Figure(figsize=(13, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2 + len(metrics))
    elbo = delta(data, "elbo")
    for p, values in enumerate(elbo):
        axes[0].plot(values, ".", markersize=4, color=PALETTE[p % len(PALETTE)], label=f"pair {p + 1}")
    axes[0].axhline(0, color="0.5", linewidth=0.8)
    axes[0].axhline(elbo.mean(), color="black", linewidth=1.2, label=f"mean {elbo.mean():+.1f}")
    axes[0].set_xlabel("test scene")
    axes[0].set_ylabel("ΔL⁺, nats")
    _symmetric_log(axes[0], "y", elbo)
    axes[0].legend(fontsize=7)
    for axis, name in zip(axes[1:-1], metrics, strict=True):
        values = delta(data, name)
        for p in range(len(values)):
            axis.plot(elbo[p], values[p], ".", markersize=4, color=PALETTE[p % len(PALETTE)])
        axis.set_ylabel(LABELS[name])
        axis.set_title(f"r = {_correlation(elbo, values):.2f}", fontsize=9)
        _against_elbo(axis, elbo)
    for name, sign, colour in (("log_evidence", 1, PALETTE[0]), ("gap", -1, PALETTE[5])):
        values = sign * delta(data, name)
        label = f"{'' if sign > 0 else '−'}{LABELS[name].split(',')[0]}, r = {_correlation(elbo, values):.2f}"
        axes[-1].plot(elbo.ravel(), values.ravel(), ".", markersize=4, color=colour, label=label)
    _symmetric_log(axes[-1], "y", elbo)
    axes[-1].set_ylabel("nats")
    axes[-1].legend(fontsize=7)
    _against_elbo(axes[-1], elbo)
    if title:
        figure.suptitle(title, fontsize=9)
    save_figure(path, figure)


def _against_elbo(axis: Axes, elbo: NDArray) -> None:
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.axvline(0, color="0.5", linewidth=0.8)
    _symmetric_log(axis, "x", elbo)
    axis.set_xlabel("ΔL⁺, nats")


def _symmetric_log(axes: Axes, which: Literal["x", "y"], values: NDArray) -> None:
    """Make an axis linear where nine tenths of the values lie, and logarithmic outside, where the outliers are."""
    width = max(float(np.quantile(np.abs(values), 0.9)), 1e-3)
    outer = 10.0 ** np.arange(math.ceil(math.log10(width)), math.floor(math.log10(np.abs(values).max() + 1e-3)) + 1)
    axes.set(**{f"{which}scale": SymmetricalLogScale(None, linthresh=width)})
    axes.set(**{f"{which}ticks": [*-outer[::-1], 0, *outer]})
    (axes.xaxis if which == "x" else axes.yaxis).set_major_formatter("{x:g}")


def _correlation(a: NDArray, b: NDArray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")

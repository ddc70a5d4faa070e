"""A figure that compares two kinds of runs, image by image, like the paper's Figure 5."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.scale import SymmetricalLogScale
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pyro_compvae.analysis.comparison.compute import METRICS, delta, undefined
from pyro_compvae.analysis.comparison.table import LABELS
from pyro_compvae.analysis.figures.style import PALETTE, save_figure

MAX_NAMED = 6
"""Number of pairs up to which all are named; with more none is."""


def comparison_figure(path: Path, data: xarray.Dataset) -> None:
    """Draw the paper's Figure 5 and two panels that answer what it leaves open, with a colour for every pair of runs.

    Panel 1 shows ΔL⁺ of every image, and its mean. The others show Δ mIoU and Δ MSE, without masks Δ MSE alone, and
    then Δ log p̂(x) and −Δ gap, whose sum ΔL⁺ is, against ΔL⁺. Above them is Pearson's correlation (in their own units;
    the paper scales both axes to [0, 1]). Points lie on each other in random order, so that no pair hides another.

    Args:
        path: the PNG file, written atomically.
        data: the result of `compare`; if "pair" has coordinates, they are the names of the pairs.
    """
    metrics = [name for name in METRICS[:2] if name not in undefined(data)]
    figure = Figure(figsize=(3.2 * (3 + len(metrics)), 3.9), dpi=120, layout="constrained")
    axes = figure.subplots(1, 3 + len(metrics))
    elbo, evidence, gap = delta(data, "elbo"), delta(data, "log_evidence"), -delta(data, "gap")
    nats = NatsScale.of(np.stack([elbo, evidence, gap]))
    axes[0].axhline(elbo.mean(), color="black", linewidth=1.2)
    _points(axes[0], np.broadcast_to(np.arange(1, elbo.shape[1] + 1), elbo.shape), elbo)
    axes[0].set_xlabel("test scene")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    nats.apply(axes[0], "y", "ΔL⁺", elbo)
    labelled = [(LABELS[name], delta(data, name)) for name in metrics]
    for axis, (label, values) in zip(axes[1:-2], labelled, strict=True):
        _against_elbo(axis, elbo, values, nats)
        axis.set_ylabel(label)
    for axis, label, values in ((axes[-2], LABELS["log_evidence"], evidence), (axes[-1], "−Δ gap", gap)):
        _against_elbo(axis, elbo, values, nats)
        nats.apply(axis, "y", label, values)
    colours = [tuple(_colour(p)) for p in range(len(elbo))]
    marks = [
        Line2D([], [], color=c, marker=".", linestyle="", label=f"pair {p}") for p, c in enumerate(colours, start=1)
    ]
    marks.append(Line2D([], [], color="black", linewidth=1.2, label=f"mean of ΔL⁺, {elbo.mean():+.1f} nats"))
    figure.legend(handles=marks, loc="outside lower center", ncols=8, fontsize=8)
    for axis in axes:
        axis.tick_params(labelsize=8)
    figure.suptitle(_title(data), fontsize=9, parse_math=False)
    save_figure(path, figure)


def _title(data: xarray.Dataset) -> str:
    """The names of all pairs, or if they are many their number."""
    pairs = [str(name) for name in data["pair"].values] if "pair" in data.coords else []
    if len(pairs) > MAX_NAMED:
        return f"{len(pairs)} pairs of runs"
    return "\n".join(f"pair {p} is {name}" if len(pairs) > 1 else name for p, name in enumerate(pairs, start=1))


def _against_elbo(axis: Axes, elbo: NDArray, values: NDArray, nats: NatsScale) -> None:
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.axvline(0, color="0.5", linewidth=0.8)
    _points(axis, elbo, values)
    nats.apply(axis, "x", "ΔL⁺", elbo)
    axis.set_title(_correlation(elbo, values), fontsize=9)


def _points(axis: Axes, x: NDArray, y: NDArray) -> None:
    """Draw the points (pair, scene) of all pairs, in one random order."""
    colours = np.repeat(np.stack([_colour(p) for p in range(len(x))]), x.shape[1], axis=0)
    order = np.random.default_rng(0).permutation(x.size)
    axis.scatter(x.ravel()[order], y.ravel()[order], s=8, c=colours[order], alpha=0.75, linewidths=0, zorder=2)


def _colour(pair: int) -> NDArray:
    return PALETTE[pair % len(PALETTE)]


class NatsScale(NamedTuple):
    """An axis that is linear up to a width on both sides of zero, and logarithmic beyond, where outliers are.

    width: the end of the linear part in nats, or None if no value lies far beyond the others.
    """

    width: float | None

    @classmethod
    def of(cls, values: NDArray) -> NatsScale:
        """The scale whose linear part ends at the power of ten that is nearest to the 75 % quantile of the sizes."""
        size = float(np.quantile(np.abs(values), 0.75))
        width = 10.0 ** round(math.log10(size)) if size > 0 else math.inf
        return cls(width if np.abs(values).max() >= 3 * width else None)

    def apply(self, axes: Axes, which: Literal["x", "y"], label: str, values: NDArray) -> None:
        """Give an axis this scale, ticks within the values, and a label that says where it is logarithmic."""
        if self.width is None:
            axes.set(**{f"{which}label": f"{label}, nats"})
            return
        powers = self.width * 10.0 ** np.arange(math.floor(math.log10(np.abs(values).max() / self.width + 1)) + 1)
        low, high = min(values.min(), 0), max(values.max(), 0)
        ticks = [tick for tick in (*-powers[::-1], 0, *powers) if low <= tick <= high]
        axes.set(**{f"{which}scale": SymmetricalLogScale(None, linthresh=self.width, linscale=1.2)})
        axes.set(**{f"{which}ticks": ticks, f"{which}label": f"{label}, nats\n(logarithmic beyond ±{self.width:g})"})
        (axes.xaxis if which == "x" else axes.yaxis).set_major_formatter("{x:g}")


def _correlation(a: NDArray, b: NDArray) -> str:
    """Pearson's correlation as a text, or why there is none."""
    if a.std() > 0 and b.std() > 0:
        return f"r = {float(np.corrcoef(a.ravel(), b.ravel())[0, 1]):.2f}"
    return "no r: all differences are equal"

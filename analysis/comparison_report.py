"""Comparisons of two kinds of runs in words and pictures."""

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

from analysis.comparison import METRICS, QUANTITIES, bootstrap, delta, undefined
from analysis.figures import PALETTE, save_figure
from analysis.ladder_report import NAMES
from analysis.meanings import left_out

LABELS = {
    "elbo": "ΔL⁺, the ELBO (Eq. 6)",
    "log_evidence": "Δ log p̂(x)",
    "gap": "Δ gap, log p̂(x) − ELBO",
    "miou": "Δ mIoU",
    "mse": "Δ MSE",
    "duplicates": "Δ duplicates",
    "duplicates_latent": "Δ duplicates_latent",
}


FEW_PAIRS = 10
"""Fewer show too little of how seeds differ."""


def comparison_table(data: xarray.Dataset, parts: xarray.Dataset | None, shared: bool) -> str:
    """A line per quantity and per part of the gap: both sides, the difference with its interval, in how many scenes it
    is for the better, and the pairs one by one; then a sentence. Metrics that want masks are left out without.

    Args:
        data: as of `compare`.
        parts: as of `ladders`.
        shared: whether the runs of every pair have the same θ.
    """
    P, N = data.sizes["pair"], data.sizes["scene"]
    lines = [f"{'':26}{'0':>10}{'+':>10}{'mean difference':>30}{'median':>10}{'better in':>11}   pairs"]
    missing = undefined(data)
    for name in (name for name in QUANTITIES if name not in missing):
        more_is_better = name in ("elbo", "log_evidence", "miou")
        lines.append(_row(LABELS[name], data, name, 4 if name in ("miou", "mse") else 2, more_is_better))
    if missing:
        lines.append(f"  {left_out(missing)}")
    if parts is None:
        lines.append("  (for the parts of Δ gap, run gap_ladder.py on every run, with the same settings)")
    else:
        n = parts.sizes["scene"]
        lines.append(f"  its parts, by gap_ladder.py with an estimate of log p(x) of its own, in {n} scenes:")
        for name in parts["gap_name"].values:
            lines.append(_row(f"  {NAMES[str(name)]}", parts.sel(gap_name=name), "gap", 2, False))
        lines.append(_row("  all parts", parts.sum("gap_name"), "gap", 2, False))
    over = f"{P} pairs of runs and {N} scenes" if P > 1 else f"{N} scenes, for this one pair of runs"
    few = ", which are too few not to make them too narrow" if 1 < P < FEW_PAIRS else ""
    notes = (
        f"Nats per scene; [ ] are 95 % bootstrap intervals over {over}{few}. log p̂(x) is low in expectation, and "
        f"reliable by k̂ for {float(data['reliable'].mean()):.0%} of the scenes."
    )
    return "\n".join([*lines, "", notes, sentence(data, shared)])


def _row(label: str, data: xarray.Dataset, name: str, digits: int, more_is_better: bool) -> str:
    values = delta(data, name)
    sides = "".join(f"{float(data[name].sel(side=side).mean()):>10.{digits}f}" for side in ("0", "+"))
    better = float(((values > 0) if more_is_better else (values < 0)).mean())
    pairs = " ".join(f"{value:+.{digits}f}" for value in values.mean(1))
    middle = f"{np.median(values):+.{digits}f}"
    return f"{label:26}{sides}{bootstrap(values)!s:>30}{middle:>10}{better:>11.0%}   {pairs}"


def sentence(data: xarray.Dataset, shared: bool) -> str:
    """What the difference of the ELBOs consists of."""
    elbo, evidence, gap = (bootstrap(delta(data, name)) for name in ("elbo", "log_evidence", "gap"))
    if shared:
        verdict = {1: "grows", -1: "shrinks", 0: "does not change beyond noise"}[gap.sign]
        return (
            f"Both sides have the same θ, so that log p(x) is the same and ΔL⁺ = {elbo} nats is all posterior: "
            f"the gap {verdict} on the side +."
        )
    model = {1: "a better model", -1: "a worse model", 0: "a model neither better nor worse beyond noise"}
    posterior = {1: "a wider gap", -1: "a narrower gap", 0: "a gap neither wider nor narrower beyond noise"}
    return (
        f"ΔL⁺ = {elbo} nats is Δ log p̂(x) = {evidence} minus Δ gap = {gap}: {model[evidence.sign]}, and "
        f"{posterior[gap.sign]}."
    )


def comparison_figure(path: Path, data: xarray.Dataset, title: str = "") -> None:
    """Draw the paper's Figure 5 and what it leaves open, with a colour for every pair of runs.

    1: ΔL⁺ of every image, and its mean. 2, 3: Δ mIoU and Δ MSE against ΔL⁺, with Pearson's correlation (in their own
    units; the paper scales both axes to [0, 1]); without masks there is no mIoU. 4: Δ log p̂(x) and −Δ gap against ΔL⁺,
    which is their sum.

    Args:
        path: PNG file, written atomically.
        data: as of `compare`.
        title: above the picture.
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
    """Linear where nine tenths of the values lie, logarithmic outside, where the outliers are."""
    width = max(float(np.quantile(np.abs(values), 0.9)), 1e-3)
    outer = 10.0 ** np.arange(math.ceil(math.log10(width)), math.floor(math.log10(np.abs(values).max() + 1e-3)) + 1)
    axes.set(**{f"{which}scale": SymmetricalLogScale(None, linthresh=width)})
    axes.set(**{f"{which}ticks": [*-outer[::-1], 0, *outer]})
    (axes.xaxis if which == "x" else axes.yaxis).set_major_formatter("{x:g}")


def _correlation(a: NDArray, b: NDArray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")

"""Gap ladders as data sets, tables and figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from analysis.evidence_report import half_interval, interval
from analysis.figures import PALETTE, save_figure
from analysis.ladder import Ladder
from analysis.tables import Table


def ladder_data(ladder: Ladder) -> xarray.Dataset:
    """Every number of a ladder in nats: rungs (rung, scene), gaps (gap, scene), log p̂(x) (scene), cost (rung, scene).

    The cost of a batch is that of its scenes in equal parts, so that batches can be put together.
    """
    rungs, gaps, errors = ladder.rungs, ladder.gaps(), ladder.standard_errors()
    failures, evidence = ladder.failures(), ladder.evidence
    B = len(evidence.log_evidence)

    def stacked(values: list[Tensor]) -> NDArray:
        return np.stack([value.cpu().numpy() for value in values])

    def cost(values: list[float]) -> NDArray:
        return np.repeat(np.array(values, dtype=float)[:, None], B, axis=1)

    slopes = [rung.slope for rung in rungs.values()]
    nothing = torch.zeros(B, dtype=torch.bool)
    numbers = {
        "rung_elbo": stacked([rung.elbo for rung in rungs.values()]),
        "rung_standard_error": stacked([rung.standard_error for rung in rungs.values()]),
        "rung_rise": stacked([slope.rise for slope in slopes]),
        "rung_rise_standard_error": stacked([slope.standard_error for slope in slopes]),
        "rung_converged": stacked([slope.converged for slope in slopes]),
        "rung_failed": stacked([failures.get(name, nothing) for name in rungs]),
    }
    numbers["rung_seconds"] = cost([rung.seconds / B for rung in rungs.values()])
    numbers["rung_evaluations"] = cost([rung.evaluations for rung in rungs.values()])
    return xarray.Dataset(
        {name: (("rung", "scene"), values) for name, values in numbers.items()}
        | {
            "gap": (("gap_name", "scene"), stacked(list(gaps.values()))),
            "gap_standard_error": (("gap_name", "scene"), stacked(list(errors.values()))),
            "log_evidence": ("scene", evidence.log_evidence.cpu().numpy()),
            "log_evidence_standard_error": ("scene", evidence.standard_error.cpu().numpy()),
            "khat": ("scene", evidence.khat.cpu().numpy()),
            "reliable": ("scene", evidence.reliable.cpu().numpy()),
            "evidence_seconds": ("scene", np.full(B, ladder.evidence_seconds / B)),
        },
        coords={"rung": list(rungs), "gap_name": list(gaps)},
    )


def ladder_table(data: xarray.Dataset) -> str:
    """`rung_rows` and `gap_rows`, and how to read them."""
    return "\n\n".join([str(rung_rows(data)), str(gap_rows(data)), how_to_read(data)])


def rung_rows(data: xarray.Dataset) -> Table:
    """A row per rung, with 95 % intervals over scenes, and what went wrong."""
    B = data.sizes["scene"]
    heads = ("rung", "ELBO", "s.e.", "rise, s.e.", "converged", "below the last", "evaluations", "s / scene")
    rows = []
    for name in data["rung"].values:
        rung = data.sel(rung=name)
        cells = (
            str(name),
            interval(rung["rung_elbo"].values),
            f"{float(rung['rung_standard_error'].median()):.2f}",
            f"{float(rung['rung_rise'].median()):.2f} ± {float(rung['rung_rise_standard_error'].median()):.2f}",
            f"{int(rung['rung_converged'].sum())} of {B}",
            f"{int(rung['rung_failed'].sum())} of {B}",
            f"{int(rung['rung_evaluations'][0]):,}",
            f"{float(rung['rung_seconds'].mean()):.2f}",
        )
        rows.append(cells)
    evidence = (interval(data["log_evidence"].values), f"{float(data['log_evidence_standard_error'].median()):.2f}")
    rows.append(("log p̂(x)", *evidence, "", "", "", "", f"{float(data['evidence_seconds'].mean()):.2f}"))
    return Table(heads, tuple(rows))


def gap_rows(data: xarray.Dataset) -> Table:
    """A row per part of the gap, with 95 % intervals over scenes."""
    rows = []
    total = data["gap"].sum("gap_name")
    for name in data["gap_name"].values:
        gap = data["gap"].sel(gap_name=name)
        error = float(data["gap_standard_error"].sel(gap_name=name).median())
        share = float(gap.mean() / total.mean())
        numbers = (f"{error:.2f}", f"{float(gap.min()):.2f}", f"{float(gap.max()):.2f}", f"{share:.0%}")
        rows.append((str(name), interval(gap.values), *numbers))
    rows.append(("all", interval(total.values), "", "", "", ""))
    return Table(("gap", "nats", "s.e.", "from", "to", "share"), tuple(rows))


def how_to_read(data: xarray.Dataset) -> str:
    """What the columns mean, and how far log p̂(x) is reliable."""
    reliable = f"{int(data['reliable'].sum())} of {data.sizes['scene']}"
    return HOW_TO_READ.format(reliable=reliable, khat=f"{float(data['khat'].median()):.2f}")


HOW_TO_READ = """\
Nats per scene; ± is a 95 % interval over scenes, s.e. the median standard error of a single one. rise: of the ELBO in
the last half of the steps of constant size, before the fit settled; converged: no rise found, beyond two standard
errors and 0.2 nats. below the last: by more than that under the rung before, which no larger family's best is: the
optimiser failed there. log p̂(x), whose seconds are those of the symmetry gap too, is low in expectation, so the
residual is a lower bound; it is reliable by k̂ for {reliable} scenes, whose median k̂ is {khat}."""

NAMES = {
    "amortisation": "amortisation",
    "within_slot": "within slots",
    "independence": "independence of slots",
    "non_gaussian": "no Gaussian (flow)",
    "symmetry": "symmetry",
    "residual": "residual",
}
"""Of gaps, in figures."""


def ladder_figure(path: Path, data: xarray.Dataset, title: str = "") -> None:
    """Draw the parts of the gap as stacked bars, per scene and in mean; scenes in the order of their whole gap.

    Parts below zero, which only noise and failed optimisers make, hang below the axis.

    Args:
        path: PNG file, written atomically.
        data: as of `ladder_data`.
        title: above the picture.
    """
    data = data.isel(scene=np.argsort(data["gap"].sum("gap_name").values))
    B = data.sizes["scene"]
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True, width_ratios=(max(B, 4), max(B / 8, 2)))
    values = data["gap"].values  # (gap, scene)
    for axis, columns in zip(axes, (values, values.mean(1, keepdims=True)), strict=True):
        for sign in (1, -1):
            base = np.zeros(columns.shape[1])
            for name, colour, part in zip(data["gap_name"].values, PALETTE, columns, strict=False):
                height = np.where(sign * part > 0, part, 0.0)
                label = NAMES[str(name)] if sign > 0 else None
                axis.bar(np.arange(len(height)), height, 0.9, bottom=base, color=colour, label=label)
                base = base + height
        axis.axhline(0, color="0.3", linewidth=0.8)
    total, height = values.sum(0), values.clip(min=0).sum(0)
    error = float(half_interval(torch.from_numpy(total)))
    # An outlier must not flatten all other scenes: its bar is cut, and bears its height.
    top = max(1.4 * float(np.quantile(height, 0.9)), 1.05 * float(total.mean() + error))
    for place in np.flatnonzero(height > top):
        axes[0].text(place, top, f"{total[place]:.0f}", ha="center", va="bottom", fontsize=7)
    axes[0].set_ylim(top=top if (height > top).any() else None)
    axes[1].errorbar([0], [total.mean()], [error], color="black", capsize=4)
    axes[0].set_xlabel("scenes, by the size of their gap")
    axes[0].set_ylabel("log p̂(x) − ELBO of the guide, nats")
    axes[0].set_xticks([])
    axes[1].set_xticks([0], ["mean"])
    axes[0].legend(fontsize=8, loc="upper left", reverse=True)
    if title:
        figure.suptitle(title, fontsize=9)
    save_figure(path, figure)

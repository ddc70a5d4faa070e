"""Calibration in a table and a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.calibration import COVERAGE, QUANTITIES
from analysis.figures import PALETTE, save_figure
from analysis.tables import Table
from analysis.uniformity import uniformity
from pyro_compvae.evidence.estimate import reliable_khat

PROBABILITY = 0.99
"""Of bands: a calibrated posterior leaves that of one quantity by chance one time in a hundred."""

FEW = 8
"""Scenes of which nothing is told apart."""

LEVELS = (0.5, 0.8, 0.95)
"""At which coverage is told."""

COLOURS = {"guide": PALETTE[0], "importance": PALETTE[5]}


def ranks_by_source(data: xarray.Dataset) -> dict[str, xarray.DataArray]:
    """The ranks (quantity, scene) of every source; of importance also for those scenes alone that k̂ calls reliable.

    k̂ is of the very draws that are ranked, but knows nothing of the exact one: ranks of an exact posterior stay nearly
    uniform among these scenes.

    Args:
        data: as of `calibrate`.
    """
    found = {str(source): data["rank"].sel(source=source) for source in data["source"].values}
    if "khat" in data:
        threshold = reliable_khat(data.attrs["num_weights"])
        reliable = np.flatnonzero(data["khat"].values < threshold)
        if len(reliable) >= FEW:
            found[f"importance, k̂ < {threshold:.2f}"] = found["importance"].isel(scene=reliable)
    return found


def calibration_rows(data: xarray.Dataset) -> Table:
    """A row for every quantity: mean rank and the p-value of uniformity, of every source.

    Args:
        data: as of `calibrate`.
    """
    sources = ranks_by_source(data)
    heads = ("quantity", *(f"{source}: {head}" for source in sources for head in ("mean rank", "p")))
    rows = []
    for name in QUANTITIES:
        cells = [QUANTITIES[name]]
        for ranks in sources.values():
            values = ranks.sel(quantity=name).values
            cells += [f"{values.mean():.2f}", f"{uniformity(values).p_value:.4f}"]
        rows.append(tuple(cells))
    return Table(heads, tuple(rows))


def calibration_table(data: xarray.Dataset) -> str:
    """Ranks of every quantity, expected coverage, and how to read them.

    Args:
        data: as of `calibrate`.
    """
    return "\n".join([str(calibration_rows(data)), *calibration_sentences(data), how_to_read(data)])


def calibration_sentences(data: xarray.Dataset) -> list[str]:
    """How often regions of highest density hold the exact draw, for every source."""
    lines = []
    for source, ranks in ranks_by_source(data).items():
        found = coverage(ranks, source)
        shares = ", ".join(f"{np.mean(found <= level):.0%} at {level:.0%}" for level in LEVELS)
        lines.append(f"{source}: expected coverage {shares} ({len(found)} scenes)")
    return lines


def how_to_read(data: xarray.Dataset) -> str:
    """What ranks and coverage mean."""
    draws = " and ".join(f"{int(data['num_draws'].sel(source=name))} of {name}" for name in data["source"].values)
    return HOW_TO_READ.format(scenes=data.sizes["scene"], draws=draws)


HOW_TO_READ = """\
{scenes} scenes simulated from the model; ranks among draws, {draws}. Those of an exact posterior are uniform: mean 0.5,
and p, of their ECDF, below 0.01 one time in a hundred per line. Coverage below its level: draws too narrow, or
elsewhere; above: exact draws have a higher density than these, which are too wide, or in a worse mode."""


def coverage(ranks: xarray.DataArray, source: str) -> NDArray:
    """Level of the smallest region of highest density that holds the exact draw, per scene: uniform if right.

    Args:
        ranks: (quantity, scene).
        source: of `COVERAGE`, which says whose density is meant, and whatever follows a comma.
    """
    return 1 - ranks.sel(quantity=COVERAGE[source.partition(",")[0]]).values


def calibration_figure(path: Path, data: xarray.Dataset, title: str = "") -> None:
    """Draw ECDF differences of every quantity with simultaneous 99 % bands, and expected coverage in the last panel.

    A line below the band: ranks too large, the draws are too small. S-shaped, first above and then below: draws too
    narrow; the other way round: too wide.

    Args:
        path: picture file, written atomically.
        data: as of `calibrate`.
        title: above the picture.
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
    if not axis.lines:  # the band depends on nothing but the number of scenes
        axis.fill_between(points, lower, upper, step="mid", color="0.6", alpha=0.35, linewidth=0, label="99 % band")
        axis.axhline(0, color="0.5", linewidth=0.8)
    style = "-" if source == "guide" else "--"
    axis.plot(points, difference, style, color=COLOURS[source], linewidth=1.4, label=source)
    axis.tick_params(labelsize=7)

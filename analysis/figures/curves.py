"""Training curves of runs side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_compvae.analysis.figures.style import PALETTE, save_figure
from pyro_compvae.analysis.metrics.meanings import MEANINGS

PANELS = {
    "loss": "loss, nats",
    **{name: MEANINGS[name].label for name in ("elbo", "ari_fg", "miou", "duplicates", "mask_entropy")},
}
"""The metrics that have a panel, with its title."""

STYLES = ("-", "--", ":", "-.")


def curves_figure(path: Path, rows: Mapping[str, Sequence[Mapping[str, float]]], title: str = "") -> None:
    """Draw loss and validation metrics against the training step, with a line for every run and a panel for every
    metric.

    Metrics that no run has get no panel, such as those of masks if there are none.

    Args:
        path: the picture file, written atomically.
        rows: the rows of metrics.csv by the name of the run; a row need not have all metrics.
        title: the title above the picture.
    """
    panels = [name for name in PANELS if any(name in row for values in rows.values() for row in values)] or ["loss"]
    num_rows = 1 if len(panels) <= 3 else 2
    figure = Figure(figsize=(10, 2.3 * num_rows), dpi=120, layout="constrained")
    grid = figure.subplots(num_rows, math.ceil(len(panels) / num_rows), sharex=True, squeeze=False).ravel()
    for spare in grid[len(panels) :]:
        spare.remove()
    for axis, metric in zip(grid, panels, strict=False):
        for index, values in enumerate(rows.values()):
            known = [row for row in values if metric in row]
            style = {"color": PALETTE[index % len(PALETTE)], "linestyle": STYLES[index % len(STYLES)]}
            axis.plot([row["step"] for row in known], [row[metric] for row in known], **style)
        axis.set_title(PANELS[metric], fontsize=9)
        axis.tick_params(labelsize=7)
        if metric in ("loss", "elbo"):
            _show_the_end(axis, [row[metric] for values in rows.values() for row in values if metric in row])
    axis.legend(axis.lines, list(rows), fontsize=7)  # by itself it would skip names with a leading underscore
    figure.supxlabel("step", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=9)
    save_figure(path, figure)


def _show_the_end(axis: Axes, values: Sequence[float]) -> None:
    """Limit an axis to later values, since the first steps are off by thousands of nats and flatten the rest."""
    later = sorted(values)[len(values) // 10 : len(values) * 9 // 10 + 1]
    if len(later) > 1 and later[0] < later[-1]:
        margin = 0.5 * (later[-1] - later[0])
        axis.set_ylim(max(min(values), later[0] - margin), min(max(values), later[-1] + margin))

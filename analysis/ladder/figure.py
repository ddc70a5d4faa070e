"""Gap ladders as stacked bars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray
from matplotlib.figure import Figure

from pyro_compvae.analysis.evidence.table import half_interval
from pyro_compvae.analysis.figures.style import PALETTE, save_figure
from pyro_compvae.analysis.ladder.table import NAMES


def ladder_figure(path: Path, data: xarray.Dataset, title: str = "") -> None:
    """Draw the parts of the gap as stacked bars, for every scene, ordered by its whole gap, and for the mean.

    Negative parts, which come from noise or failed optimisation only, hang below the axis.

    Args:
        path: the PNG file, written atomically.
        data: the result of `ladder_data`.
        title: the title above the picture.
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
    # An outlier must not flatten all other scenes, so its bar is cut and labelled with its height.
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

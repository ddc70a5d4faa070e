"""Figures of posteriors: the marginals of a scene, k̂ of many scenes, and posterior-predictive checks of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_compvae.analysis.figures.style import PALETTE, save_figure
from pyro_compvae.analysis.posterior.groups import of_scenes
from pyro_compvae.analysis.posterior.marginals import FLOOR
from pyro_compvae.evidence.estimate import USABLE, reliable_khat

MAX_LATENTS = 8
"""Largest number of columns in the figure of marginals, for the latents in which the sources differ most."""

COLOURS = {"nuts": "0.75", "guide": PALETTE[0], "importance": PALETTE[5]}


def marginals_figure(
    path: Path, draws: Mapping[str, xarray.DataArray], distances: xarray.DataArray, title: str = ""
) -> None:
    """Draw the marginals of one scene's latents with a row for every slot: NUTS is filled, and the others are lines.

    Args:
        path: the picture file, written atomically.
        draws: z (chain, draw, slot, latent) by source, from `align_sources`, with "nuts" as the first.
        distances: the result of `marginal_distances`, which stands above every panel.
        title: the title above the picture.
    """
    nuts = draws["nuts"]
    away = distances.drop_sel(source=FLOOR)
    latents = np.sort(np.argsort(-away.max(("source", "slot")).values)[:MAX_LATENTS])
    K = nuts.sizes["slot"]
    figure = Figure(figsize=(1.5 * len(latents) + 1, 1.2 * K + 0.8), dpi=120, layout="constrained")
    axes = figure.subplots(K, len(latents), squeeze=False)
    for k in range(K):
        for axis, d in zip(axes[k], latents, strict=True):
            values = {name: z.isel(slot=k, latent=d).values.ravel() for name, z in draws.items()}
            edges = np.histogram_bin_edges(np.concatenate(list(values.values())), 40)
            for name, numbers in values.items():
                filled = name == "nuts"
                axis.hist(
                    numbers,
                    edges,
                    density=True,
                    histtype="stepfilled" if filled else "step",
                    color=COLOURS[name],
                    linewidth=0 if filled else 1.2,
                    label=name,
                )
            axis.set_yticks([])
            axis.tick_params(labelsize=6)
            gaps = away.isel(slot=k, latent=d)
            text = ", ".join(f"{float(gap):.2f}" for gap in gaps)
            axis.set_title(text, fontsize=7)
            if k == K - 1:
                axis.set_xlabel(f"latent {d + 1}", fontsize=8)
        axes[k, 0].set_ylabel(f"slot {k + 1}", fontsize=8)
    axes[0, 0].legend(fontsize=6)
    names = ", ".join(str(name) for name in away["source"].values)
    note = f"above each: Wasserstein distance to nuts of {names}, in its standard deviations"
    figure.suptitle(f"{title}\n{note}" if title else note, fontsize=9)
    save_figure(path, figure)


class Khats(NamedTuple):
    """k̂ of many scenes or views, and the number of weights behind each, on which its threshold depends."""

    values: NDArray
    num_weights: int

    @property
    def threshold(self) -> float:
        """The k̂ below which this number of weights is enough."""
        return reliable_khat(self.num_weights)

    def __str__(self) -> str:
        known = self.values[~np.isnan(self.values)]
        return f"k̂ < {self.threshold:.2f}, the limit for {self.num_weights:,} weights, for {self.good} of {known.size}"

    @property
    def good(self) -> int:
        """How many k̂ are below the threshold."""
        return int((self.values < self.threshold).sum())


def khats_of(data: xarray.Dataset) -> Khats:
    """k̂ in the "sample_stats" of draws, or of views left out."""
    return Khats(of_scenes(data["khat"]).values, int(data.attrs["num_weights"]))


def khat_figure(path: Path, khats: Mapping[str, Khats], title: str = "") -> None:
    """Draw k̂ of every scene (and view) with a column of dots for every kind of weights, and the thresholds.

    An infinite k̂ lies at the edge.

    Args:
        path: the picture file, written atomically.
        khats: k̂ by the name of the weights; NaN is left out.
        title: the title above the picture.
    """
    figure = Figure(figsize=(1.6 + 1.5 * len(khats), 3.6), dpi=120, layout="constrained")
    axis = figure.subplots()
    rng = np.random.default_rng(0)
    finite = np.concatenate([khat.values[np.isfinite(khat.values)] for khat in khats.values()])
    low, high = finite.min(initial=0.0), finite.max(initial=1.2)
    for place, (colour, khat) in enumerate(zip(PALETTE, khats.values(), strict=False)):
        values = khat.values[~np.isnan(khat.values)].clip(low, high).ravel()
        axis.plot(place + rng.uniform(-0.25, 0.25, len(values)), values, ".", color=colour, markersize=5)
        axis.plot([place - 0.35, place + 0.35], [khat.threshold] * 2, "--", color="0.4", linewidth=0.9)
        label = f"{khat.good} of {len(values)}\n< {khat.threshold:.2f}"
        axis.annotate(label, (place, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)
    axis.axhline(USABLE, color="0.4", linewidth=0.9, linestyle=":")
    axis.set_xticks(range(len(khats)), list(khats), fontsize=8)
    axis.set_xlim(-0.6, len(khats) - 0.4)
    axis.set_ylabel("k̂")
    if title:
        figure.suptitle(title, fontsize=9)
    save_figure(path, figure)


def checks_figure(path: Path, checks: xarray.Dataset, images: NDArray, title: str = "", num_scenes: int = 4) -> None:
    """Draw posterior-predictive checks: the PIT of all pixels, and maps of standardised residuals, for some scenes too.

    Args:
        path: the picture file, written atomically.
        checks: the result of `predictive_checks` for all sources; with several views the first is shown.
        images: the images of the same scenes, (B, 3, H, W) or (B, V, 3, H, W).
        title: the title above the picture.
        num_scenes: how many scenes are shown one by one.
    """
    if "view" in checks.dims:
        checks, images = checks.isel(view=0), images[:, 0]
    sources = [str(source) for source in checks["source"].values]
    num_scenes = min(num_scenes, len(images))
    standardised = checks["residual"] / checks["standard_deviation"]
    size = (3.2 + 1.3 * (num_scenes + 1), 1.7 * len(sources) + 1.9)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    grid = figure.add_gridspec(len(sources) + 1, num_scenes + 3)
    axis = figure.add_subplot(grid[:, :2])
    edges: list[float] = list(np.linspace(0, 1, 41))
    for source in sources:
        one = checks.sel(source=source)
        style: dict[str, Any] = {"density": True, "histtype": "step", "color": COLOURS[source]}
        axis.hist(one["pit"].values.ravel(), edges, label=f"{source}, observed", **style)
        axis.hist(one["pit_replicated"].values.ravel(), edges, linestyle=":", label=f"{source}, replicated", **style)
    axis.set_xlabel("PIT of a pixel's channel")
    axis.set_ylabel("density")
    axis.set_yscale("log")
    axis.legend(fontsize=7)
    for b in range(num_scenes):
        shown = figure.add_subplot(grid[0, b + 3])
        shown.imshow(np.moveaxis(images[b], 0, -1).clip(0, 1), interpolation="nearest")
        _bare(shown, f"scene {b + 1}")
    _bare(figure.add_subplot(grid[0, 2]), "")
    figure.axes[-1].axis("off")
    for row, source in enumerate(sources, start=1):
        maps = [np.sqrt((standardised.sel(source=source) ** 2).mean(("scene", "channel")).values)]
        signed = standardised.sel(source=source).mean("channel").values
        maps += [signed[b] for b in range(num_scenes)]
        for place, picture in enumerate(maps):
            shown = figure.add_subplot(grid[row, place + 2])
            limits = (0, 2) if place == 0 else (-2, 2)
            drawn = shown.imshow(picture, cmap="viridis" if place == 0 else "PuOr", vmin=limits[0], vmax=limits[1])
            _bare(shown, "r.m.s. of all scenes" if place == 0 else "")
            if place == 0:
                shown.set_ylabel(source, fontsize=8)
    figure.colorbar(drawn, ax=figure.axes[-1], shrink=0.8).set_label("residual / s.d.", fontsize=7)
    if title:
        figure.suptitle(title, fontsize=9)
    save_figure(path, figure)


def _bare(axis: Axes, title: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=7)

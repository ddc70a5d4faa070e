"""Distances between the marginals of sets of draws, slot by slot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import arviz
import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from torch.distributions import Normal

from pyro_compvae.analysis.posterior.groups import of_scenes
from pyro_compvae.analysis.posterior.slot_alignment import MIN_SCALE, align_slots
from pyro_compvae.analysis.tables import Table
from pyro_compvae.errors import ArgumentError

MIXED = 1.05
"""R-hat above which chains of NUTS disagree too much to serve as a reference."""

FLOOR = "halves of nuts"
"""The name of the distance between the first and the other chains of the reference, which is its own noise."""


def align_sources(draws: Mapping[str, xarray.DataArray]) -> dict[str, xarray.DataArray]:
    """Put the slots of all sources into one common order.

    All draws are aligned together. If each source were aligned separately, two sources might order the slots that show
    nothing, which are distributed as in the prior, in different ways, and seem to disagree.

    Args:
        draws: z (chain, draw, slot, latent) of one scene by source; the first source is aligned already.
    """
    ordered = {name: z.transpose("chain", "draw", "slot", "latent") for name, z in draws.items()}
    pooled = [torch.from_numpy(_pooled(z)) for z in ordered.values()]
    start = Normal(pooled[0].mean(0)[None], pooled[0].std(0).clamp(min=MIN_SCALE)[None])
    aligned, _ = align_slots(torch.cat(pooled).unsqueeze(1), start)
    parts = aligned.squeeze(1).split([len(z) for z in pooled])
    return {
        name: z.copy(data=part.numpy().reshape(z.shape)) for (name, z), part in zip(ordered.items(), parts, strict=True)
    }


def marginal_distances(draws: Mapping[str, xarray.DataArray]) -> xarray.DataArray:
    """Wasserstein-1 distances between marginals, in standard deviations of the reference.

    Args:
        draws: z (chain, draw, slot, latent) of one scene by source, from `align_sources`; the first source is the
            reference, which has two chains or more.

    Returns:
        The distances (source, slot, latent) of the other sources, with `FLOOR` as the last.

    Raises:
        ValueError: with a single chain, which has no halves.
    """
    reference, *others = draws.values()
    half = reference.sizes["chain"] // 2
    if half < 1:
        raise ArgumentError("draws: expected two chains or more of the reference, which can be compared, got one")
    halves = (reference.isel(chain=slice(half)), reference.isel(chain=slice(half, None)))
    pairs = [*((reference, other) for other in others), halves]
    scale = np.maximum(_pooled(reference).std(0), MIN_SCALE)
    distances = [_distances(_pooled(a), _pooled(b)) / scale for a, b in pairs]
    coords = {"source": [*list(draws)[1:], FLOOR], "slot": reference["slot"], "latent": reference["latent"]}
    return xarray.DataArray(np.stack(distances), coords, ("source", "slot", "latent"), name="wasserstein")


def _pooled(z: xarray.DataArray) -> NDArray[np.float64]:
    """The draws of all chains together, (chain · draw, slot, latent)."""
    values = z.transpose("chain", "draw", "slot", "latent").values.astype(np.float64)
    return values.reshape(-1, *values.shape[2:])


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    K, D = a.shape[1:]
    return np.array([[wasserstein_distance(a[:, k, d], b[:, k, d]) for d in range(D)] for k in range(K)])


HOW_TO_READ = (
    "Wasserstein distances of marginals to those of NUTS, in its standard deviations, mean over latents; "
    f"{FLOOR!r} is the noise of NUTS alone, to which importance adds that of its effective sample size."
)


def mean_differences(reference: xarray.DataArray, other: xarray.DataArray, ess: float) -> xarray.DataArray:
    """The differences between the means of all latents, (slot, latent), in standard errors of the difference.

    Their root mean square is near 1 if both are draws from the same posterior.

    Args:
        reference: z (chain, draw, slot, latent) of NUTS, from `align_sources`.
        other: the other draws, for the same scene.
        ess: the effective sample size of the weights by which the other draws were resampled.
    """
    error = arviz.mcse(reference.to_dataset(name="z"))["z"]
    resampled = 1 / ess + 1 / (other.sizes["chain"] * other.sizes["draw"])
    difference = other.mean(("chain", "draw")) - reference.mean(("chain", "draw"))
    return difference / (reference.var(("chain", "draw")) * resampled + error**2) ** 0.5


def agreement_sentence(reference: xarray.DataArray, other: xarray.DataArray, ess: float, khat: float) -> str:
    """A sentence that says whether importance resampling agrees with NUTS; see `mean_differences`."""
    size = float((mean_differences(reference, other, ess) ** 2).mean() ** 0.5)
    return (
        f"Means of importance differ from those of NUTS by {size:.2f} standard errors (r.m.s. over latents; 1 is what "
        f"noise makes), at k̂ {khat:.2f} and an effective sample size of {ess:.0f}."
    )


class Agreement(NamedTuple):
    """The agreement of one scene's draws with those of NUTS.

    scene: the number of the scene.
    draws: z (chain, draw, slot, latent) by source, with "nuts" as the first.
    distances: the result of `marginal_distances`.
    rows: the result of `agreement_rows`.
    notes: sentences on the agreement.
    """

    scene: int
    draws: dict[str, xarray.DataArray]
    distances: xarray.DataArray
    rows: Table
    notes: list[str]


def agreement(posteriors: Mapping[str, Mapping[str, xarray.Dataset]]) -> Agreement:
    """Compare draws of the guide and of importance with those of NUTS.

    Args:
        posteriors: the groups "posterior" and "sample_stats" of "nuts", for one scene, and of "guide" and "importance",
            for that scene and others.
    """
    statistics = posteriors["nuts"]["sample_stats"]
    scene = int(statistics["scene"].values[0])
    sources = ("nuts", "guide", "importance")
    draws = align_sources({name: posteriors[name]["posterior"]["z"].sel(scene=scene) for name in sources})
    nuts, distances = draws["nuts"], marginal_distances(draws)
    statistics_there = posteriors["importance"]["sample_stats"].sel(scene=scene)
    ess, khat = (float(of_scenes(statistics_there[name])) for name in ("ess", "khat"))
    rows, diverging = agreement_rows(nuts, distances), statistics["diverging"]
    worst = float(arviz.rhat(nuts.to_dataset(name="z"))["z"].max())
    notes = [
        agreement_sentence(nuts, draws["importance"], ess, khat),
        f"{int(diverging.sum())} of {diverging.size} draws of NUTS diverged."
        + (f" R-hat up to {worst:.2f}: NUTS has not converged, and is no truth yet." if worst > MIXED else ""),
        HOW_TO_READ,
    ]
    return Agreement(scene, draws, distances, rows, notes)


def agreement_rows(reference: xarray.DataArray, distances: xarray.DataArray) -> Table:
    """A row per slot, with R-hat and ESS of the reference, and the mean distance of every source over its latents."""
    rhat, ess = (function(reference.to_dataset(name="z"))["z"] for function in (arviz.rhat, arviz.ess))
    sources = [str(name) for name in distances["source"].values]

    def row(name: str, part: xarray.DataArray, worst: float, least: float) -> tuple[str, ...]:
        means = (f"{float(part.sel(source=source).mean()):.3f}" for source in sources)
        return (name, f"{worst:.2f}", f"{least:.0f}", *means)

    rows = [
        row(str(k + 1), distances.sel(slot=k), float(rhat.sel(slot=k).max()), float(ess.sel(slot=k).min()))
        for k in reference["slot"].values
    ]
    rows.append(row("all", distances, float(rhat.max()), float(ess.min())))
    return Table(("slot", "R-hat ≤", "ESS ≥", *sources), tuple(rows))

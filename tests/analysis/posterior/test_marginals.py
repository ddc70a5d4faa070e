"""Distances between marginals, whose values are known for shifted Gaussians."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import xarray
from torch.distributions import Normal

from pyro_compvae.analysis.posterior.marginals import (
    FLOOR,
    agreement,
    align_sources,
    marginal_distances,
    mean_differences,
)
from pyro_compvae.analysis.posterior.slot_alignment import align_slots


def gaussian(loc: np.ndarray, scale: float = 1.0, seed: int = 0, chains: int = 2) -> xarray.DataArray:
    """Draws (chain, draw, slot, latent) around loc (slot, latent)."""
    noise = np.random.default_rng(seed).standard_normal((chains, 4000, *loc.shape))
    coords = {name: range(size) for name, size in zip(("slot", "latent"), loc.shape, strict=True)}
    return xarray.DataArray(loc + scale * noise, coords, ("chain", "draw", "slot", "latent"), name="z")


LOC = np.array([[0.0, 10.0], [20.0, 30.0], [40.0, 50.0]])


def test_a_shift_is_its_own_distance_in_standard_deviations_whatever_the_order() -> None:
    shifted = gaussian(LOC + 3.0, scale=2.0, seed=1).isel(slot=[2, 0, 1]).assign_coords(slot=range(3))
    draws = align_sources({"nuts": gaussian(LOC, scale=2.0), "guide": shifted})
    distances = marginal_distances(draws)
    assert list(distances["source"].values) == ["guide", FLOOR]
    np.testing.assert_allclose(distances.sel(source="guide"), 1.5, atol=0.1)
    assert float(distances.sel(source=FLOOR).max()) < 0.1


def test_a_narrow_guide_is_at_the_distance_of_two_gaussians() -> None:
    # W1 of N(0, 1) and N(0, s²) is |1 − s| E|N(0, 1)|.
    distances = marginal_distances({"nuts": gaussian(LOC), "guide": gaussian(LOC, scale=0.5, seed=1)})
    np.testing.assert_allclose(distances.sel(source="guide"), 0.5 * np.sqrt(2 / np.pi), atol=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_slots_that_show_nothing_make_no_disagreement(seed: int) -> None:
    """Three slots of five are distributed as in the prior, and each source was aligned separately, like its file."""
    loc = np.zeros((5, 8))
    loc[0], loc[1] = 8.0, -8.0

    def aligned(number: int) -> xarray.DataArray:
        z = gaussian(loc, seed=10 * seed + number, chains=2).isel(draw=slice(500))
        draws = torch.from_numpy(z.values.reshape(-1, 1, 5, 8))
        torch.manual_seed(number)
        start = Normal(torch.from_numpy(loc)[None] + 0.3 * torch.randn(1, 5, 8), 1.0)
        return z.copy(data=align_slots(draws, start)[0].numpy().reshape(z.shape))

    apart = {"nuts": aligned(1), "importance": aligned(2)}
    together = align_sources(apart)

    def size(draws: dict[str, xarray.DataArray]) -> float:
        return float((mean_differences(draws["nuts"], draws["importance"], ess=1e6) ** 2).mean() ** 0.5)

    assert size(apart) > 2
    assert size(together) < 1.4


def posteriors(shift: float, ess: float) -> dict[str, dict[str, xarray.Dataset]]:
    """Groups of all sources: NUTS at scene 7, the others also at scene 8, with importance shifted."""

    def groups(z: xarray.DataArray, scenes: list[int], **statistics: xarray.DataArray) -> dict[str, xarray.Dataset]:
        stacked = xarray.concat([z for _ in scenes], xarray.IndexVariable("scene", scenes))
        stats = xarray.Dataset(statistics, {"scene": scenes})
        return {"posterior": stacked.to_dataset(name="z"), "sample_stats": stats}

    diverging = xarray.DataArray(np.eye(2, 4000, dtype=bool), dims=("chain", "draw"))
    per_scene = {name: xarray.DataArray([value, 0.0], dims="scene") for name, value in (("ess", ess), ("khat", 0.6))}
    return {
        "nuts": groups(gaussian(LOC), [7], diverging=diverging),
        "guide": groups(gaussian(LOC + 1, seed=1), [7, 8]),
        "importance": groups(gaussian(LOC + shift, seed=2), [7, 8], **per_scene),
    }


def test_agreement_has_a_line_per_slot_and_says_what_diverged() -> None:
    found = agreement(posteriors(shift=0.2, ess=25.0))
    assert found.scene == 7
    assert list(found.draws) == ["nuts", "guide", "importance"]
    assert [row[0] for row in found.rows.rows] == ["1", "2", "3", "all"]
    _, rhat, ess, guide, importance, _ = found.rows.rows[0]
    assert float(rhat) == 1.0
    assert float(ess) > 6000
    assert float(guide) == pytest.approx(1.0, abs=0.05)
    assert float(importance) == pytest.approx(0.2, abs=0.05)
    # The shift is 0.2 standard deviations, and the standard error of 25 draws is a fifth.
    size = re.search(r"differ from those of NUTS by ([\d.]+) standard errors", found.notes[0])
    assert size is not None
    assert float(size.group(1)) == pytest.approx(1, abs=0.05)
    assert "at k̂ 0.60 and an effective sample size of 25" in found.notes[0]
    assert found.notes[1] == "2 of 8000 draws of NUTS diverged."


def test_means_of_the_same_posterior_differ_by_their_errors() -> None:
    reference, other = gaussian(LOC), gaussian(LOC, seed=3)
    size = float((mean_differences(reference, other, ess=8000) ** 2).mean() ** 0.5)
    assert 0.3 < size < 1.8  # six differences
    assert float(mean_differences(reference, gaussian(LOC + 0.2, seed=3), ess=8000).min()) > 5


def test_a_single_chain_has_no_halves() -> None:
    with pytest.raises(ValueError, match="draws: expected two chains or more of the reference"):
        marginal_distances({"nuts": gaussian(LOC, chains=1)})

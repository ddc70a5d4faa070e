"""Distances between marginals, whose values are known for shifted Gaussians."""

from __future__ import annotations

import numpy as np
import pytest
import xarray

from analysis.marginals import FLOOR, agreement_table, marginal_distances, matched_slots


def gaussian(loc: np.ndarray, scale: float = 1.0, seed: int = 0, chains: int = 2) -> xarray.DataArray:
    """Draws (chain, draw, slot, latent) around loc (slot, latent)."""
    noise = np.random.default_rng(seed).standard_normal((chains, 4000, *loc.shape))
    coords = {name: range(size) for name, size in zip(("slot", "latent"), loc.shape, strict=True)}
    return xarray.DataArray(loc + scale * noise, coords, ("chain", "draw", "slot", "latent"), name="z")


LOC = np.array([[0.0, 10.0], [20.0, 30.0], [40.0, 50.0]])


def test_a_shift_is_its_own_distance_in_standard_deviations_whatever_the_order() -> None:
    reference = gaussian(LOC, scale=2.0)
    shifted = gaussian(LOC + 3.0, scale=2.0, seed=1).isel(slot=[2, 0, 1]).assign_coords(slot=range(3))
    distances = marginal_distances(reference, {"guide": shifted})
    assert list(distances["source"].values) == ["guide", FLOOR]
    np.testing.assert_allclose(distances.sel(source="guide"), 1.5, atol=0.1)
    assert float(distances.sel(source=FLOOR).max()) < 0.1


def test_a_narrow_guide_is_at_the_distance_of_two_gaussians() -> None:
    # W1 of N(0, 1) and N(0, s²) is |1 − s| E|N(0, 1)|.
    distances = marginal_distances(gaussian(LOC), {"guide": gaussian(LOC, scale=0.5, seed=1)})
    np.testing.assert_allclose(distances.sel(source="guide"), 0.5 * np.sqrt(2 / np.pi), atol=0.05)


def test_slots_are_matched_as_a_whole() -> None:
    reference = gaussian(LOC)
    other = reference.isel(slot=[1, 2, 0]).assign_coords(slot=range(3))
    xarray.testing.assert_identical(matched_slots(reference, other), reference)


def test_the_table_has_a_line_per_slot_and_says_what_diverged() -> None:
    reference = gaussian(LOC)
    distances = marginal_distances(reference, {"guide": gaussian(LOC + 1, seed=1)})
    diverging = xarray.Dataset({"diverging": (("chain", "draw"), np.eye(2, 4000, dtype=bool))})
    lines = agreement_table(reference, distances, diverging, "scene 7").splitlines()
    assert lines[0] == "scene 7"
    assert [line.split()[0] for line in lines[1:6]] == ["slot", "0", "1", "2", "all"]
    slot, rhat, ess, guide, _ = lines[2].split()
    assert (slot, float(rhat)) == ("0", 1.0)
    assert float(ess) > 6000
    assert float(guide) == pytest.approx(1.0, abs=0.05)
    assert "2 of 8000 draws of NUTS diverged" in lines[-2]


def test_a_single_chain_has_no_halves() -> None:
    with pytest.raises(ValueError, match="reference: expected two chains or more"):
        marginal_distances(gaussian(LOC, chains=1), {})

"""Tables and figures of calibration, for ranks that are uniform and for ranks that are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray

from pyro_compvae.analysis.calibration.compute import QUANTITIES
from pyro_compvae.analysis.calibration.figure import calibration_figure
from pyro_compvae.analysis.calibration.table import calibration_rows, calibration_table, ranks_by_source

N = 200


@pytest.fixture
def data() -> xarray.Dataset:
    """Ranks of an overconfident guide, and of importance that is exact if its k̂ is low and else in worse modes."""
    rng = np.random.default_rng(0)
    rank = rng.uniform(size=(2, len(QUANTITIES), N))
    khat = np.where(np.arange(N) < 120, 0.5, 0.9)
    rank[0, list(QUANTITIES).index("log_guide")] = rng.uniform(size=N) ** 3
    rank[1, :, 120:] = 1 - 0.1 * rank[1, :, 120:]
    coords = {"source": ["guide", "importance"], "quantity": list(QUANTITIES)}
    return xarray.Dataset(
        {"rank": (("source", "quantity", "scene"), rank), "khat": ("scene", khat), "num_draws": ("source", [50, 8])},
        coords,
        {"num_weights": 2000},
    )


def test_scenes_of_low_khat_are_told_apart(data: xarray.Dataset) -> None:
    assert {name: ranks.sizes["scene"] for name, ranks in ranks_by_source(data).items()} == {
        "guide": N,
        "importance": N,
        "importance, k̂ < 0.70": 120,
    }
    rows = {row[0]: row[1:] for row in calibration_rows(data).rows}
    assert set(rows) == set(QUANTITIES.values())
    for row in rows.values():
        assert float(row[3]) < 0.001
        assert float(row[5]) > 0.001, "uniform among the reliable scenes"
    assert float(rows[QUANTITIES["log_guide"]][1]) < 0.001
    assert float(rows[QUANTITIES["total"]][1]) > 0.001
    fewer_weights = data.assign_attrs(num_weights=64)
    assert list(ranks_by_source(fewer_weights)) == ["guide", "importance"], "0.5 is too much for 64 weights"
    few = data.assign(khat=data["khat"] + np.where(np.arange(N) < 5, 0, 0.3))
    assert list(ranks_by_source(few)) == ["guide", "importance"]
    assert list(ranks_by_source(data.drop_vars("khat"))) == ["guide", "importance"]


def test_coverage_is_the_share_of_regions_that_hold_the_exact_draw(data: xarray.Dataset) -> None:
    text = calibration_table(data)
    # Ranks u³ of the guide's density: 1 − u³ ≤ α with probability 1 − (1 − α)^(1/3).
    line = next(line for line in text.splitlines() if line.startswith("guide: expected coverage"))
    shares = [float(word.rstrip("%,")) / 100 for word in line.split() if word.endswith("%")]
    for share, level in zip(shares[:3], (0.5, 0.8, 0.95), strict=True):
        assert share == pytest.approx(1 - (1 - level) ** (1 / 3), abs=4 * np.sqrt(0.25 / N))
    assert f"{N} scenes simulated from the model; ranks among draws, 50 of guide and 8 of importance" in text


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_figure_is_drawn(data: xarray.Dataset, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"calibration.{suffix}"
    calibration_figure(path, data, "a title")
    assert path.stat().st_size > 20_000
    if suffix == "svg":
        assert path.read_text().count("</svg>") == 1

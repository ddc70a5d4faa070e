"""Tables of calibration, and how to read them."""

from __future__ import annotations

import numpy as np
import xarray
from numpy.typing import NDArray

from pyro_compvae.analysis.calibration.compute import COVERAGE, QUANTITIES
from pyro_compvae.analysis.calibration.uniformity import uniformity
from pyro_compvae.analysis.tables import Table
from pyro_compvae.evidence.estimate import reliable_khat

FEW = 8
"""Least number of scenes that are reliable by k̂ for separate ranks of these scenes."""

LEVELS = (0.5, 0.8, 0.95)
"""The levels at which coverage is reported."""


def ranks_by_source(data: xarray.Dataset) -> dict[str, xarray.DataArray]:
    """The ranks (quantity, scene) of every source; for importance also those of the reliable scenes (by k̂) alone.

    k̂ depends on the chains behind the draws, but not on the exact draw, so ranks of an exact posterior stay nearly
    uniform among these scenes.

    Args:
        data: the result of `calibrate`.
    """
    found = {str(source): data["rank"].sel(source=source) for source in data["source"].values}
    if "khat" in data:
        threshold = reliable_khat(data.attrs["num_weights"])
        reliable = np.flatnonzero(data["khat"].values < threshold)
        if len(reliable) >= FEW:
            found[f"importance, k̂ < {threshold:.2f}"] = found["importance"].isel(scene=reliable)
    return found


def calibration_rows(data: xarray.Dataset) -> Table:
    """A row for every quantity, with the mean rank and the p-value of uniformity for every source.

    Args:
        data: the result of `calibrate`.
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
    """The ranks of every quantity, the expected coverage, and how to read them.

    Args:
        data: the result of `calibrate`.
    """
    return "\n".join([str(calibration_rows(data)), *calibration_sentences(data), how_to_read(data)])


def calibration_sentences(data: xarray.Dataset) -> list[str]:
    """Sentences on how often regions of highest density contain the exact draw, for every source."""
    lines = []
    for source, ranks in ranks_by_source(data).items():
        found = coverage(ranks, source)
        shares = ", ".join(f"{np.mean(found <= level):.0%} at {level:.0%}" for level in LEVELS)
        lines.append(f"{source}: expected coverage {shares} ({len(found)} scenes)")
    return lines


def how_to_read(data: xarray.Dataset) -> str:
    """A text that says what ranks and coverage mean."""
    draws = " and ".join(f"{int(data['num_draws'].sel(source=name))} of {name}" for name in data["source"].values)
    return HOW_TO_READ.format(scenes=data.sizes["scene"], draws=draws)


HOW_TO_READ = """\
{scenes} scenes simulated from the model; ranks among draws, {draws}. The ranks of an exact posterior are uniform: their
mean is 0.5, and p, which tests their ECDF, is below 0.01 one time in a hundred per line. If coverage is below its
level, the draws are too narrow, or elsewhere. If it is above, exact draws have a higher density than these, which are
too wide, or in a worse mode."""


def coverage(ranks: xarray.DataArray, source: str) -> NDArray:
    """The level of the smallest region of highest density that contains the exact draw, per scene; ideally uniform.

    Args:
        ranks: the ranks, (quantity, scene).
        source: a source in `COVERAGE`, which names the density, perhaps with more text after a comma.
    """
    return 1 - ranks.sel(quantity=COVERAGE[source.partition(",")[0]]).values

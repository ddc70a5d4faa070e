"""Batches of scenes in files: damaged ones are computed again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

from pyro_compvae.analysis.results import Show, in_batches, is_of


@pytest.mark.parametrize("damage", ["cut", "zeroed"])
def test_damaged_batches_are_computed_again(tmp_path: Path, damage: str) -> None:
    """Wherever the file was cut or its blocks were lost, as by a copy that broke off."""
    computed, path = [], tmp_path / "evidence.nc"

    def compute(start: int, stop: int, show: Show) -> xarray.Dataset:
        computed.append(start)
        return xarray.Dataset({"log_weight": (("scene", "draw"), torch.rand(stop - start, 500).numpy())})

    whole = in_batches(path, compute, 4, 2, "settings")
    file = tmp_path / "evidence" / "scenes_00002_00004.nc"
    content = file.read_bytes()
    for start in range(0, len(content), len(content) // 10):
        rest = len(content) - start if damage == "zeroed" else 0
        file.write_bytes(content[:start] + bytes(rest))
        computed.clear()
        again = in_batches(path, compute, 4, 2, "settings")
        assert computed in ([2], [])
        if computed or damage == "cut":  # numbers that were zeroed look like numbers
            xarray.testing.assert_identical(again, whole)
    file.write_bytes(content[: len(content) // 2])
    assert not is_of(file, "settings")
    file.write_bytes(content)
    assert is_of(file, "settings")
    assert np.isfinite(whole["log_weight"]).all()

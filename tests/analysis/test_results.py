"""Batches of scenes in files are joined, and damaged ones are computed again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

from pyro_compvae.analysis.results import Batches, ShowProgress, in_batches, is_of, read


@pytest.mark.parametrize("damage", ["cut", "zeroed"])
def test_damaged_batches_are_computed_again(tmp_path: Path, damage: str) -> None:
    """The file may be cut or lose blocks anywhere, as in an interrupted copy."""
    computed, path = [], tmp_path / "evidence.nc"

    def compute(start: int, stop: int, show: ShowProgress) -> xarray.Dataset:
        computed.append(start)
        return xarray.Dataset({"log_weight": (("scene", "draw"), torch.rand(stop - start, 500).numpy())})

    whole = in_batches(path, compute, Batches(4, 2), "settings")
    file = tmp_path / "evidence" / "scenes_00002_00004.nc"
    content = file.read_bytes()
    for start in range(0, len(content), len(content) // 10):
        rest = len(content) - start if damage == "zeroed" else 0
        file.write_bytes(content[:start] + bytes(rest))
        computed.clear()
        again = in_batches(path, compute, Batches(4, 2), "settings")
        assert computed in ([2], [])
        if computed or damage == "cut":  # numbers that were zeroed look like numbers
            xarray.testing.assert_identical(again, whole)
    file.write_bytes(content[: len(content) // 2])
    assert not is_of(file, "settings")
    file.write_bytes(content)
    assert is_of(file, "settings")
    assert np.isfinite(whole["log_weight"]).all()


def test_batches_are_put_together_in_order(tmp_path: Path) -> None:
    calls = []

    def compute(start: int, stop: int, show: ShowProgress) -> xarray.Dataset:
        calls.append((start, stop))
        return xarray.Dataset({"square": ("scene", np.arange(start, stop) ** 2)})

    data = in_batches(tmp_path / "squares.nc", compute, Batches(5, 2), "a")
    assert data["square"].values.tolist() == [0, 1, 4, 9, 16]
    assert data["scene"].values.tolist() == [0, 1, 2, 3, 4]
    assert calls == [(0, 2), (2, 4), (4, 5)]
    in_batches(tmp_path / "squares.nc", compute, Batches(4, 2), "a")
    assert len(calls) == 3
    assert read(tmp_path / "squares.nc").sizes["scene"] == 4
    in_batches(tmp_path / "squares.nc", compute, Batches(4, 2), "b")
    assert len(calls) == 5, "other settings"

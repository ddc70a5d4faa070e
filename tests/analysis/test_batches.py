"""Batches in files are joined, those of other scenes and settings never, and damaged ones are computed again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

from pyro_compvae.analysis.batches import Batches, ShowProgress, in_batches
from pyro_compvae.analysis.results import is_of, read, recorded
from pyro_compvae.data import SceneSet


def pictures(number: int, colour: int = 0) -> SceneSet:
    """Scenes of one colour each, which differ."""
    shades = torch.arange(colour, colour + number, dtype=torch.uint8)
    return SceneSet(shades[:, None, None, None].expand(number, 3, 4, 4).contiguous())


class Means:
    """A computation of the mean byte of every scene, times a factor, that records its calls."""

    def __init__(self, scenes: SceneSet, factor: float = 1.0) -> None:
        self.scenes, self.factor = scenes, factor
        self.calls: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int, show: ShowProgress) -> xarray.Dataset:
        self.calls.append((start, stop))
        means = self.scenes.images[start:stop].double().flatten(1).mean(1)
        return xarray.Dataset({"mean": ("scene", (self.factor * means).numpy())})

    def into(self, path: Path, batches: Batches) -> list[float]:
        data = in_batches(path, self, batches, {"factor": self.factor}, self.scenes)
        xarray.testing.assert_identical(data, read(path))
        return data["mean"].values.tolist()


def test_batches_are_put_together_in_order(tmp_path: Path) -> None:
    means, path = Means(pictures(5)), tmp_path / "means.nc"
    assert means.into(path, Batches(5, 2)) == [0, 1, 2, 3, 4]
    assert read(path)["scene"].values.tolist() == [0, 1, 2, 3, 4]
    assert means.calls == [(0, 2), (2, 4), (4, 5)]
    with pytest.warns(UserWarning, match="num_scenes is 5 there and 4 here; other scenes"):
        assert means.into(path, Batches(4, 2)) == [0, 1, 2, 3]
    assert len(means.calls) == 3, "they are there"
    assert recorded(read(path))["num_scenes"] == 4


def test_another_file_of_scenes_is_computed_and_an_extended_one_is_extended(tmp_path: Path) -> None:
    path = tmp_path / "means.nc"
    Means(pictures(4)).into(path, Batches(4, 2))
    other = Means(pictures(6, colour=100))
    with pytest.warns(UserWarning, match=r"it held other numbers .*other scenes\). They are kept as"):
        assert other.into(path, Batches(6, 2)) == [100, 101, 102, 103, 104, 105]
    assert other.calls == [(0, 2), (2, 4), (4, 6)], "none is of the first file"
    longer = Means(pictures(6))
    with pytest.warns(UserWarning, match="other scenes"):
        assert longer.into(path, Batches(6, 2)) == [0, 1, 2, 3, 4, 5]
    assert longer.calls == [(4, 6)], "the others are the very scenes of the first file"


def test_batches_of_other_settings_are_never_put_together(tmp_path: Path) -> None:
    """A call that runs at the same time writes its batches between those of this one."""
    path, scenes = tmp_path / "means.nc", pictures(4)
    other = Means(scenes, factor=10)

    class Disturbed(Means):
        def __call__(self, start: int, stop: int, show: ShowProgress) -> xarray.Dataset:
            if start == 2:
                other.into(path, Batches(4, 2))
            return super().__call__(start, stop, show)

    with pytest.warns(UserWarning, match=r"factor is 10 there and 1\.0 here"):
        assert Disturbed(scenes).into(path, Batches(4, 2)) == [0, 1, 2, 3]
    assert recorded(read(path))["factor"] == 1
    calls = len(other.calls)
    with pytest.warns(UserWarning, match=r"factor is 1\.0 there and 10 here"):
        assert other.into(path, Batches(4, 2)) == [0, 10, 20, 30]
    assert len(other.calls) == calls


@pytest.mark.parametrize("damage", ["cut", "zeroed"])
def test_damaged_batches_are_computed_again(tmp_path: Path, damage: str) -> None:
    """The file may be cut or lose blocks anywhere, as in an interrupted copy."""
    computed, path, scenes = [], tmp_path / "evidence.nc", pictures(4)

    def compute(start: int, stop: int, show: ShowProgress) -> xarray.Dataset:
        computed.append(start)
        return xarray.Dataset({"log_weight": (("scene", "draw"), torch.rand(stop - start, 500).numpy())})

    def joined() -> xarray.Dataset:
        path.unlink(missing_ok=True)
        return in_batches(path, compute, Batches(4, 2), {}, scenes)

    whole = joined()
    (file,) = (tmp_path / "evidence").glob("scenes_00002_00004_*.nc")
    settings, content = recorded(read(file)), file.read_bytes()
    for start in range(0, len(content), len(content) // 5):
        rest = len(content) - start if damage == "zeroed" else 0
        file.write_bytes(content[:start] + bytes(rest))
        computed.clear()
        again = joined()
        assert computed in ([2], [])
        if computed or damage == "cut":  # numbers that were zeroed look like numbers
            xarray.testing.assert_identical(again, whole)
    file.write_bytes(content[: len(content) // 2])
    assert not is_of(file, settings)
    file.write_bytes(content)
    assert is_of(file, settings)
    assert np.isfinite(whole["log_weight"]).all()

"""Numbers in files: which scenes, settings and weights they are of, and what becomes of those that are replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import xarray

from pyro_compvae.analysis.netcdf import write_netcdf
from pyro_compvae.analysis.results import IdentityError, as_text, check_identity, is_of, make_way, read, save
from pyro_compvae.data import SceneSet

IDENTITY = {"weights": "w", "step": 3}


def numbers(value: float) -> xarray.Dataset:
    return xarray.Dataset({"value": ("scene", [value, value])})


def value_in(path: Path) -> float:
    return float(read(path)["value"][0])


def test_numbers_that_are_replaced_are_kept_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "numbers.nc"
    many, few = ({"num_draws": number, "scenes": {}} for number in (1000, 10))
    save(path, numbers(1), many)
    assert is_of(path, many)
    assert not is_of(path, few)
    with pytest.warns(UserWarning, match=r"num_draws is 1000 there and 10 here\). They are kept as replaced/numbers_"):
        save(path, numbers(2), few)
    assert value_in(path) == 2
    (kept,) = (tmp_path / "replaced").iterdir()
    assert value_in(kept) == 1
    with pytest.warns(UserWarning, match="num_draws is 10 there and 1000 here"):
        assert is_of(path, many)
    assert value_in(path) == 1
    (kept,) = (tmp_path / "replaced").iterdir()
    assert value_in(kept) == 2


@pytest.mark.parametrize("attrs", [{}, {"settings": "no JSON"}, {"settings": "[]"}])
def test_numbers_that_do_not_say_what_they_are_of_are_kept_too(tmp_path: Path, attrs: dict[str, Any]) -> None:
    path = tmp_path / "numbers.nc"
    for value in (1, 2):
        write_netcdf(path, {"sample_stats": numbers(value).assign_attrs(attrs)})
        assert not is_of(path, {"a": 1})
        with pytest.warns(UserWarning, match="it does not say which"):
            make_way(path, {"a": 1})
        assert value_in(path) == value, "until the new numbers are written"
    kept = {value_in(file) for file in (tmp_path / "replaced").iterdir()}
    assert kept == {1, 2}


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "numbers.nc"
    path.write_bytes(b"no NetCDF")
    assert not is_of(path, {})
    save(path, numbers(1), {})
    assert [file.name for file in tmp_path.iterdir()] == ["numbers.nc"]


def test_numbers_of_other_weights_or_scenes_are_refused() -> None:
    images = torch.arange(6 * 3 * 4 * 4).view(6, 3, 4, 4).to(torch.uint8)
    scenes, path = SceneSet(images), Path("numbers.nc")

    def of(index: list[int], **settings: Any) -> xarray.Dataset:
        content = {**IDENTITY, "scenes": scenes.part(torch.tensor(index)).seen, **settings}
        data = xarray.Dataset(coords={"scene": index})
        return data.assign_attrs(settings=as_text(content))

    check_identity(path, of([0, 1, 2]), IDENTITY, scenes)
    check_identity(path, of([4]), IDENTITY, scenes)
    with pytest.raises(IdentityError, match="expected numbers of this run, found those of other weights"):
        check_identity(path, of([0], weights="v"), IDENTITY, scenes)
    others = "expected numbers of the test scenes that the run has now, found those of others"
    for now in (SceneSet(images.flip(0)), SceneSet(images[:2])):
        with pytest.raises(IdentityError, match=others):
            check_identity(path, of([0, 1, 2]), IDENTITY, now)
        check_identity(path, of([0, 1, 2]), IDENTITY, None)
    old = of([0]).assign_attrs(settings='{"weights": "w", "step": 3}')
    check_identity(path, old, IDENTITY, SceneSet(images.flip(0)))

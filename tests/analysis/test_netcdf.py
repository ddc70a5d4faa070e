"""NetCDF files of runs, sound, damaged and hostile: none hangs, fills the memory, or is read from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

from pyro_compvae.analysis.netcdf import read_netcdf, write_netcdf
from pyro_compvae.analysis.results import IdentityError, as_text, check_identity, is_of, read, save
from pyro_compvae.data import DataError
from pyro_compvae.data.readers import hdf5

SETTINGS = {"step": 2}


@pytest.fixture(autouse=True)
def _visited(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file counts as visited, as for a process that has not written it."""
    monkeypatch.setattr(hdf5, "visited", set())


def numbers() -> xarray.Dataset:
    values = np.random.default_rng(0).normal(size=(1, 40, 4))
    coords = {"chain": [0], "scene": range(4), "family": ["a", "bb"]}
    return xarray.Dataset({"x": (("chain", "draw", "scene"), values)}, coords).assign_attrs(settings=as_text(SETTINGS))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(tmp_path / "a.nc", numbers(), SETTINGS)
    hdf5.visited.clear()
    return tmp_path / "a.nc"


def test_what_is_written_comes_back(path: Path) -> None:
    xarray.testing.assert_identical(read(path), numbers())
    assert is_of(path, SETTINGS)


def test_zeros_that_libhdf5_never_gets_over(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a loss of power; a probe that may take a second shows that libhdf5 comes to no end."""
    probe = hdf5.PROBE.read_text().replace("MAX_SECONDS = 5", "MAX_SECONDS = 1")
    (tmp_path / "probe.py").write_text(probe)
    monkeypatch.setattr(hdf5, "PROBE", tmp_path / "probe.py")
    content = bytearray(path.read_bytes())
    content[700:742] = bytes(42)
    path.write_bytes(content)
    with pytest.raises(DataError, match="but libhdf5 comes to no end with it"):
        read(path)
    assert not is_of(path, SETTINGS)


def declare(path: Path, shape: tuple[int, ...], **options: object) -> Path:
    with h5py.File(path, "w") as file:
        scale = file.create_dataset("sample_stats/x", shape, "f8", **options)
        assert scale.shape == shape
    return path


def test_values_that_are_declared_and_not_stored(tmp_path: Path) -> None:
    path = declare(tmp_path / "a.nc", (1 << 30,), chunks=(1 << 16,))
    with pytest.raises(DataError, match=r"expected no more values than the file can hold, got \(1073741824,\)"):
        read(path)


def test_values_that_shrink_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_compvae.analysis.netcdf.MAX_GROUP", 1 << 20)
    path = tmp_path / "a.nc"
    write_netcdf(path, {"sample_stats": xarray.Dataset({"x": ("i", np.zeros(1 << 20))})}, compressed=True)
    with pytest.raises(DataError, match=r"expected numbers that take \d MiB at most, got 8 MiB in a file of"):
        read(path)
    monkeypatch.setattr("pyro_compvae.analysis.netcdf.MAX_GROUP", 8 << 20)
    assert read(path)["x"].sum() == 0


def test_a_dimension_without_coordinates_is_no_declaration_of_values(tmp_path: Path) -> None:
    save(tmp_path / "a.nc", xarray.Dataset({"x": (("i", "j"), np.zeros((1, 600_000)))}), SETTINGS)
    assert read(tmp_path / "a.nc")["x"].shape == (1, 600_000)


def test_values_outside_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(800))
    path = declare(tmp_path / "a.nc", (100,), external=[(str(tmp_path / "secret"), 0, 800)])
    with pytest.raises(DataError, match="/sample_stats/x keeps its values outside of the file"):
        read(path)


def test_links_out_of_the_file(tmp_path: Path, path: Path) -> None:
    with h5py.File(tmp_path / "b.nc", "w") as file:
        file["sample_stats"] = h5py.ExternalLink(str(path), "sample_stats")
    with pytest.raises(DataError, match="/sample_stats is a link, which may point out of the file"):
        read(tmp_path / "b.nc")


def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nc")
    with pytest.raises(DataError, match="expected an HDF5 file, found no such file"):
        read(tmp_path / "a.nc")
    assert not is_of(tmp_path / "a.nc", SETTINGS)


def test_other_hdf5_and_other_files(tmp_path: Path, path: Path) -> None:
    with pytest.raises(DataError, match=r"a.nc: expected the group 'posterior', found none"):
        read_netcdf(path, "posterior")
    with h5py.File(tmp_path / "b.nc", "w") as file:
        file["sample_stats"] = np.zeros(3)
    with pytest.raises(DataError, match=r"b.nc: expected the group 'sample_stats', found none"):
        read(tmp_path / "b.nc")
    (tmp_path / "c.nc").write_bytes(b"CDF\x01" + bytes(100))
    with pytest.raises(DataError, match=r"c.nc: expected a sound HDF5 file that holds its own values"):
        read(tmp_path / "c.nc")


def test_a_file_is_visited_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(path)
    monkeypatch.setattr(hdf5, "PROBE", Path("/no/such/probe"))
    read(path)
    os.utime(path, (0, 0))
    with pytest.raises(DataError, match="libhdf5 ends with exit code 2"):
        read(path)


@pytest.mark.parametrize("settings", [None, "", "null", "[]", "3", "{", "[" * 100_000, 7, np.zeros(3)])
def test_settings_of_any_kind(settings: object) -> None:
    data = xarray.Dataset(attrs={"settings": settings})
    with pytest.raises(IdentityError, match="expected numbers of this run"):
        check_identity(Path("a.nc"), data, {"step": 1})

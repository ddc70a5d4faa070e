"""NetCDF files of several groups, which ArviZ and xarray open, written and read."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import h5netcdf
import h5py
import xarray
from xarray.backends import H5NetCDFStore

from pyro_compvae.data.readers.hdf5 import call_sound, check_storage, declared_bytes, open_hdf5
from pyro_compvae.data.records import DataError
from pyro_compvae.runs.files import write_bytes

MAX_GROUP = 256 << 20
MAX_RATIO = 50
"""A group may declare `MAX_GROUP` bytes, and `MAX_RATIO` further bytes for every byte of its file. Of our numbers only
masks and flags shrink by more than a factor of two."""

BARE = b"This is a netCDF dimension but not a netCDF variable"
"""How the name of a dataset begins that stands for a dimension without coordinates; it has no values."""


def write_netcdf(path: Path, groups: Mapping[str, xarray.Dataset], compressed: bool = False) -> None:
    """Write data sets as groups of a file, atomically.

    The file is built in memory: if HDF5 finds a disk full, it cannot close its file and crashes the process.

    Raises:
        DiskFullError: if the disk has no room for the file.
    """
    content = io.BytesIO()
    with h5netcdf.File(content, "w") as file:
        for name, group in groups.items():
            packed = {variable: {"zlib": True} for variable in group.data_vars if group[variable].ndim}
            group.dump_to_store(H5NetCDFStore(file, group=name, mode="a"), encoding=packed if compressed else {})
    write_bytes(path, content.getvalue())
    call_sound(path)


def read_netcdf(path: Path, group: str) -> xarray.Dataset:
    """Read a group of a file into memory, after another process has visited the file.

    Raises:
        DataError: if the file is missing or damaged, has no such group, keeps values elsewhere, or declares far more
            values than it can hold.
    """
    with open_hdf5(path) as file:
        found = file.get(group)
        if not isinstance(found, h5py.Group):
            raise DataError(f"{path}: expected the group {group!r}, found none. Delete the file and compute it again.")
        stored = [item for item in found.values() if isinstance(item, h5py.Dataset) and not _is_bare(item)]
        for dataset in stored:
            check_storage(dataset)
        declared, size = sum(map(declared_bytes, stored)), path.stat().st_size
        if declared > MAX_GROUP + MAX_RATIO * size:
            raise DataError(
                f"{path}: expected numbers that take {(MAX_GROUP + MAX_RATIO * size) >> 20} MiB at most, got "
                f"{declared >> 20} MiB in a file of {size} bytes. Delete the file and compute it again."
            )
    try:
        return xarray.load_dataset(path, group=group, engine="h5netcdf", decode_times=False)
    except Exception as error:  # xarray raises many kinds of errors on files that are no NetCDF
        raise DataError(f"{path}: expected NetCDF, but the group {group!r} cannot be read ({error}).") from error


def _is_bare(dataset: h5py.Dataset) -> bool:
    """Whether a dataset stands for a dimension without coordinates."""
    name = dataset.attrs.get("NAME")
    return isinstance(name, bytes) and name.startswith(BARE)

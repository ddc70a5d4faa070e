"""NetCDF files of several groups, which ArviZ and xarray open."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import h5netcdf
import xarray
from xarray.backends import H5NetCDFStore

from pyro_compvae.runs.files import write_bytes


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

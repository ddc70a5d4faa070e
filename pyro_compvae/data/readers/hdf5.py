"""HDF5 files, opened with care: the one door for scenes and for NetCDF, whoever wrote the file."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pyro_compvae.data.records import DataError
from pyro_compvae.runs.files import check_opens

PROBE = Path(__file__).with_name("hdf5_probe.py")
PROBE_SECONDS = 60
"""How long a probe may take by the clock, in seconds; it may keep the processor busy for less (see there)."""

OUT_OF_TIME = (-getattr(signal, "SIGXCPU", 0), -getattr(signal, "SIGKILL", 0))
"""The exit codes of a probe that the system has ended, because it kept the processor busy."""

visited: set[tuple[int | str, ...]] = set()
"""The versions of files that a probe has found sound, or that this process has written (`call_sound`)."""

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
"""The filters that come with h5py; others load libraries that the file names."""

MAX_SCENE = 64 << 20
"""The largest array of one scene in memory, in bytes. A scene of CLEVR has one MiB of masks."""

MAX_CHUNK = 256 << 20
MAX_DEFLATED_CHUNK = 4 << 20
"""The largest chunk in memory, and the largest compressed chunk on disk, in bytes. Deflate shrinks to a thousandth at
most."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading, after another process has visited its structure without crashing.

    Raises:
        DataError: if the file is missing or damaged, refers to other files, or cannot be read.
    """
    check_sound(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(f"{path}: expected a sound HDF5 file, but it cannot be read ({error}).") from error


def check_sound(path: Path) -> None:
    """Let another process visit a file's structure, unless this version of the file has been visited before.

    Raises:
        DataError: if the file is missing or damaged, refers to other files, or cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected an HDF5 file, found no such file.")
    check_opens(path, DataError)
    if _version(path) in visited:
        return
    command = [sys.executable, "-I", str(PROBE), os.path.abspath(path)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
        problem = run.stdout.strip() if run.returncode == 0 else f"libhdf5 ends with exit code {run.returncode}"
        if run.returncode in OUT_OF_TIME:
            problem = "libhdf5 comes to no end with it"
    except subprocess.TimeoutExpired:
        problem = f"libhdf5 is not through with it after {PROBE_SECONDS} seconds"
    if problem:
        raise DataError(
            f"{path}: expected a sound HDF5 file that holds its own values, but {problem}. Unless another process is "
            "writing it, download, convert or compute it again."
        )
    call_sound(path)


def call_sound(path: Path) -> None:
    """Remember that this version of a file needs no visit, because this process has just written it."""
    visited.add(_version(path))


def _version(path: Path) -> tuple[int | str, ...]:
    status = path.stat()
    return os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def find_dataset(group: h5py.Group, name: str, shape: str, ndim: int | tuple[int, ...], kinds: str) -> h5py.Dataset:
    """Find a dataset of a group, and check that its declaration is plausible.

    Args:
        group: the group that holds the dataset.
        name: the dataset's name.
        shape: the names of its dimensions, for messages.
        ndim: how many dimensions it may have.
        kinds: NumPy's letters for the kinds of numbers that it may hold, such as "ui".

    Raises:
        DataError: if there is no such dataset, or its type or number of dimensions is not among those allowed, or it is
            empty, uses foreign filters or huge chunks, or declares more values than the file can hold.
    """
    where = f"{group.file.filename}: {group.name.rstrip('/')}/{name}"
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{where}: expected an array {shape}, found none.")
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if len(dataset.shape or ()) not in allowed or dataset.dtype.kind not in kinds or 0 in (dataset.shape or (0,)):
        raise DataError(f"{where}: expected {shape} of kind {kinds!r}, got {dataset.shape} {dataset.dtype}.")
    check_storage(dataset)
    if math.prod(dataset.shape[1:]) * dataset.dtype.itemsize > MAX_SCENE:
        raise DataError(f"{where}: expected at most {MAX_SCENE >> 20} MiB for a scene, got {dataset.shape[1:]} values.")
    return dataset


def check_storage(dataset: h5py.Dataset) -> None:
    """Refuse a dataset whose declaration is not plausible for what the file holds of it.

    Raises:
        DataError: if it uses foreign filters or huge chunks, or declares more values than the file can hold.
    """
    where = f"{dataset.file.filename}: {dataset.name}"
    properties = dataset.id.get_create_plist()
    filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
    if not filters <= set(FILTERS):
        known = ", ".join(FILTERS.values())
        raise DataError(f"{where}: expected the filters {known}, got the numbers {sorted(filters)}.")
    # Deflate shrinks to a thousandth at most. Reading would invent values that are declared but not stored.
    declared = declared_bytes(dataset)
    if declared > 1100 * dataset.id.get_storage_size() + (1 << 20):
        raise DataError(
            f"{where}: expected no more values than the file can hold, got {dataset.shape} {dataset.dtype} in "
            f"{dataset.id.get_storage_size()} bytes."
        )
    if dataset.chunks:
        largest = _largest_chunk(dataset) if filters else 0
        if math.prod(dataset.chunks) * dataset.dtype.itemsize > MAX_CHUNK or largest > MAX_DEFLATED_CHUNK:
            raise DataError(
                f"{where}: expected chunks of at most {MAX_CHUNK >> 20} MiB, and {MAX_DEFLATED_CHUNK >> 20} MiB "
                f"compressed, got chunks {dataset.chunks} of up to {largest} bytes. Rewrite it with smaller ones."
            )


def declared_bytes(dataset: h5py.Dataset) -> int:
    """The size in memory that a dataset declares, in bytes."""
    return math.prod(dataset.shape or ()) * dataset.dtype.itemsize


def _largest_chunk(dataset: h5py.Dataset) -> int:
    """The size of the largest chunk on disk, in bytes."""
    sizes = [0]
    dataset.id.chunk_iter(lambda chunk: sizes.append(chunk.size))
    return max(sizes)


def read_rows(dataset: h5py.Dataset, rows: Any) -> NDArray:
    """Read some of the rows of a dataset.

    Raises:
        DataError: if their bytes are damaged.
    """
    try:
        return np.asarray(dataset[rows])
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{dataset.file.filename}: {dataset.name}: expected sound values, but they cannot be read ({error}). "
            "Download or convert the file again."
        ) from error

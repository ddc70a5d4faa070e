"""Numbers of many scenes, computed and saved batch by batch, so that an interrupted call is not repeated in full."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import xarray
from tqdm import tqdm

from pyro_compvae.analysis.netcdf import read_netcdf, write_netcdf
from pyro_compvae.checks import check_counts, check_seed
from pyro_compvae.data.records import DataError
from pyro_compvae.errors import CompvaeError
from pyro_compvae.runs.files import naming_full_disk
from pyro_compvae.runs.lock import locked
from pyro_compvae.training.distributed import ALONE, Workers

ShowProgress = Callable[[str], object]
"""A function that shows the progress of a batch as a text."""

Compute = Callable[[int, int, ShowProgress], xarray.Dataset]
"""A function that computes the numbers of the scenes from start to stop, with the dimension "scene"."""


@dataclass(frozen=True)
class Batches:
    """The first scenes of a set, in batches."""

    num_scenes: int
    """How many scenes are computed."""
    batch_scenes: int = 16
    """How many scenes are computed and saved together."""
    seed: int = 0
    """Seed of the random numbers; every batch has its own stream."""
    workers: Workers = ALONE
    """This process, and how many share the batches."""

    def __post_init__(self) -> None:
        check_counts(num_scenes=self.num_scenes, batch_scenes=self.batch_scenes)
        check_seed(self.seed)

    def of(self, scenes: Sized) -> Batches:
        """The same batches for a set that may have fewer scenes."""
        return replace(self, num_scenes=min(self.num_scenes, len(scenes)))

    @property
    def ends(self) -> list[tuple[int, int]]:
        """The numbers of the scenes at which batches start and stop."""
        total, size = self.num_scenes, self.batch_scenes
        return [(start, min(start + size, total)) for start in range(0, total, size)]


def in_batches(path: Path, compute: Compute, batches: Batches, settings: str) -> xarray.Dataset:
    """Compute scenes in batches, which the workers share, and join them in one file.

    Args:
        path: the file of all scenes; batches are kept in a folder of the same name without the suffix.
        compute: called once for every batch that has not been saved yet, with the batch's own random stream.
        batches: how many scenes, and how many at a time.
        settings: everything besides the scenes that the numbers depend on; batches of other settings are computed
            again.

    Returns:
        The numbers of all scenes; on workers other than the first, an empty data set.

    Raises:
        DiskFullError: if the disk has no room for a batch; the batches before it are kept.
        LockedError: if another process computes the same numbers.
    """
    workers = batches.workers
    folder = path.with_suffix("")
    with naming_full_disk(folder):
        folder.mkdir(exist_ok=True)
    with locked(folder / ".lock") if workers.is_first else nullcontext():
        return _in_locked_folder(path, compute, batches, settings)


def _in_locked_folder(path: Path, compute: Compute, batches: Batches, settings: str) -> xarray.Dataset:
    folder, workers = path.with_suffix(""), batches.workers
    files = [folder / f"scenes_{start:05d}_{stop:05d}.nc" for start, stop in batches.ends]
    mine = workers.share(list(zip(batches.ends, files, strict=True)))
    with tqdm(total=sum(stop - start for (start, stop), _ in mine), unit="scene", disable=not workers.is_first) as bar:
        for (start, stop), file in mine:
            if not is_of(file, settings):
                torch.manual_seed(batches.seed + start)
                batch = compute(start, stop, bar.set_postfix_str)
                save(file, batch.assign_coords(scene=range(start, stop)).assign_attrs(settings=settings))
            bar.update(stop - start)
    workers.wait()
    if not workers.is_first:
        return xarray.Dataset()
    data = xarray.concat([read(file) for file in files], dim="scene", combine_attrs="override", data_vars="minimal")
    save(path, data)
    return data


def is_of(path: Path, settings: str) -> bool:
    """Whether a file exists, can be read, and was computed with these settings."""
    try:
        return path.is_file() and read(path).attrs.get("settings") == settings
    except DataError:  # such a file is computed again
        return False


def check_identity(path: Path, settings: str | None, identity: Mapping[str, str | int]) -> None:
    """Refuse numbers that were computed from other weights than those of a run.

    Args:
        path: the file of the numbers.
        settings: the settings that the file records.
        identity: the run's identity.

    Raises:
        IdentityError: if the numbers are of other weights.
    """
    try:
        found = json.loads(settings or "{}")
    except (ValueError, TypeError, RecursionError):
        found = {}
    if not isinstance(found, dict) or not found.items() >= identity.items():
        raise IdentityError(
            f"{path}: expected numbers of this run, found those of other weights (the run was trained on, or the file "
            "copied from elsewhere); delete it and compute it again"
        )


class IdentityError(CompvaeError, ValueError):
    """A file belongs to another run."""


def save(path: Path, data: xarray.Dataset) -> None:
    """Write the group "sample_stats" of a NetCDF file, which ArviZ and xarray open."""
    write_netcdf(path, {"sample_stats": data})


def read(path: Path) -> xarray.Dataset:
    """Read a data set that `save` wrote.

    Raises:
        DataError: if the file is missing or damaged, or has no such group.
    """
    return read_netcdf(path, "sample_stats")

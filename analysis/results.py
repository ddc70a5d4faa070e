"""Numbers of many scenes, computed and saved batch by batch: what an interrupted call had done is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import xarray
from tqdm import tqdm

from pyro_compvae.analysis.netcdf import write_netcdf
from pyro_compvae.checks import check_counts
from pyro_compvae.errors import CompvaeError
from pyro_compvae.runs.files import naming_full_disk
from pyro_compvae.training.distributed import ALONE, Workers

ShowProgress = Callable[[str], object]
"""Shows how far a batch is."""

Compute = Callable[[int, int, ShowProgress], xarray.Dataset]
"""The numbers of the scenes from start to stop, with the dimension "scene"."""


@dataclass(frozen=True)
class Batches:
    """The first scenes of a set, batch by batch."""

    num_scenes: int
    """How many scenes."""
    batch_scenes: int = 16
    """How many of them are computed together, and saved together."""
    seed: int = 0
    """Seed of the random numbers; every batch has a stream of its own."""
    workers: Workers = ALONE
    """This process among those that share the batches."""

    def __post_init__(self) -> None:
        check_counts(num_scenes=self.num_scenes, batch_scenes=self.batch_scenes)

    def of(self, scenes: Sized) -> Batches:
        """The same of a set that may have fewer scenes."""
        return replace(self, num_scenes=min(self.num_scenes, len(scenes)))

    @property
    def ends(self) -> list[tuple[int, int]]:
        """Where batches start and stop."""
        total, size = self.num_scenes, self.batch_scenes
        return [(start, min(start + size, total)) for start in range(0, total, size)]


def in_batches(path: Path, compute: Compute, batches: Batches, settings: str) -> xarray.Dataset:
    """Compute scenes in batches, shared among the workers, and put them together in a file of their own.

    Args:
        path: the file of all scenes; batches are kept in the folder of that name without its suffix.
        compute: called once for every batch that is not there yet, with a random stream of the batch's own.
        batches: which scenes, and how many at a time.
        settings: whatever the numbers depend on besides the scenes; batches of other settings are computed again.

    Returns:
        All scenes; on workers but the first, nothing.

    Raises:
        DiskFullError: if there is no room for a batch; those before it are kept.
    """
    workers = batches.workers
    folder = path.with_suffix("")
    with naming_full_disk(folder):
        folder.mkdir(exist_ok=True)
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
    """Whether a file is there, can be read, and is of these settings."""
    try:
        return path.is_file() and read(path).attrs.get("settings") == settings
    except Exception:  # of many kinds, for a file that is damaged or without the group: to be computed again
        return False


def check_identity(path: Path, settings: str | None, identity: Mapping[str, str | int]) -> None:
    """Refuse numbers that were computed from other weights than those of a run.

    Args:
        path: where they are from.
        settings: of the file.
        identity: of the run.

    Raises:
        IdentityError: if they are.
    """
    try:
        found = json.loads(settings or "{}")
    except ValueError:
        found = {}
    if not found.items() >= identity.items():
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
    """What `save` wrote."""
    return xarray.load_dataset(path, group="sample_stats", engine="h5netcdf")

"""Numbers of many scenes, computed and saved batch by batch, so that an interrupted call is not repeated in full."""

from __future__ import annotations

from collections.abc import Callable, Sized
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import xarray

from pyro_compvae.analysis.progress import SceneBar, ShowProgress
from pyro_compvae.analysis.results import Settings, is_of, key_of, make_way, read, save
from pyro_compvae.checks import check_counts, check_seed
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.runs.files import make_own_folder
from pyro_compvae.runs.lock import locked
from pyro_compvae.training.distributed import ALONE, Workers

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


def in_batches(path: Path, compute: Compute, batches: Batches, settings: Settings, scenes: SceneSet) -> xarray.Dataset:
    """Compute scenes in batches, which the workers share, and join them in one file.

    Args:
        path: the file of all scenes; batches are kept in a folder of the same name without the suffix.
        compute: called once for every batch that has not been saved yet, with the batch's own random stream.
        batches: how many scenes, and how many at a time.
        settings: everything besides the scenes that the numbers depend on. Batches of other settings or scenes have
            other names, and are neither used nor touched.
        scenes: the scenes, of which images and viewpoints enter.

    Returns:
        The numbers of all scenes; on workers other than the first, an empty data set.

    Raises:
        UnlikeWorkersError: if the workers have different settings or scenes.
        DiskFullError: if the disk has no room for a batch; the batches before it are kept.
        LockedError: if another process computes numbers for the same file.
    """
    batches, workers = batches.of(scenes), batches.workers
    number = batches.num_scenes
    whole = {**settings, "num_scenes": number, "scenes": scenes.part(slice(number)).seen}
    workers.check_alike(whole)
    if workers.any(workers.is_first and is_of(path, whole)):
        return read(path) if workers.is_first else xarray.Dataset()
    folder = path.with_suffix("")
    make_own_folder(folder)
    with locked(folder / ".lock") if workers.is_first else nullcontext():
        if workers.is_first:
            make_way(path, whole)
        found = _batch_by_batch(folder, compute, batches, settings, scenes)
        if not workers.is_first:
            return xarray.Dataset()
        data = xarray.concat(found, dim="scene", combine_attrs="override", data_vars="minimal")
        save(path, data, whole)
    return read(path)


def _batch_by_batch(
    folder: Path, compute: Compute, batches: Batches, settings: Settings, scenes: SceneSet
) -> list[xarray.Dataset]:
    """Compute this worker's share of the batches that have not been saved yet; the first worker gets all of them."""
    workers, parts = batches.workers, []
    for start, stop in batches.ends:
        part = {**settings, "scenes": scenes.part(slice(start, stop)).seen}
        parts.append((start, stop, folder / f"scenes_{start:05d}_{stop:05d}_{key_of(part)}.nc", part))
    mine = workers.share(parts)
    with SceneBar(sum(stop - start for start, stop, *_ in mine), disable=not workers.is_first) as bar:
        for start, stop, file, part in mine:
            show = bar.batch(stop - start)
            if not is_of(file, part):
                torch.manual_seed(batches.seed + start)
                save(file, compute(start, stop, show).assign_coords(scene=range(start, stop)), part)
            show.finish()
    workers.wait()
    return [read(file) for _, _, file, _ in parts] if workers.is_first else []

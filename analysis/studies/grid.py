"""Studies: grids of ordinary runs, trained as cores allow. A study that was killed continues where it stopped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tqdm import tqdm

from pyro_compvae.data import load_scenes
from pyro_compvae.errors import ConfigError
from pyro_compvae.orphans import child_environment
from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.config import RunConfig, differences
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.sections import DataConfig


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    name: the name of its run folder.
    config: the run's configuration.
    place: its place in the study, by the names of the axes.
    """

    name: str
    config: RunConfig
    place: dict[str, str | float] = field(default_factory=dict)


def _is_done(out: Path, cell: Cell) -> bool:
    """Whether the run of a cell has a summary."""
    return RunFolder(out / cell.name).is_finished


def train_cells(cells: Sequence[Cell], out: Path, command: Sequence[str], at_once: int = 1) -> list[Cell]:
    """Train the unfinished runs, some at a time, each with its share of the cores; returns the cells that failed.

    Every cell becomes a run folder with a log beside it. If a run fails, the others are trained nevertheless.

    Args:
        cells: the cells of the study.
        out: the folder of the study.
        command: the command that trains the run in the folder given as ``--run-dir``, from its config.yaml on.
        at_once: how many runs are trained at a time.

    Raises:
        ConfigError: for fewer than one run at a time, or for two cells with the same name.
        CheckpointError: before anything is trained, if the folder of a cell holds files, a run of another
            configuration, or a finished one of other scenes.
        DataError: if there are finished runs, and the scenes of the study cannot be loaded.
    """
    if at_once < 1:
        raise ConfigError(f"at_once: expected at least 1, got {at_once}")
    if len({cell.name for cell in cells}) < len(cells):
        raise ConfigError(f"expected cells with names of their own, got {', '.join(cell.name for cell in cells)}")
    digests = cache(_digests)  # the cells of a data set share its scenes
    for cell in cells:
        _check_own(RunFolder(out / cell.name), cell)
    for cell in cells:
        if _is_done(out, cell):
            _check_scenes(RunFolder(out / cell.name), cell, digests)
    todo = [cell for cell in cells if not _is_done(out, cell)]
    threads = max(1, (os.cpu_count() or 1) // at_once)
    environment = {"OMP_NUM_THREADS": str(threads)} | child_environment()

    def train(cell: Cell) -> None:
        folder = RunFolder(out / cell.name)
        if not folder.is_run:
            folder.begin(cell.config)
        root = [] if cell.config.data.root is None else ["--data-root", cell.config.data.root]
        with (out / f"{cell.name}.log").open("a", encoding="utf-8") as log:
            full = [*command, "--run-dir", str(folder.path), *root]
            subprocess.run(full, stdout=log, stderr=log, check=False, env=environment)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            list(tqdm(pool.map(train, todo), "training", len(todo), unit="run"))
        except BaseException:  # Ctrl-C reaches the runs too, and no further one must begin
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [cell for cell in cells if not _is_done(out, cell)]


def _check_own(folder: RunFolder, cell: Cell) -> None:
    if not folder.is_run:
        folder.check_new()
        return
    stored = folder.config()
    changed = differences(stored, cell.config) + differences(stored, cell.config, ("training.steps",))
    if changed:
        raise CheckpointError(
            f"{folder.path}: expected a run of this study, found one of another: {'; '.join(changed)}. "
            "Choose another --out."
        )


def _digests(data: DataConfig, split: str, multi_view: bool) -> dict[str, str]:
    return load_scenes(data, split, multi_view=multi_view).digests


def _check_scenes(folder: RunFolder, cell: Cell, digests: Callable[[DataConfig, str, bool], dict[str, str]]) -> None:
    """Refuse a finished run of other scenes than the study's: a file may have been replaced, or be at another place.

    Large training sets are read only if they are at another place. Scenes that are made on the spot are determined by
    the configuration.
    """
    data, stored = cell.config.data, folder.config().data
    if data.root is None:
        return
    recorded = folder.summary().get("digests", {})
    moved = stored.root != data.root
    if not recorded and not moved:
        return  # a run of an earlier version, which is taken to be of the scenes at the place that it names
    for split in ("test", "train") if moved else ("test",):
        if recorded.get(split) != digests(data, split, cell.config.multi_view):
            raise CheckpointError(
                f"{folder.path}: expected a run of this study, found one of other scenes: it was trained on those of "
                f"{stored.root or data.name}, the study is on {data.root or data.name}, and their scenes of the split "
                f"{split} are not known to be the same. Choose another --out."
            )

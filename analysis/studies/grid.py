"""Studies: grids of ordinary runs, trained as cores allow. A study that was killed continues where it stopped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from pyro_compvae.errors import ConfigError
from pyro_compvae.orphans import child_environment
from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.config import RunConfig, differences
from pyro_compvae.runs.folder import RunFolder


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
        CheckpointError: before anything is trained, if the folder of a cell holds files, or a run of another
            configuration.
    """
    if at_once < 1:
        raise ConfigError(f"at_once: expected at least 1, got {at_once}")
    if len({cell.name for cell in cells}) < len(cells):
        raise ConfigError(f"expected cells with names of their own, got {', '.join(cell.name for cell in cells)}")
    for cell in cells:
        _check_own(RunFolder(out / cell.name), cell)
    todo = [cell for cell in cells if not _is_done(out, cell)]
    threads = max(1, (os.cpu_count() or 1) // at_once)
    environment = {"OMP_NUM_THREADS": str(threads)} | child_environment()

    def train(cell: Cell) -> None:
        folder = RunFolder(out / cell.name)
        if not folder.is_run:
            folder.begin(cell.config)
        with (out / f"{cell.name}.log").open("a", encoding="utf-8") as log:
            subprocess.run(
                [*command, "--run-dir", str(folder.path)], stdout=log, stderr=log, check=False, env=environment
            )

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

"""Studies: grids of ordinary runs, trained as cores allow. If killed, the same study goes on where it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from pyro_compvae.errors import ConfigError
from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.config import RunConfig, differences
from pyro_compvae.runs.folder import RunFolder


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    name: of its run folder.
    config: of the run.
    place: where it stands in the study, by the names of the axes.
    """

    name: str
    config: RunConfig
    place: dict[str, str | float] = field(default_factory=dict)


def _is_done(out: Path, cell: Cell) -> bool:
    """Whether the run of a cell has its summary."""
    return RunFolder(out / cell.name).is_finished


def train_cells(cells: Sequence[Cell], out: Path, command: Sequence[str], at_once: int = 1) -> list[Cell]:
    """Train what is not done, some runs at a time, each with its share of the cores; those that did not finish.

    Every cell becomes a run folder, and a log beside it. A run that fails does not keep the others from being trained.

    Args:
        cells: of the study.
        out: folder of the study.
        command: what trains the run in the folder that follows ``--run-dir``, from its config.yaml on.
        at_once: runs at a time.

    Raises:
        ConfigError: for fewer than one run at a time, or cells of one name.
        CheckpointError: before anything is trained, if the folder of a cell holds a run of another configuration.
    """
    if at_once < 1:
        raise ConfigError(f"at_once: expected at least 1, got {at_once}")
    if len({cell.name for cell in cells}) < len(cells):
        raise ConfigError(f"expected cells with names of their own, got {', '.join(cell.name for cell in cells)}")
    for cell in cells:
        _check_own(RunFolder(out / cell.name), cell)
    todo = [cell for cell in cells if not _is_done(out, cell)]
    threads = max(1, (os.cpu_count() or 1) // at_once)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ

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
        except BaseException:  # Ctrl-C reaches the runs too, and no other is to begin
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [cell for cell in cells if not _is_done(out, cell)]


def _check_own(folder: RunFolder, cell: Cell) -> None:
    if not folder.is_run:
        return
    stored = folder.config()
    changed = differences(stored, cell.config) + differences(stored, cell.config, ("training.steps",))
    if changed:
        raise CheckpointError(
            f"{folder.path}: expected a run of this study, found one of another: {'; '.join(changed)}. "
            "Choose another --out."
        )

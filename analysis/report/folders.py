"""What a report reads from a run folder, and the reasons why other things are missing."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import xarray

from pyro_compvae.analysis.results import IdentityError, check_identity
from pyro_compvae.analysis.runs import Run, load_run
from pyro_compvae.data import DataError, SceneSet
from pyro_compvae.errors import CompvaeError
from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.environment import read_environment
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.log import whole_lines


class ReportError(CompvaeError, ValueError):
    """There is nothing to report on."""


class Missing(Exception):  # noqa: N818 (it is no error: a report shows the reason and continues)
    """Something has not been computed, or cannot be shown; the message says why, and how to compute it."""

    def __init__(self, why: str, command: str = "") -> None:
        super().__init__(why)
        self.why, self.command = why, command


@dataclass(frozen=True)
class ReportedRun:
    """A run of a report, finished or not.

    name: the name in headings: the folder's own, or its path if two folders have the same name.
    run: the loaded run, or None if it cannot be loaded, for the reason in ``problem``.
    """

    folder: RunFolder
    name: str
    config: RunConfig
    run: Run | None
    problem: str

    def command(self, subcommand: str, *options: str) -> str:
        """The command that computes what is missing."""
        return " ".join(("compvae", subcommand, self.quoted, *options))

    @property
    def quoted(self) -> str:
        """The path, quoted for a shell."""
        return shlex.quote(str(self.folder.path))

    def summary(self) -> dict[str, Any]:
        """The metrics on all test scenes.

        Raises:
            Missing: if the run has not finished, or its file of scenes has been replaced since.
        """
        if not self.folder.is_finished:
            command = f"compvae train --resume --run-dir {self.quoted}"
            raise Missing("The run has not finished: there is no summary.json.", command)
        try:
            summary = self.folder.summary()
            of = summary.get("digests", {}).get("test")
        except (ValueError, AttributeError) as error:
            raise Missing(f"{self.folder.summary_file} cannot be read ({error}).") from error
        if of is not None and self.scenes is not None and of != self.scenes.digests:
            raise Missing(f"{self.folder.summary_file} is of other test scenes than the run has now.")
        return summary

    def metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, without damaged rows and without empty cells.

        Raises:
            Missing: if there is no such file, or it cannot be read.
        """
        path = self.folder.metrics
        if not path.is_file():
            raise Missing("There is no metrics.csv: the run was copied without it.")
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                header = next(csv.reader(file), [])
            rows = csv.DictReader(whole_lines(path, len(header)).values(), header)
            return [{name: float(cell) for name, cell in row.items() if name and cell} for row in rows]
        except (ValueError, csv.Error) as error:
            raise Missing(f"{path} cannot be read ({error}).") from error

    def environment(self) -> list[dict[str, Any]]:
        """The calls that made the run.

        Raises:
            Missing: if they were not recorded, or cannot be read.
        """
        try:
            calls = read_environment(self.folder.environment)
        except CheckpointError as error:
            raise Missing(str(error)) from error
        if not calls:
            raise Missing("Command and environment were not recorded: there is no environment.json.")
        return calls

    def loaded(self) -> Run:
        """The loaded run.

        Raises:
            Missing: if it cannot be loaded.
        """
        if self.run is None:
            raise Missing(f"The run cannot be loaded: {self.problem}")
        return self.run

    @cached_property
    def scenes(self) -> SceneSet | None:
        """The test scenes of the run, or None if they cannot be loaded, or are made on the spot.

        No others can take the place of those, and a processor that rounds a pixel differently makes no other scenes.
        """
        try:
            return None if self.run is None or self.config.data.root is None else self.run.scenes("test")
        except DataError:
            return None

    def read(self, name: str, command: str, group: str = "sample_stats") -> xarray.Dataset:
        """Read a group of a NetCDF file in the folder.

        Args:
            name: the name of the file, without its suffix.
            command: the command that computes the file.
            group: the group in the file.

        Raises:
            Missing: if the file or the group is missing, damaged, of another run, or of other test scenes than now.
        """
        path = self.folder.numbers(name)
        if not path.is_file():
            raise Missing(f"Not computed yet: there is no {path.name}.", command)
        try:
            data = xarray.load_dataset(path, group=group, engine="h5netcdf")
        except Exception as error:  # damaged files and missing groups raise many kinds of errors
            raise Missing(f"{path.name} has no group {group!r} that can be read ({error}).", command) from error
        if self.run is not None:
            self.check(path, data, self.run.identity, command)
        return data

    def check(self, path: Path, data: xarray.Dataset, identity: Mapping[str, str | int], command: str) -> None:
        """Refuse numbers in a file of another identity, or of other test scenes than the run has now.

        Raises:
            Missing: with the command that computes them again.
        """
        try:
            check_identity(path, data, identity, self.scenes)
        except IdentityError as error:
            raise Missing(str(error), command) from error


def open_folders(paths: list[Path]) -> list[ReportedRun]:
    """Open the run folders of a report.

    Raises:
        ReportError: if there are no folders, one is named twice, or one has no configuration that can be read.
    """
    if not paths:
        raise ReportError("expected one run folder or more, got none")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ReportError(f"expected every run folder once, got {', '.join(map(str, paths))}")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [_open(path, name) for path, name in zip(paths, names, strict=True)]


def _open(path: Path, name: str) -> ReportedRun:
    folder = RunFolder(path)
    try:
        config = folder.config()
    except CheckpointError as error:
        raise ReportError(str(error)) from error
    except ValueError as error:
        raise ReportError(f"{folder.config_file}: expected the configuration of a run, but {error}") from error
    try:
        return ReportedRun(folder, name, config, load_run(path), "")
    except CheckpointError as error:
        return ReportedRun(folder, name, config, None, str(error))

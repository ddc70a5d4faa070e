"""What a report reads from a run folder, and the reasons why other things are missing."""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import xarray

from pyro_compvae.analysis.netcdf import read_netcdf
from pyro_compvae.analysis.results import IdentityError, check_identity
from pyro_compvae.analysis.runs import Run, load_run
from pyro_compvae.data import DataError, SceneSet
from pyro_compvae.data.load import ROOTS
from pyro_compvae.errors import CompvaeError, ConfigError
from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.environment import read_environment
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.log import whole_lines
from pyro_compvae.runs.reading import check_text
from pyro_compvae.runs.summary import SummaryError


class ReportError(CompvaeError, ValueError):
    """There is nothing to report on."""


class Missing(Exception):  # noqa: N818 (it is no error: a report shows the reason and continues)
    """Something has not been computed, or cannot be shown; the message says why, and how to compute it."""

    def __init__(self, why: str, command: str = "") -> None:
        super().__init__(why)
        self.why, self.command = why, command


class NotComputed(Missing):
    """Something is not there; the page has one list of all that, with the commands that compute it."""


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

    @property
    def at_step(self) -> str:
        """The step of the weights, which everything on the page is of, as a text."""
        return f"step {self.run.step:,}" if self.run is not None else "weights that cannot be loaded"

    def summary(self) -> dict[str, Any]:
        """The metrics on all test scenes.

        Raises:
            Missing: if the run has not finished, or its file of scenes has been replaced since.
        """
        if not self.folder.is_finished:
            command = f"compvae train --resume --run-dir {self.quoted}"
            raise NotComputed("the run has not finished: there is no summary.json", command)
        try:
            summary = self.folder.summary()
            of = summary.get("digests", {}).get("test")
        except (SummaryError, AttributeError) as error:
            raise Missing(f"{self.folder.summary_file} cannot be read ({error}).") from error
        if of is not None and self.scenes is not None and of != self.scenes.digests:
            raise Missing(f"{self.folder.summary_file} is of other test scenes than the run has now.")
        return summary

    def metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, without damaged rows and without empty cells.

        Raises:
            Missing: if there is no such file, or it cannot be read, or is no log of steps.
        """
        path = self.folder.metrics
        if not path.is_file():
            raise NotComputed("there is no metrics.csv, as the run was copied without it")
        check_text(path, self.folder.path, Missing)
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                header = next(csv.reader(file), [])
            if header[:1] != ["step"] or len(set(header)) < len(header):
                raise Missing(f"{path} cannot be read: expected the column step and then others, got {header[:4]}.")
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
            raise NotComputed("there is no environment.json, as command and environment were not recorded")
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
            raise NotComputed(f"there is no {path.name}", command)
        try:
            data = read_netcdf(path, group)
        except DataError as error:
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


def open_folders(paths: list[Path], data_root: Path | None = None) -> tuple[list[ReportedRun], list[str]]:
    """Open the run folders of a report, given the place of the data now if they have moved.

    Returns:
        The runs, and a sentence on every folder that is none or has no configuration that can be read.

    Raises:
        ReportError: if there are no folders, one is named twice, or none is a run folder.
    """
    if not paths:
        raise ReportError("expected one run folder or more, got none")
    places = [os.path.realpath(path) for path in paths]
    if len(set(places)) < len(places):
        raise ReportError(f"expected every run folder once, got {', '.join(map(str, paths))}")
    names = [os.path.basename(place) for place in places]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    runs: list[ReportedRun] = []
    problems: list[str] = []
    for path, name in zip(paths, names, strict=True):
        try:
            runs.append(_open(path, name, data_root))
        except ReportError as error:
            problems.append(str(error))
    if not runs:
        raise ReportError("; ".join(problems))
    return runs, problems


def _open(path: Path, name: str, data_root: Path | None) -> ReportedRun:
    folder = RunFolder(path)
    try:
        config = folder.config()
    except ConfigError as error:
        raise ReportError(f"{folder.config_file}: expected the configuration of a run, but {error}") from error
    except (CompvaeError, OSError) as error:
        raise ReportError(str(error)) from error
    place = data_root if config.data.name in ROOTS else None  # other scenes are made on the spot
    try:
        return ReportedRun(folder, name, config, load_run(path, data_root=place), "")
    except CompvaeError as error:
        return ReportedRun(folder, name, config, None, str(error))
    # A folder that others have made may break what nobody has thought of; it must not cost the rest of the page.
    except Exception as error:
        return ReportedRun(folder, name, config, None, repr(error))

"""The folder of a run, and the names of its files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.config import RunConfig, differences, from_yaml, to_yaml
from pyro_compvae.runs.files import make_own_folder, shortened, write_text
from pyro_compvae.runs.lock import locked
from pyro_compvae.runs.reading import read_text
from pyro_compvae.runs.summary import read_summary


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. No other module knows their names.

    path: the folder of a run, or of an export of a run.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """The configuration, which makes a folder a run."""
        return self.path / "config.yaml"

    @property
    def checkpoint(self) -> Path:
        """The weights, and all other state from which training continues."""
        return self.path / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        """The weights of an export."""
        return self.path / "model.safetensors"

    @property
    def summary_file(self) -> Path:
        """The metrics on all test scenes, written when training is done."""
        return self.path / "summary.json"

    @property
    def metrics(self) -> Path:
        """The log, with a row for every logged step."""
        return self.path / "metrics.csv"

    @property
    def environment(self) -> Path:
        """The commands, packages and machines, with an entry for every call that trained the run."""
        return self.path / "environment.json"

    @property
    def scenes(self) -> Path:
        """The scenes of a run that was trained on a user's own array of images."""
        return self.path / "scenes.h5"

    def numbers(self, name: str) -> Path:
        """A NetCDF file of numbers that were computed from the run, such as "ladder"."""
        return self.path / f"{name}.nc"

    def figure(self, name: str) -> Path:
        """A picture in the folder of figures, which is made if there is none."""
        figures = self.path / "figures"
        make_own_folder(figures)
        return figures / name

    @property
    def is_run(self) -> bool:
        """Whether the folder holds a run, finished or not, or an export."""
        return self.config_file.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run has a summary."""
        return self.summary_file.is_file()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context in which no other process writes into the folder, which is made if there is none.

        Raises:
            LockedError: if another process is in this context; the message says which.
            FileError: if nothing can be written in the folder.
        """
        is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.path / ".lock"):
                yield
        finally:
            if is_new:
                with suppress(OSError):  # it is not empty
                    self.path.rmdir()

    def check_new(self) -> None:
        """Refuse a folder that holds files, except hidden ones, which a killed process may have left.

        Raises:
            CheckpointError: if the folder holds other files, or is no folder.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir() or any(not file.name.startswith(".") for file in self.path.iterdir()):
            raise CheckpointError(
                f"{self.path}: expected a new or empty run folder, found one that holds files. "
                "Resume that run (--resume), or name another folder (--run-dir); nothing was overwritten."
            )

    def config(self) -> RunConfig:
        """The configuration of the run. A user's own scenes are found in the folder, wherever it is now.

        Raises:
            CheckpointError: if the folder holds no run, or the file cannot be opened, or is a link out of the folder.
            ConfigError: if the file is damaged.
        """
        if not self.is_run:
            raise CheckpointError(f"{self.path}: expected a run folder with a config.yaml, found none")
        config = from_yaml(read_text(self.config_file, self.path, CheckpointError))
        moved = config.data.root is not None and not Path(config.data.root).exists()
        if config.data.name == "file" and moved and self.scenes.is_file():
            return config.replace({"data.root": str(self.scenes.resolve())})
        return config

    def begin(self, config: RunConfig) -> None:
        """Make the folder a run of this configuration."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config_file, to_yaml(config))

    def resumed_config(self, changes: Mapping[str, Any], guide: str | None = None) -> RunConfig:
        """The configuration with which to continue: that of the run, with more steps or another place of the data.

        Args:
            changes: the changes asked for, by the names of fields.
            guide: the guide asked for, or None.

        Raises:
            CheckpointError: if there is no run in the folder, or only an export, or if the changes belong to another
                run.
            ConfigError: for an unknown field or an impossible value.
        """
        if not self.is_run:
            raise CheckpointError(
                f"resume: expected a run in {self.path}, found no {self.config_file.name} there; begin one without "
                "--resume"
            )
        if self.weights.is_file() and not self.checkpoint.exists():
            raise CheckpointError(
                f"resume: expected a run, got an export, {self.path}: training cannot continue from it, because it "
                "does not hold the state of the optimiser. Resume the run from which it was made"
            )
        stored = self.config()
        if guide is not None and guide != stored.guide:  # its configuration has other sections
            resumed, changed = stored, [f"guide is {stored.guide!r} there and {guide!r} here"]
        else:
            resumed = stored.replace(changes)
            changed = differences(stored, resumed)
        if changed:
            raise CheckpointError(
                f"resume: expected the configuration of the run in {self.path}, got another one: "
                f"{'; '.join(changed)}. Give the flags of that run (or none but --run-dir), or start a new run in "
                "another folder."
            )
        return resumed

    def summary(self) -> dict[str, Any]:
        """The metrics on all test scenes.

        Raises:
            SummaryError: if there is no summary, or the file is damaged.
        """
        return read_summary(self.summary_file)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the metrics on all test scenes, which makes the run count as finished."""
        write_text(self.summary_file, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def run_name(config: RunConfig) -> str:
    """The default name of a run: GUIDE-DATASET-lnms-seedS, with "plain" instead of "lnms" without L-NMS, and with the
    form of L-NMS if it is not the paper's."""
    frozen = f"-on-{shortened(Path(config.frozen_model).name, 80)}" if config.frozen_model else ""
    data = Path(config.data.root).stem if config.data.name == "file" and config.data.root else config.data.name
    form = "" if config.lnms_prior.form == "sum" else f"-{config.lnms_prior.form}"
    side = f"lnms{form}" if config.lnms else "plain"
    return f"{config.guide}-{shortened(data, 80)}-{side}-seed{config.seed}{frozen}"

"""The folder of a run: where everything of it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.config import RunConfig, differences, from_yaml, to_yaml
from pyro_compvae.runs.files import check_opens, write_text


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. Nothing else knows their names.

    path: the folder, of a run or of an export of one.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """The configuration, which makes a folder a run."""
        return self.path / "config.yaml"

    @property
    def checkpoint(self) -> Path:
        """The weights, and all that training goes on from."""
        return self.path / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        """The weights of an export."""
        return self.path / "model.safetensors"

    @property
    def summary_file(self) -> Path:
        """Metrics on all test scenes, written when training is done."""
        return self.path / "summary.json"

    @property
    def metrics(self) -> Path:
        """A row for every logged step."""
        return self.path / "metrics.csv"

    @property
    def environment(self) -> Path:
        """Commands, packages and machine, an entry for every call that trained the run."""
        return self.path / "environment.json"

    @property
    def scenes(self) -> Path:
        """The scenes of a run that was trained on a user's own array of images."""
        return self.path / "scenes.h5"

    def numbers(self, name: str) -> Path:
        """A NetCDF file of what has been computed of the run, such as "ladder"."""
        return self.path / f"{name}.nc"

    def figure(self, name: str) -> Path:
        """A picture, in a folder of pictures that is made where there is none."""
        figures = self.path / "figures"
        figures.mkdir(exist_ok=True)
        return figures / name

    @property
    def is_run(self) -> bool:
        """Whether there is a run here, finished or not, or an export."""
        return self.config_file.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run has its summary."""
        return self.summary_file.is_file()

    def check_new(self) -> None:
        """Refuse a folder that holds files, but for the hidden ones that a killed process leaves.

        Raises:
            CheckpointError: if it does.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir() or any(not file.name.startswith(".") for file in self.path.iterdir()):
            raise CheckpointError(
                f"{self.path}: expected a new or empty run folder, found one that holds files. "
                "Resume that run (--resume), or name another folder (--run-dir); nothing was overwritten."
            )

    def config(self) -> RunConfig:
        """The configuration of the run; scenes of the user's own are found where the folder is now.

        Raises:
            CheckpointError: if the folder is no run, or the file cannot be opened.
            ConfigError: if the file is damaged.
        """
        if not self.is_run:
            raise CheckpointError(f"{self.path}: expected a run folder with a config.yaml, found none")
        check_opens(self.config_file, CheckpointError)
        config = from_yaml(self.config_file.read_text(encoding="utf-8"))
        moved = config.data.root is not None and not Path(config.data.root).exists()
        if config.data.name == "file" and moved and self.scenes.is_file():
            return config.replace({"data.root": str(self.scenes.resolve())})
        return config

    def begin(self, config: RunConfig) -> None:
        """Make the folder a run of this configuration."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config_file, to_yaml(config))

    def resumed_config(self, changes: Mapping[str, Any], guide: str | None = None) -> RunConfig:
        """The configuration to go on with: that of the run, with more steps or another place of the data.

        Args:
            changes: what is asked for, by the names of fields.
            guide: the guide that is asked for, or None.

        Raises:
            CheckpointError: if there is no run here, or only an export of one, or what is asked for is of another run.
            ConfigError: for an unknown field or an impossible value.
        """
        if not self.is_run:
            raise CheckpointError(
                f"resume: expected a run in {self.path}, found no {self.config_file.name} there; begin one without "
                "--resume"
            )
        if self.weights.is_file() and not self.checkpoint.exists():
            raise CheckpointError(
                f"resume: expected a run, got an export, {self.path}: it cannot be trained on, for the state of the "
                "optimiser is not in it. Resume the run that it was made from"
            )
        stored = self.config()
        if guide is not None and guide != stored.guide:  # whose sections of the configuration are others
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
        """Metrics on all test scenes, as they were written.

        Raises:
            OSError: if there are none.
            ValueError: if the file is damaged.
        """
        return json.loads(self.summary_file.read_text(encoding="utf-8"))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the metrics on all test scenes, which makes the run a finished one."""
        write_text(self.summary_file, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def run_name(config: RunConfig) -> str:
    """What a run is called that was given no name: GUIDE-DATASET-lnms-seedS, or plain instead of lnms."""
    frozen = f"-on-{Path(config.frozen_model).name}" if config.frozen_model else ""
    data = Path(config.data.root).stem if config.data.name == "file" and config.data.root else config.data.name
    return f"{config.guide}-{data}-{'lnms' if config.lnms else 'plain'}-seed{config.seed}{frozen}"

"""The studies that reproduce the paper: which runs, and what is made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from pyro_compvae.analysis.studies.figure3 import figure3
from pyro_compvae.analysis.studies.figure6 import figure6_cells, figure6_csv, figure6_figure, figure6_table, score_run
from pyro_compvae.analysis.studies.grid import Cell, train_cells
from pyro_compvae.analysis.studies.table1 import read_scores, table1, table1_cells, table1_csv, table1_figure
from pyro_compvae.data import load_scenes
from pyro_compvae.device import choose_device
from pyro_compvae.errors import ConfigError
from pyro_compvae.runs.config import RunConfig, parse_assignments
from pyro_compvae.runs.files import write_text
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import DatasetName, GuideName

NOTE = "Means ± standard deviations over seeds, of all test scenes. The MSE is the paper's, a sum over channels."


class Found(NamedTuple):
    """What a study found: a table of the runs that are done, and the cells whose runs did not finish."""

    table: str
    failed: list[Cell]


@dataclass
class Study(ABC):
    """What all studies are asked."""

    out: Path = Path("runs/study")
    """Folder of the study."""
    preset: str = "default"
    """Named configuration that all runs start from."""
    data_root: Path | None = None
    """Folder that holds clevr_mv/ and clevr_aug/, where the data sets are read from disk."""
    at_once: int = 1
    """Runs at a time, each with its share of the cores."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    set: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Any other field of the configuration of all runs, such as --set training.steps=100 (repeatable)."""

    def config(self, guide: GuideName, dataset: DatasetName | None) -> RunConfig:
        """The configuration that the runs of a guide on a data set share."""
        root = {} if self.data_root is None else {"data.root": str(self.data_root.resolve())}
        return preset(self.preset, guide, dataset).replace(root | parse_assignments(self.set))

    def run(self, command: Sequence[str]) -> Found:
        """Train what is not done, and write tables and figures of what is.

        Args:
            command: what trains a run, from its config.yaml on, in the folder that follows ``--run-dir``.

        Raises:
            ConfigError: for axes without values, or what cannot be trained.
            CheckpointError: if the folder of a cell holds a run of another configuration.
        """
        cells = self.cells()
        choose_device(self.device)  # which may not be there
        failed = train_cells(cells, self.out, [*command, "--device", self.device], self.at_once)
        done = [cell for cell in cells if cell not in failed]
        return Found(self.write(done) if done else "", failed)

    @abstractmethod
    def cells(self) -> list[Cell]:
        """All runs of the study."""

    @abstractmethod
    def write(self, done: list[Cell]) -> str:
        """Write tables and figures of the runs that are done; returns the table."""


@dataclass
class Table1(Study):
    """Three models on two data sets, without and with L-NMS, over seeds."""

    guides: tuple[GuideName, ...] = ("monet", "iodine", "mulmon")
    """Models and guides."""
    datasets: tuple[DatasetName, ...] = ("clevr-mv", "dolphin")
    """Data sets; sprites and solids need no --data-root."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of every cell of the table."""
    image: int = 0
    """Test image of figure3.png."""

    def cells(self) -> list[Cell]:
        """A run for each model, data set, side and seed."""
        check_each_once(guides=self.guides, datasets=self.datasets, seeds=self.seeds)
        return table1_cells(self.config, self.guides, self.datasets, self.seeds)

    def write(self, done: list[Cell]) -> str:
        """table1.csv, table1.txt, table1.png and figure3.png."""
        results = [(cell, read_scores(self.out, cell)) for cell in done]
        table = f"{table1(results)}\n\n{NOTE}"
        write_text(self.out / "table1.csv", table1_csv(results))
        write_text(self.out / "table1.txt", table + "\n")
        table1_figure(self.out / "table1.png", results)
        figure3(self.out / "figure3.png", self.out, done, choose_device(self.device), self.image)
        return table


@dataclass
class Figure6(Study):
    """The scale σ_c of L-NMS and the number of slots: a run for each, tested with several K."""

    guide: GuideName = "monet"
    """Model and guide; the paper took MONet."""
    dataset: DatasetName | None = None
    """Data set, instead of the guide's."""
    scales: tuple[float, ...] = (0.1, 0.05, 0.2, 0.4)
    """σ_c; the first is that of the runs for other K."""
    slots: tuple[int, ...] = (5, 6)
    """K in training; the first is that of the runs for other σ_c."""
    test_slots: tuple[int, ...] = (5, 6, 7, 9)
    """K in testing, beside those in training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every point."""

    def cells(self) -> list[Cell]:
        """A run for each σ_c, K in training and seed."""
        check_each_once(scales=self.scales, slots=self.slots, seeds=self.seeds)
        if min((*self.slots, *self.test_slots)) < 2:
            raise ConfigError(f"slots, test_slots: expected at least 2, got {self.slots} and {self.test_slots}")
        return figure6_cells(self.config(self.guide, self.dataset), self.scales, self.slots, self.seeds)

    def write(self, done: list[Cell]) -> str:
        """figure6.csv, figure6.txt and figure6.png, of tests with every K."""
        config = self.config(self.guide, self.dataset)
        scenes = load_scenes(config.data, "test", multi_view=config.multi_view)
        test_slots, device = sorted({*self.slots, *self.test_slots}), choose_device(self.device)
        scores = [score for cell in done for score in score_run(self.out / cell.name, test_slots, scenes, device)]
        table = figure6_table(scores)
        write_text(self.out / "figure6.csv", figure6_csv(scores))
        write_text(self.out / "figure6.txt", table + "\n")
        title = f"{self.guide}, {config.data.name}, {len(self.seeds)} seeds"
        figure6_figure(self.out / "figure6.png", scores, title)
        return table


def check_each_once(**axes: Sequence[object]) -> None:
    """Refuse an axis of a study without values, or with one twice.

    Raises:
        ConfigError: naming the option.
    """
    for name, values in axes.items():
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{name}: expected one or more values, each once; got {values}")

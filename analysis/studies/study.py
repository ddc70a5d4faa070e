"""The studies that reproduce the paper: their runs, tables and figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from pyro_compvae.analysis.batches import Batches
from pyro_compvae.analysis.evidence.compute import QUICK, EvidenceConfig
from pyro_compvae.analysis.studies.figure3 import figure3
from pyro_compvae.analysis.studies.figure6 import figure6_cells, figure6_csv, figure6_figure, figure6_table, score_run
from pyro_compvae.analysis.studies.forms import compare_forms, forms_cells, forms_csv, forms_table
from pyro_compvae.analysis.studies.grid import Cell, train_cells
from pyro_compvae.analysis.studies.table1 import read_scores, table1, table1_cells, table1_csv, table1_figure
from pyro_compvae.data import load_scenes
from pyro_compvae.device import choose_device
from pyro_compvae.errors import ConfigError
from pyro_compvae.lnms import LnmsForm
from pyro_compvae.runs.config import RunConfig, parse_assignments
from pyro_compvae.runs.files import write_text
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import DatasetName, GuideName

NOTE = "Means ± standard deviations over seeds, of all test scenes. The MSE is the paper's, a sum over channels."


class Found(NamedTuple):
    """The result of a study: a table of the runs that are done, and the cells whose runs did not finish."""

    table: str
    failed: list[Cell]


@dataclass
class Study(ABC):
    """The options that all studies have."""

    out: Path = Path("runs/study")
    """The folder of the study."""
    preset: str = "default"
    """The preset from which all runs' configurations are made."""
    data_root: Path | None = None
    """The folder that holds clevr_mv/ and clevr_aug/, if the data sets are read from disk."""
    at_once: int = 1
    """How many runs are trained at a time, each with its share of the cores."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to compute on; auto takes a GPU if there is one."""
    set: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Any other field of all runs' configurations, such as --set training.steps=100 (repeatable)."""

    def config(self, guide: GuideName, dataset: DatasetName | None) -> RunConfig:
        """The common configuration of the runs of a guide on a data set."""
        root = {} if self.data_root is None else {"data.root": str(self.data_root.resolve())}
        return preset(self.preset, guide, dataset).replace(root | parse_assignments(self.set))

    def run(self, command: Sequence[str]) -> Found:
        """Train the runs that are not done, and write tables and figures of those that are.

        Args:
            command: the command that trains the run in the folder given as ``--run-dir``, from its config.yaml on.

        Raises:
            ConfigError: for axes without values, or for runs that cannot be trained.
            CheckpointError: if the folder of a cell holds files, or a run of another configuration.
            LockedError: if another process works on the study.
        """
        cells = self.cells()
        choose_device(self.device)  # raises an error if the device is missing
        with RunFolder(self.out).alone():
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
    """Table 1: three models on two data sets, without and with L-NMS, over seeds."""

    guides: tuple[GuideName, ...] = ("monet", "iodine", "mulmon")
    """The models with their guides."""
    datasets: tuple[DatasetName, ...] = ("clevr-mv", "dolphin")
    """The data sets; those that are made on the spot need no --data-root."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """The seeds of every cell of the table."""
    image: int = 0
    """The number of the test image in figure3.png."""

    def cells(self) -> list[Cell]:
        """The cells: a run for each model, data set, side and seed."""
        check_each_once(guides=self.guides, datasets=self.datasets, seeds=self.seeds)
        return table1_cells(self.config, self.guides, self.datasets, self.seeds)

    def write(self, done: list[Cell]) -> str:
        """Write table1.csv, table1.txt, table1.png and figure3.png; returns the table."""
        results = [(cell, read_scores(self.out, cell)) for cell in done]
        table = f"{table1(results)}\n\n{NOTE}"
        write_text(self.out / "table1.csv", table1_csv(results))
        write_text(self.out / "table1.txt", table + "\n")
        table1_figure(self.out / "table1.png", results)
        figure3(self.out / "figure3.png", self.out, done, choose_device(self.device), self.image)
        return table


@dataclass
class Figure6(Study):
    """Figure 6: a run for each scale σ_c of L-NMS and each number of slots, tested with several K."""

    guide: GuideName = "monet"
    """The model with its guide; the paper used MONet."""
    dataset: DatasetName | None = None
    """The data set; by default that of the guide's preset."""
    scales: tuple[float, ...] = (0.1, 0.05, 0.2, 0.4)
    """Values of σ_c; the runs for other K have the first one."""
    slots: tuple[int, ...] = (5, 6)
    """Values of K in training; the runs for other σ_c have the first one."""
    test_slots: tuple[int, ...] = (5, 6, 7, 9)
    """Values of K in testing, in addition to those in training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The seeds of every point."""

    def cells(self) -> list[Cell]:
        """The cells: a run for each σ_c, K in training and seed."""
        check_each_once(scales=self.scales, slots=self.slots, seeds=self.seeds)
        if min((*self.slots, *self.test_slots)) < 2:
            raise ConfigError(f"slots, test_slots: expected at least 2, got {self.slots} and {self.test_slots}")
        return figure6_cells(self.config(self.guide, self.dataset), self.scales, self.slots, self.seeds)

    def write(self, done: list[Cell]) -> str:
        """Write figure6.csv, figure6.txt and figure6.png, from tests with every K; returns the table."""
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


@dataclass
class Forms(Study):
    """The forms of L-NMS against none: model, posterior and decomposition, pair by pair of seeds."""

    guide: GuideName = "iodine"
    """The model with its guide."""
    dataset: DatasetName | None = None
    """The data set; by default that of the guide's preset."""
    forms: tuple[LnmsForm, ...] = ("sum", "mean", "presence")
    """The forms of L-NMS."""
    strengths: tuple[float, ...] = ()
    """s for each of the forms; by default the preset's, and for the mean as many times that as there are pairs."""
    seeds: tuple[int, ...] = tuple(range(10))
    """The seeds, each with a run without L-NMS and one for every form."""
    num_scenes: int = 256
    """How many test scenes are compared, from the first on."""
    batch_scenes: int = 16
    """How many scenes' evidence is estimated and saved together."""
    evidence: tyro.conf.OmitArgPrefixes[EvidenceConfig] = field(default_factory=lambda: QUICK)

    def cells(self) -> list[Cell]:
        """The cells: for each seed a run without L-NMS, and one for each form."""
        check_each_once(forms=self.forms, seeds=self.seeds)
        return forms_cells(self.config(self.guide, self.dataset), self.forms, self.strengths, self.seeds)

    def write(self, done: list[Cell]) -> str:
        """Write forms.csv and forms.txt; returns the table."""
        batches = Batches(self.num_scenes, self.batch_scenes, seed=0)
        results = compare_forms(self.out, done, self.evidence, batches, choose_device(self.device))
        table = forms_table(results)
        write_text(self.out / "forms.csv", forms_csv(results))
        write_text(self.out / "forms.txt", table + "\n")
        return table


def check_each_once(**axes: Sequence[object]) -> None:
    """Refuse an axis of a study that has no values, or has one twice.

    Raises:
        ConfigError: with the name of the option.
    """
    for name, values in axes.items():
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{name}: expected one or more values, each once; got {values}")

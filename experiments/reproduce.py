"""Reproduce a table or a figure of the paper: ``python experiments/reproduce.py table1 --data-root DATA``.

Every cell of a study is an ordinary run folder in the folder of the study. What is done there is not done again, and
what was stopped goes on. Beside the runs, and a log of each, there are

    table1      table1.csv (a row per run), table1.txt (the paper's Table 1, with its numbers), table1.png, and
                figure3.png (an image as all models decompose it, the paper's Figures 3 and 4)
    figure6     figure6.csv (a row per run and number of slots in testing), figure6.txt (means), figure6.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pyro_compvae.analysis.studies.figure3 import figure3
from pyro_compvae.analysis.studies.figure6 import figure6_cells, figure6_csv, figure6_figure, figure6_table, score_run
from pyro_compvae.analysis.studies.grid import Cell, train_cells
from pyro_compvae.analysis.studies.table1 import read_scores, table1, table1_cells, table1_csv, table1_figure
from pyro_compvae.cli import run
from pyro_compvae.data import load_scenes
from pyro_compvae.device import choose_device
from pyro_compvae.errors import ConfigError
from pyro_compvae.runs.config import RunConfig, parse_assignments
from pyro_compvae.runs.files import write_text
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import DatasetName, GuideName

NOTE = "Means ± standard deviations over seeds, of all test scenes. The MSE is the paper's, a sum over channels."
RUN_SVI = "pyro_compvae.experiments.run_svi"
"""Module that trains a run, in a process of its own."""


@dataclass
class Study:
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

    def train(self, cells: Sequence[Cell]) -> list[Cell]:
        """Train what is not done; the cells that are done now, and a line for each of the others."""
        choose_device(self.device)
        command = [sys.executable, "-m", RUN_SVI, "--resume", "--device", self.device]
        failed = train_cells(cells, self.out, command, self.at_once)
        for cell in failed:
            print(
                f"error: {cell.name} did not finish, see {self.out / cell.name}.log; the same call tries again",
                file=sys.stderr,
            )
        return [cell for cell in cells if cell not in failed]


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

    def run(self) -> int:
        """Train, then write the table of what is done; returns the exit code."""
        check_each_once(guides=self.guides, datasets=self.datasets, seeds=self.seeds)
        cells = table1_cells(self.config, self.guides, self.datasets, self.seeds)
        done = self.train(cells)
        if not done:
            return 1
        results = [(cell, read_scores(self.out, cell)) for cell in done]
        table = f"{table1(results)}\n\n{NOTE}"
        write_text(self.out / "table1.csv", table1_csv(results))
        write_text(self.out / "table1.txt", table + "\n")
        table1_figure(self.out / "table1.png", results)
        figure3(self.out / "figure3.png", self.out, done, choose_device(self.device), self.image)
        print(table)
        return 0 if len(done) == len(cells) else 1


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

    def run(self) -> int:
        """Train and test, then write the table and the figure of what is done; returns the exit code."""
        check_each_once(scales=self.scales, slots=self.slots, seeds=self.seeds)
        if min((*self.slots, *self.test_slots)) < 2:
            raise ConfigError(f"--slots, --test-slots: expected at least 2, got {self.slots} and {self.test_slots}")
        config = self.config(self.guide, self.dataset)
        cells = figure6_cells(config, self.scales, self.slots, self.seeds)
        done = self.train(cells)
        if not done:
            return 1
        scenes = load_scenes(config.data, "test", multi_view=config.multi_view)
        test_slots, device = sorted({*self.slots, *self.test_slots}), choose_device(self.device)
        scores = [score for cell in done for score in score_run(self.out / cell.name, test_slots, scenes, device)]
        write_text(self.out / "figure6.csv", figure6_csv(scores))
        write_text(self.out / "figure6.txt", figure6_table(scores) + "\n")
        title = f"{self.guide}, {config.data.name}, {len(self.seeds)} seeds"
        figure6_figure(self.out / "figure6.png", scores, title)
        print(figure6_table(scores))
        return 0 if len(done) == len(cells) else 1


STUDIES = tyro.extras.subcommand_type_from_defaults({"table1": Table1(), "figure6": Figure6()})


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(STUDIES, lambda study: study.run(), arguments, "interrupted; the same call goes on")


def check_each_once(**axes: Sequence[object]) -> None:
    """Refuse an axis of a study without values, or with one twice.

    Raises:
        ConfigError: naming the option.
    """
    for name, values in axes.items():
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"--{name}: expected one or more values, each once; got {values}")


if __name__ == "__main__":
    sys.exit(main())

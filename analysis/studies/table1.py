"""The paper's Table 1: three models on two data sets, without and with L-NMS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_compvae.analysis.figures.style import PALETTE, save_figure
from pyro_compvae.analysis.studies.grid import Cell
from pyro_compvae.analysis.tables import Table, csv_text
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.sections import DatasetName, GuideName

GROUPS = {"0": False, "+": True}
"""Whether L-NMS is in the objective of each group: the control group "0" and the experimental group "+"."""

PAPER = {
    ("monet", "0", "clevr-mv"): (0.0037, 0.6806),
    ("monet", "+", "clevr-mv"): (0.0024, 0.7899),
    ("monet", "0", "dolphin"): (0.0060, 0.6584),
    ("monet", "+", "dolphin"): (0.0060, 0.6546),
    ("iodine", "0", "clevr-mv"): (0.0016, 0.1907),
    ("iodine", "+", "clevr-mv"): (0.0020, 0.7256),
    ("iodine", "0", "dolphin"): (0.0053, 0.3475),
    ("iodine", "+", "dolphin"): (0.0050, 0.6257),
    ("mulmon", "0", "clevr-mv"): (0.0019, 0.7823),
    ("mulmon", "+", "clevr-mv"): (0.0019, 0.7903),
    ("mulmon", "0", "dolphin"): (0.0057, 0.6266),
    ("mulmon", "+", "dolphin"): (0.0051, 0.6565),
}
"""The MSE and mIoU in the paper, which are means of five seeds, by guide, group and data set."""

CHANNELS = 3
"""Number of channels. The paper's MSE is the squared distance of RGB vectors, which is a sum over channels;
`mean_squared_error` is the mean over them."""

SCORES = ("mse", "miou", "ari", "ari_fg", "duplicates", "elbo", "query_mse", "query_miou")
"""The entries of summary.json in the table; only MulMON has those of queries."""

DIGITS = {"mse": 4, "query_mse": 4, "duplicates": 2, "elbo": 0}
"""Number of decimals of a score in the table, if it is not three."""


def table1_cells(
    make: Callable[[GuideName, DatasetName], RunConfig],
    guides: Sequence[GuideName],
    datasets: Sequence[DatasetName],
    seeds: Sequence[int],
) -> list[Cell]:
    """A run for every guide, data set, group and seed, ordered by seed, so that an early stop leaves complete seeds.

    Args:
        make: makes the configuration for a guide and a data set; the groups differ in nothing but L-NMS.
        guides, datasets, seeds: the axes of the table.
    """
    return [
        Cell(
            f"{guide}-{dataset}-{'lnms' if lnms else 'plain'}-seed{seed}",
            make(guide, dataset).replace({"lnms": lnms, "seed": seed}),
            {"guide": guide, "group": group, "dataset": dataset, "seed": seed},
        )
        for seed in seeds
        for guide in guides
        for dataset in datasets
        for group, lnms in GROUPS.items()
    ]


def read_scores(out: Path, cell: Cell) -> dict[str, float]:
    """The scores of a finished run on its test scenes, by the names of SCORES, with the MSE as in the paper."""
    summary: dict[str, Any] = RunFolder(out / cell.name).summary()
    found = {name: float("nan") if summary.get(name) is None else float(summary[name]) for name in SCORES}
    return found | {name: CHANNELS * found[name] for name in ("mse", "query_mse")}


Results = Sequence[tuple[Cell, dict[str, float]]]
"""Cells with their scores."""


def table1_csv(results: Results) -> str:
    """A row per run; scores that it does not have are empty."""
    rows = [(*cell.place.values(), *(scores[name] for name in SCORES)) for cell, scores in results]
    return csv_text((*results[0][0].place, *SCORES), rows)


def table1(results: Results) -> Table:
    """A row per model, group and data set: mean ± standard deviation over seeds, beside the paper's numbers."""
    names = [name for name in SCORES if any(not math.isnan(scores[name]) for _, scores in results)]
    heads = ["model", "data", "seeds"]
    for name in names:
        heads += [name, "paper"] if name in ("mse", "miou") else [name]
    rows = []
    for guide, group, dataset in _places(results):
        found = _scores_at(results, guide, group, dataset)
        row = [f"{guide} {group}", dataset, str(len(found))]
        for name in names:
            row.append(_mean_and_deviation([scores[name] for scores in found], DIGITS.get(name, 3)))
            if name in ("mse", "miou"):
                numbers = PAPER.get((guide, group, dataset))
                row.append("" if numbers is None else f"{numbers[0]:.4f}" if name == "mse" else f"{numbers[1]:.3f}")
        rows.append(tuple(row))
    return Table(tuple(heads), tuple(rows))


def table1_figure(path: Path, results: Results) -> None:
    """Draw the mIoU and MSE of every seed as dots and of the paper as crosses, with a panel per data set and metric.

    Args:
        path: the picture file, written atomically.
        results: the results of the study.
    """
    datasets = list(dict.fromkeys(str(cell.place["dataset"]) for cell, _ in results))
    guides = list(dict.fromkeys(str(cell.place["guide"]) for cell, _ in results))
    figure = Figure(figsize=(8, 2.7 * len(datasets)), dpi=120, layout="constrained")
    axes = figure.subplots(len(datasets), 2, squeeze=False)
    for row, dataset in zip(axes, datasets, strict=True):
        for column, (name, title) in enumerate((("miou", "mIoU"), ("mse", "MSE, sum over channels"))):
            axis = row[column]
            for index, (group, label) in enumerate((("0", "without L-NMS"), ("+", "with L-NMS"))):
                for place, guide in enumerate(guides):
                    x = place + 0.3 * (index - 0.5)
                    values = [scores[name] for scores in _scores_at(results, guide, group, dataset)]
                    spread = np.linspace(-0.05, 0.05, len(values)) if len(values) > 1 else np.zeros(len(values))
                    axis.plot(x + spread, values, "o", ms=5, color=PALETTE[index], label=label if place == 0 else None)
                    if (guide, group, dataset) in PAPER:
                        axis.plot(
                            x + 0.1,
                            PAPER[guide, group, dataset][column == 0],
                            "x",
                            color=PALETTE[index],
                            label="paper" if place == 0 and index == 1 else None,
                        )
            axis.set_xticks(range(len(guides)), guides)
            axis.set_title(f"{title}, {dataset}", fontsize=9)
            axis.set_ylim(bottom=0)
    axes[0, 0].legend(fontsize=7, loc="lower right")
    save_figure(path, figure)


def _places(results: Results) -> list[tuple[str, str, str]]:
    """The guide, group and data set of every row, with the groups of a guide and data set under one another."""
    places = {tuple(str(cell.place[axis]) for axis in ("guide", "dataset", "group")) for cell, _ in results}
    order = [str(value) for cell, _ in results for value in cell.place.values()]
    rows = sorted(places, key=lambda place: [order.index(value) for value in place])
    return [(guide, group, dataset) for guide, dataset, group in rows]


def _scores_at(results: Results, guide: str, group: str, dataset: str) -> list[dict[str, float]]:
    wanted = (guide, group, dataset)
    return [scores for cell, scores in results if tuple(cell.place[a] for a in ("guide", "group", "dataset")) == wanted]


def _mean_and_deviation(values: Sequence[float], digits: int) -> str:
    if any(math.isnan(value) for value in values):
        return "–"
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"

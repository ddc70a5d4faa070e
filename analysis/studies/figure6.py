"""Sweeps over the scale of L-NMS and the number of slots, as in the paper's Figure 6."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_compvae.analysis.figures.style import PALETTE, save_figure
from pyro_compvae.analysis.metrics.evaluation import evaluate
from pyro_compvae.analysis.metrics.meanings import left_out
from pyro_compvae.analysis.results import key_of
from pyro_compvae.analysis.runs import load_run
from pyro_compvae.analysis.studies.grid import Cell
from pyro_compvae.analysis.tables import csv_text
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.files import write_text

SCORES = ("mse", "miou", "ari_fg", "duplicates", "elbo")


@dataclass(frozen=True)
class Score:
    """The scores of a cell's run with some number of slots in testing, by the names of `SCORES`."""

    scale: float
    slots: int
    seed: int
    test_slots: int
    values: dict[str, float]


def figure6_cells(config: RunConfig, scales: Sequence[float], slots: Sequence[int], seeds: Sequence[int]) -> list[Cell]:
    """The cells of a cross, not a grid: every σ_c with the first K, and every K with the first σ_c, all with L-NMS.

    Cells are ordered by seed, so that a sweep that is stopped early has complete seeds.
    """
    pairs = [(scale, slots[0]) for scale in scales] + [(scales[0], number) for number in slots[1:]]
    return [
        Cell(
            f"scale{scale:g}-slots{number}-seed{seed}",
            config.replace({"lnms_prior.scale": scale, "num_slots": number, "seed": seed, "lnms": True}),
        )
        for seed in seeds
        for scale, number in pairs
    ]


def score_run(run_dir: Path, test_slots: Sequence[int], scenes: SceneSet, device: torch.device) -> list[Score]:
    """Evaluate a run on all scenes with every K, or read the scores from its folder if they are of its weights and of
    these scenes."""
    path = run_dir / "test_slots.json"
    run = load_run(run_dir, device)
    config, of = run.config, key_of({**run.identity, "scenes": scenes.digests})
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    scores = []
    for K in test_slots:
        key = f"K {K}, step {run.step}, {len(scenes)} scenes, {of}"
        if key not in known:
            run.model.num_slots = K
            torch.manual_seed(config.seed)
            metrics = evaluate(run.guide, scenes, device)
            known[key] = {name: metrics[name] for name in SCORES}
            write_text(path, json.dumps(known, indent=2) + "\n")
        scores.append(Score(config.lnms_prior.scale, config.num_slots, config.seed, K, known[key]))
    return scores


def undefined(scores: Sequence[Score]) -> list[str]:
    """Those of SCORES that are NaN in all runs, such as those of masks if there are none."""
    return [name for name in SCORES if all(math.isnan(s.values[name]) for s in scores)]


def figure6_csv(scores: Sequence[Score]) -> str:
    """A row per cell and number of test slots; NaN becomes an empty cell."""
    rows = [(s.scale, s.slots, s.seed, s.test_slots, *(s.values[name] for name in SCORES)) for s in scores]
    return csv_text(("scale", "train_slots", "seed", "test_slots", *SCORES), rows)


def figure6_table(scores: Sequence[Score]) -> str:
    """A line per scale, train K and test K, with means over seeds and the range that the seeds span.

    Without true masks the metrics that need them are left out, and a line says so.
    """
    missing = undefined(scores)
    names = [name for name in SCORES if name not in missing]
    lines = [f"{'σ_c':>6}{'train K':>9}{'test K':>8}{'seeds':>7}" + "".join(f"{name:>26}" for name in names)]
    for scale, slots, test_slots in sorted({(s.scale, s.slots, s.test_slots) for s in scores}):
        found = [s for s in scores if (s.scale, s.slots, s.test_slots) == (scale, slots, test_slots)]
        line = f"{scale:>6g}{slots:>9}{test_slots:>8}{len(found):>7}"
        for name in names:
            values = [s.values[name] for s in found]
            digits = 4 if name == "mse" else 1 if name == "elbo" else 3
            low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
            line += f"{np.mean(values):>10.{digits}f} {f'[{low}, {high}]':>15}"
        lines.append(line)
    lines.append("Means over seeds, and the range that they span.")
    return "\n".join([*lines, left_out(missing)] if missing else lines)


def figure6_figure(path: Path, scores: Sequence[Score], title: str = "") -> None:
    """Draw the paper's Figure 6: MSE and, with masks, mIoU against σ_c, and against the test K for every train K.

    Points are seeds, and lines are their means.

    Args:
        path: the PNG file, written atomically.
        scores: the scores of all cells.
        title: the title above the picture.
    """
    names = [name for name in ("mse", "miou") if name not in undefined(scores)]
    figure = Figure(figsize=(4 * len(names), 6), dpi=120, layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False)
    base = scores[0]
    by_scale = [s for s in scores if s.slots == base.slots and s.test_slots == base.slots]
    for column, name in enumerate(names):
        axes[0, column].set_xscale("log")
        axes[0, column].set_xlabel("σ_c of L-NMS")
        _lines(axes[0, column], [(s.scale, s.values[name]) for s in by_scale], 0, None)
        for index, slots in enumerate(sorted({s.slots for s in scores})):
            chosen = [s for s in scores if s.slots == slots and s.scale == base.scale]
            _lines(
                axes[1, column], [(s.test_slots, s.values[name]) for s in chosen], index, f"trained with K = {slots}"
            )
        axes[1, column].set_xlabel("K in testing")
        for axis in axes[:, column]:
            axis.set_ylabel({"mse": "MSE", "miou": "mIoU"}[name])
    axes[1, 0].legend(fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9)
    save_figure(path, figure)


def _lines(axis: Axes, points: list[tuple[float, float]], index: int, label: str | None) -> None:
    colour = PALETTE[index % len(PALETTE)]
    places = sorted({place for place, _ in points})
    means = [np.mean([value for at, value in points if at == place]) for place in places]
    axis.plot(*zip(*points, strict=True), ".", color=colour, alpha=0.6)
    axis.plot(places, means, "-", color=colour, label=label)
    axis.set_xticks(places, [f"{place:g}" for place in places])
    axis.minorticks_off()

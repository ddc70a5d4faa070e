"""The paper's Figures 3 and 4: one image, decomposed by every model without and with L-NMS."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from pyro_compvae.analysis.figures.decompositions import compared_figure
from pyro_compvae.analysis.metrics.decomposition import Decomposition, decompose, infer
from pyro_compvae.analysis.runs import Run, load_run
from pyro_compvae.analysis.studies.grid import Cell
from pyro_compvae.data import Scene, SceneSet, load_scenes
from pyro_compvae.errors import ArgumentError


def figure3(path: Path, out: Path, cells: Sequence[Cell], device: torch.device, image: int = 0) -> None:
    """Draw one test image of every data set, with a row for the first seed of every model and group.

    The paper's Figure 4 consists of the rows of MONet on Dolphin.

    Args:
        path: the PNG file, written atomically.
        out: the folder of the study.
        cells: the finished cells of `table1_cells`.
        device: the device to compute on.
        image: the number of the test image; the views of a scene count as consecutive images.

    Raises:
        ValueError: if a test set has no such image.
    """
    load = cache(load_scenes)  # the runs of a data set share its images
    rows: dict[str, tuple[Scene, Decomposition]] = {}
    for dataset in dict.fromkeys(str(cell.place["dataset"]) for cell in cells):
        for cell in cells:
            name = f"{cell.place['guide']} {cell.place['group']}\n{dataset}"
            if cell.place["dataset"] == dataset and name not in rows:
                torch.manual_seed(0)
                run = load_run(out / cell.name, device)
                scenes = load(cell.config.data, "test", multi_view=cell.config.multi_view)
                rows[name] = decomposed(run, scenes, image)
    compared_figure(path, rows)


@torch.no_grad()
def decomposed(run: Run, scenes: SceneSet, image: int) -> tuple[Scene, Decomposition]:
    """One image of some scenes, and a run's decomposition of it; of several views, the first half is observed.

    Raises:
        ValueError: if there is no such image.
    """
    num_views = scenes.num_views or 1
    if not 0 <= image < len(scenes) * num_views:
        raise ArgumentError(f"image: expected 0 to {len(scenes) * num_views - 1}, got {image}")
    number, view = divmod(image, num_views)
    scene = scenes[number : number + 1].to(run.device)
    if scenes.num_views is None:
        return scene, decompose(run.guide, infer(run.guide, scene))
    posterior = infer(run.guide, scene.view(slice(max(num_views // 2, 1))))
    shown = scene.view(view)
    assert shown.viewpoint is not None
    return shown, decompose(run.guide, posterior, shown.viewpoint)

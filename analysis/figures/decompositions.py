"""Figures of decompositions, laid out like the paper's Figure 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.figures.labels import BLACK, colour_segmentation, colour_truth, slot_colours
from pyro_compvae.analysis.figures.style import save_figure
from pyro_compvae.analysis.metrics.decomposition import Decomposition, decompose, infer, uncertainty
from pyro_compvae.data.records import Scene
from pyro_compvae.errors import ArgumentError
from pyro_compvae.guide import SceneGuide

GREY = 0.75
"""The lightness behind components, where their slots claim nothing."""

GAP = 0.08
"""The space between pictures, in widths of one."""


class Tile(NamedTuple):
    """A picture (H, W, 3) of a grid, and the colour of its frame, which is black by default."""

    pixels: NDArray
    frame: NDArray = BLACK


def decomposition_figure(path: Path, scene: Scene, decomposition: Decomposition, title: str = "") -> None:
    """Draw scenes as rows: observation, reconstruction, K components, segmentation, and truth if known (paper, Figure
    3).

    A component is its mean weighted by its mask, on grey, so that pixels that a slot does not claim stay grey. Its
    frame has the colour of the slot in the segmentation, which is that of the object that it is matched to.

    Args:
        path: the PNG file, written atomically.
        scene: B scenes.
        decomposition: their decomposition.
        title: the title above the picture.
    """
    columns = _columns(decomposition.masks.shape[1], scene.labels is not None)
    _draw(path, _decomposition_rows(scene, decomposition), columns, title=title)


def compared_figure(path: Path, rows: Mapping[str, tuple[Scene, Decomposition]], title: str = "") -> None:
    """Draw decompositions by several models as rows, laid out as in `decomposition_figure`.

    Models may differ in K; rows with fewer slots have empty places.

    Args:
        path: the PNG file, written atomically.
        rows: a batch of one scene and its decomposition, by the name of the row.
        title: the title above the picture.
    """
    columns = _columns(
        max(decomposition.masks.shape[1] for _, decomposition in rows.values()),
        any(scene.labels is not None for scene, _ in rows.values()),
    )
    pictures = []
    for scene, decomposition in rows.values():
        (row,) = _decomposition_rows(scene, decomposition)
        names = _columns(decomposition.masks.shape[1], scene.labels is not None)
        empty = Tile(np.ones_like(row[0].pixels))
        pictures.append([row[names.index(name)] if name in names else empty for name in columns])
    _draw(path, pictures, columns, rows=list(rows), title=title)


def views_figure(path: Path, guide: SceneGuide, scene: Scene, num_observed: int, title: str = "") -> None:
    """Draw the views of one scene as rows; the first ones are observed, and the rest are queries.

    The columns are the view, its prediction, the prediction's standard deviation over posterior samples (black is none,
    and white is the largest of all views), K components, the segmentation and the true segmentation.

    Args:
        path: the PNG file, written atomically.
        guide: the guide of a multi-view model.
        scene: one scene of V views, as a batch of one.
        num_observed: how many of the views, from the first on, the guide sees.
        title: the title above the picture.

    Raises:
        ValueError: unless 1 <= num_observed <= V.
    """
    if not 1 <= num_observed <= scene.image.shape[1]:
        raise ArgumentError(f"num_observed: expected 1 to {scene.image.shape[1]} views, got {num_observed}")
    posterior = infer(guide, scene.view(slice(num_observed)))
    views = [scene.view(v) for v in range(scene.image.shape[1])]
    viewpoints = [view.viewpoint for view in views if view.viewpoint is not None]
    decompositions = [decompose(guide, posterior, viewpoint) for viewpoint in viewpoints]
    segmentations = torch.cat([decomposition.segmentation for decomposition in decompositions])
    colours = slot_colours(segmentations, None if scene.labels is None else scene.labels[0], posterior.loc.shape[1])
    deviations = [uncertainty(guide, posterior, viewpoint)[0].cpu().numpy() for viewpoint in viewpoints]
    # With this floor a posterior without any spread is black throughout, in spite of rounding errors.
    largest = max(1e-6, *(float(deviation.max()) for deviation in deviations))
    pictures = []
    for view, decomposition, deviation in zip(views, decompositions, deviations, strict=True):
        (row,) = _decomposition_rows(view, decomposition, [colours])
        pictures.append([*row[:2], Tile(np.repeat(deviation[..., None] / largest, 3, axis=2)), *row[2:]])
    columns = _columns(posterior.loc.shape[1], scene.labels is not None)
    columns = [*columns[:2], f"s.d. ≤ {largest:.2f}", *columns[2:]]
    names = [f"{'observed' if v < num_observed else 'query'} {v + 1}" for v in range(len(views))]
    _draw(path, pictures, columns, rows=names, title=title)


def traversal_figure(path: Path, guide: SceneGuide, posterior: Normal, slot: int, *viewpoint: Tensor) -> None:
    """Draw one scene while one latent dimension of one slot moves, with a row per dimension and a column per value.

    Args:
        path: the PNG file, written atomically.
        guide: the guide, which holds the model.
        posterior: the posterior of one scene, of batch shape (1, K, D); the other latents stay at its mean.
        slot: the number of the slot that moves.
        viewpoint: the viewpoint (1, 3), if the model has any.
    """
    values = (-2.0, -1.0, 0.0, 1.0, 2.0)
    pictures = []
    for d in range(posterior.loc.shape[-1]):
        row = []
        for value in values:
            z = posterior.loc.clone()
            z[:, slot, d] = value
            with torch.no_grad():
                row.append(Tile(pixels(guide.model.likelihood(z, *viewpoint).mean[0])))
        pictures.append(row)
    names = [f"z {d + 1}" for d in range(len(pictures))]
    _draw(path, pictures, [f"{value:+.0f}" for value in values], rows=names, title=f"slot {slot + 1}")


def samples_figure(path: Path, rows: Mapping[str, Tensor], title: str = "") -> None:
    """Draw images (B, 3, H, W) of several kinds, each kind in its own row.

    Args:
        path: the PNG file, written atomically.
        rows: the images by the name of their kind, with the same number of each.
        title: the title above the picture.
    """
    pictures = [[Tile(pixels(image)) for image in images] for images in rows.values()]
    _draw(path, pictures, [""] * len(pictures[0]), rows=list(rows), title=title)


def contact_sheet(path: Path, scene: Scene, title: str = "") -> None:
    """Draw scenes as columns, with every view, and below it the true labels if there are any.

    Args:
        path: the PNG file, written atomically.
        scene: B scenes.
        title: the title above the picture.
    """
    images = scene.image if scene.image.dim() == 5 else scene.image[:, None]
    labels = scene.labels if scene.labels is None or scene.labels.dim() == 4 else scene.labels[:, None]
    pictures = []
    for v in range(images.shape[1]):
        pictures.append([Tile(pixels(image)) for image in images[:, v]])
        if labels is not None:
            pictures.append([Tile(colour_truth(label)) for label in labels[:, v]])
    counts = [""] * len(images) if scene.num_objects is None else [f"{count} objects" for count in scene.num_objects]
    _draw(path, pictures, counts, title=title)


def components(decomposition: Decomposition) -> Tensor:
    """The slots' means weighted by their masks, on grey where they claim nothing, (B, K, 3, H, W)."""
    masks = decomposition.masks.unsqueeze(2)
    return masks * decomposition.means + (1 - masks) * GREY


def _columns(num_slots: int, truth: bool) -> list[str]:
    """The names of the columns of `_decomposition_rows`."""
    slots = [f"slot {k + 1}" for k in range(num_slots)]
    return ["observation", "reconstr.", *slots, "segment.", *(["truth"] if truth else [])]


def _decomposition_rows(
    scene: Scene, decomposition: Decomposition, colours: Sequence[NDArray] | None = None
) -> list[list[Tile]]:
    """The pictures of every scene, in the colours (K, 3) of its slots."""
    num_slots = decomposition.masks.shape[1]
    rows = []
    for b, slots in enumerate(components(decomposition)):
        segmentation = decomposition.segmentation[b]
        truth = None if scene.labels is None else scene.labels[b]
        labels = None if truth is None else truth[None]
        own = colours[b] if colours else slot_colours(segmentation[None], labels, num_slots)
        row = [Tile(pixels(scene.image[b])), Tile(pixels(decomposition.reconstruction[b]))]
        row += [Tile(pixels(slot), colour) for slot, colour in zip(slots, own, strict=True)]
        row.append(Tile(colour_segmentation(segmentation, own)))
        rows.append(row if truth is None else [*row, Tile(colour_truth(truth))])
    return rows


def _draw(
    path: Path, pictures: Sequence[Sequence[Tile]], columns: Sequence[str], rows: Sequence[str] = (), title: str = ""
) -> None:
    """Draw pictures in a grid with names of columns and rows."""
    height, width = pictures[0][0].pixels.shape[:2]
    ratio = height / width
    figure = Figure(figsize=(1.1 * len(columns), 1.1 * ratio * len(pictures) + 0.6), dpi=120, layout="constrained")
    # One pair of axes for all tiles, of width 1 each: a pair for each tile takes twenty times as long.
    axes = figure.subplots()
    frames = []
    for b, row in enumerate(pictures):
        for c, tile in enumerate(row):
            x, y = c * (1 + GAP), b * (ratio + GAP)
            axes.imshow(tile.pixels, interpolation="nearest", extent=(x, x + 1, y + ratio, y))
            framed = tile.frame is not BLACK
            frames.append(Rectangle((x, y), 1, ratio, edgecolor=tile.frame, linewidth=2.5 if framed else 0.8))
    axes.add_collection(PatchCollection(frames, match_original=True, facecolor="none", clip_on=False))
    axes.set(xlim=(0, len(columns) * (1 + GAP) - GAP), ylim=(len(pictures) * (ratio + GAP) - GAP, 0))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_xticks([c * (1 + GAP) + 0.5 for c in range(len(columns))], columns)
    places = [b * (ratio + GAP) + ratio / 2 for b in range(len(rows))]
    axes.set_yticks(places, rows, rotation=90, va="center")
    if title:
        figure.suptitle(title, fontsize=9)
    save_figure(path, figure)


def pixels(image: Tensor) -> NDArray:
    """Convert an image (3, H, W) to an array (H, W, 3), clipped to [0, 1]."""
    return torch.clamp(image, 0, 1).movedim(0, -1).cpu().numpy()

"""Multi-view scenes of simple solids on a ground plane, which are made on the spot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from tqdm import tqdm

from pyro_compvae.checks import check_counts, check_seed
from pyro_compvae.data.readers.clevr_mv import viewpoint_vectors
from pyro_compvae.data.scenes import SPLITS, SceneSet
from pyro_compvae.data.solids.config import PALETTES, SolidsConfig
from pyro_compvae.data.solids.meshes import SHAPES
from pyro_compvae.data.solids.raycast import Cameras, Raycaster
from pyro_compvae.errors import ArgumentError

MAX_TRIES = 1000
"""Number of draws of a scene before the configuration counts as impossible."""
PLACES = 50
"""Number of places tried for an object before its scene is drawn again."""


@dataclass(frozen=True)
class Solid:
    """One object, with the position (x, y) of its foot, and its rotation in degrees about the z axis."""

    shape: str
    colour: str
    size: float
    position: tuple[float, float]
    rotation: float


@dataclass(frozen=True)
class SolidScene:
    """A scene and its views: images (V, H, W, 3) and labels (V, H, W), where label 1 + i is object i."""

    solids: tuple[Solid, ...]
    meshes: tuple[trimesh.Trimesh, ...]
    cameras: Cameras
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def make_solids(
    split: str,
    num_scenes: int,
    seed: int = 0,
    config: SolidsConfig | None = None,
    meshes: Mapping[str, trimesh.Trimesh] | None = None,
) -> SceneSet:
    """Make scenes of matt solids on a plain ground with hard shadows, seen by cameras on a circle, with exact labels.

    Shape, colour, size, place and rotation are drawn at random; a scene is drawn again until no object touches another
    and ``min_visible`` is kept. The label of a pixel is 1 + the index of the object that the ray through its centre
    meets; indices are the same in all views. An object may be hidden in any view but the first. The first n scenes are
    the same for every ``num_scenes`` >= n.

    Args:
        split: "train", "validation" or "test".
        num_scenes: N, the number of scenes.
        seed: the seed of the whole data set; the same seed gives the same scenes.
        config: the sizes, counts and cameras.
        meshes: further shapes by name, from `load_meshes`.

    Returns:
        A set with images (N, V, 3, H, W), labels (N, V, H, W), num_objects (N,) and viewpoints (N, V, 3), as
        `read_clevr_mv`.

    Raises:
        ValueError: for an unknown split, num_scenes < 1, seed < 0, or a configuration whose scenes are too crowded.
    """
    config = config or SolidsConfig()
    scenes = solid_scenes(split, num_scenes, seed, config, meshes)
    size = config.image_size
    images = torch.empty(num_scenes, config.num_views, 3, size, size, dtype=torch.uint8)
    labels = torch.empty(num_scenes, config.num_views, size, size, dtype=torch.uint8)
    num_objects = torch.empty(num_scenes, dtype=torch.int64)
    for i, scene in enumerate(tqdm(scenes, f"{split} scenes", num_scenes, leave=False)):
        images[i] = torch.from_numpy(scene.images).movedim(-1, 1)
        labels[i] = torch.from_numpy(scene.labels)
        num_objects[i] = len(scene.solids)
    viewpoints = torch.from_numpy(viewpoint_vectors(config.cameras().locations))
    return SceneSet(
        images=images,
        labels=labels,
        num_objects=num_objects,
        viewpoints=viewpoints.repeat(num_scenes, 1, 1),
        origin=f"{num_scenes:,} scenes of solids made on the spot, {split} stream of seed {seed}",
    )


def solid_scenes(
    split: str,
    num_scenes: int,
    seed: int = 0,
    config: SolidsConfig | None = None,
    meshes: Mapping[str, trimesh.Trimesh] | None = None,
) -> Iterator[SolidScene]:
    """The scenes of `make_solids` one by one, with their objects and meshes.

    Raises:
        ValueError: as for `make_solids`; at once, except for a configuration whose scenes are too crowded.
    """
    if split not in SPLITS:
        raise ArgumentError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    check_counts(num_scenes=num_scenes)
    check_seed(seed)
    config = config or SolidsConfig()
    shapes = {name: SHAPES[name] for name in config.shapes} | dict(meshes or {})
    return (
        _make_scene(np.random.default_rng((seed, SPLITS[split], index)), config, shapes) for index in range(num_scenes)
    )


def _make_scene(rng: np.random.Generator, config: SolidsConfig, shapes: Mapping[str, trimesh.Trimesh]) -> SolidScene:
    cameras = config.cameras()
    first = Cameras(cameras.locations[:1], config.focal_length)
    # The count is not drawn again; otherwise crowded scenes, which are refused more often, would be rare.
    count = int(rng.integers(config.min_objects, config.max_objects + 1))
    for _ in range(MAX_TRIES):
        solids = _draw_solids(rng, config, shapes, count)
        if solids is None:
            continue
        meshes = tuple(_place(shapes[solid.shape], solid) for solid in solids)
        colours = np.array([PALETTES[config.palette][solid.colour] for solid in solids]) / 255
        raycaster = Raycaster(meshes, colours, ground=np.full(3, config.ground))
        seen = np.bincount(raycaster.labels(first, config.image_size).ravel(), minlength=1 + count)[1:]
        if seen.min() >= max(config.min_visible * config.image_size**2, 1):
            images = raycaster.images(cameras, config.image_size)
            return SolidScene(solids, meshes, cameras, images, raycaster.labels(cameras, config.image_size))
    raise ArgumentError(
        f"expected scenes whose objects do not touch and are visible in the first view, found none in {MAX_TRIES} "
        f"draws. Raise extent, or lower max_objects, sizes, gap or min_visible of {config}."
    )


def _draw_solids(
    rng: np.random.Generator, config: SolidsConfig, shapes: Mapping[str, trimesh.Trimesh], count: int
) -> tuple[Solid, ...] | None:
    """Draw this many solids, each at a place where it touches none before it; None if no such place is found."""
    colours = rng.choice(list(PALETTES[config.palette]), count, replace=not config.distinct_colours)
    solids: list[Solid] = []
    circles: list[tuple[NDArray[np.float64], float]] = []  # centre and radius on the ground, whatever the rotation
    for colour in colours:
        shape, size = str(rng.choice(list(shapes))), float(rng.choice(config.sizes))
        radius = size * float(np.linalg.norm(shapes[shape].vertices[:, :2], axis=1).max())
        for position in rng.uniform(-config.extent, config.extent, (PLACES, 2)):
            if all(np.linalg.norm(position - other) >= radius + reach + config.gap for other, reach in circles):
                break
        else:
            return None
        circles.append((position, radius))
        x, y = position.tolist()
        solids.append(Solid(shape, str(colour), size, (x, y), float(rng.uniform(0, 360))))
    return tuple(solids)


def _place(mesh: trimesh.Trimesh, solid: Solid) -> trimesh.Trimesh:
    placed = mesh.copy()
    transform = trimesh.transformations.rotation_matrix(np.deg2rad(solid.rotation), [0, 0, 1])
    transform[:3, :3] *= solid.size
    transform[:2, 3] = solid.position
    placed.apply_transform(transform)
    return placed

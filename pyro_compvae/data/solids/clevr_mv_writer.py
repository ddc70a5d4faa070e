"""Scenes of solids as files in the format of CLE-MV, which `read_clevr_mv` reads.

MulMON's own loader reads them too, except scenes in which the farthest object of a view is hidden, which it refuses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_compvae.data.records import DataError
from pyro_compvae.data.solids.raycast import silhouettes
from pyro_compvae.data.solids.scenes import SolidScene
from pyro_compvae.runs.files import atomic_folder, atomic_path, write_text


def write_clevr_mv(root: Path, name: str, splits: Mapping[str, Iterable[SolidScene]]) -> Path:
    """Write the splits of one set, such as {"train": ..., "test": ...}.

    Every split is an index `<root>/<name>/<name>_<split>.json`, written last, and a file in `data/` for each scene:
    images (V, H, W, 4) uint8 with an opaque alpha, and masks (V, H, W, 1 + N) uint8. The first mask is the map of depth
    ranks, which start at 1 for the nearest object; the others are the silhouettes of the objects as if each were alone.
    Objects are ranked in each view by the distance of their centre from the camera.

    Returns:
        the folder `<root>/<name>`.

    Raises:
        DataError: if that folder already holds files, or cannot be made, or a split has no scenes.
    """
    folder = root / name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder}: expected a new or empty folder, found one that holds files. Name another output folder, or "
            "remove this one; nothing was overwritten."
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: expected a place for a new folder, but it cannot be made ({error}).") from error
    with atomic_folder(folder) as temporary:
        (temporary / "data").mkdir()
        for split, scenes in splits.items():
            _write_split(temporary, name, split, scenes)
    return folder


def _write_split(folder: Path, name: str, split: str, scenes: Iterable[SolidScene]) -> None:
    """Write the scenes of a split and their index into the folder of the set."""
    entries = [_write_scene(folder, f"CLEVR_{split}_{number:06d}", scene) for number, scene in enumerate(scenes)]
    if not entries:
        raise DataError(f"splits[{split!r}]: expected one scene or more, got none.")
    content = {
        "info": f"{name} {split}, solids of pyro_compvae",
        "num_views": len(entries[0]["camera"]["location"]),
        "shape_gallery": sorted({solid["shape"] for entry in entries for solid in entry["objects"]}),
        "scenes": entries,
    }
    write_text(folder / f"{name}_{split}.json", json.dumps(content) + "\n")


def _write_scene(folder: Path, stem: str, scene: SolidScene) -> dict[str, Any]:
    """Write the arrays of a scene; returns its entry in the index."""
    centres = np.array([mesh.bounds.mean(axis=0) for mesh in scene.meshes])  # (N, 3)
    distances = np.linalg.norm(scene.cameras.locations[:, None] - centres, axis=-1)  # (V, N)
    depth_orders = distances.argsort(axis=1)
    shapes = silhouettes(scene.meshes, scene.cameras, scene.labels.shape[-1])
    masks = np.concatenate([_depth_ranks(scene.labels, depth_orders)[..., None], shapes], axis=-1)
    images = np.pad(scene.images, [(0, 0), (0, 0), (0, 0), (0, 1)], constant_values=255)
    path = folder / "data" / f"{stem}.npy"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=images, masks=masks)
    return {
        "data_path": f"data/{path.name}",
        "image_filename": f"{stem}.png",
        "depth_orders": depth_orders.tolist(),
        "camera": {"location": scene.cameras.locations.tolist()},
        "objects": [
            {
                "shape": solid.shape,
                "size": solid.size,
                "material": "rubber",
                "color": solid.colour,
                "rotation": solid.rotation,
                "3d_coords": centre.tolist(),
            }
            for solid, centre in zip(scene.solids, centres, strict=True)
        ],
    }


def _depth_ranks(labels: NDArray[np.uint8], depth_orders: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Depth ranks (V, H, W): label 1 + i becomes 1 + the place of object i in the view's order; 0 stays 0."""
    rank_of_label = np.zeros((len(labels), 1 + depth_orders.shape[1]), dtype=np.uint8)
    rank_of_label[:, 1:] = 1 + depth_orders.argsort(axis=1)  # the inverse permutation
    return rank_of_label[np.arange(len(labels))[:, None, None], labels]

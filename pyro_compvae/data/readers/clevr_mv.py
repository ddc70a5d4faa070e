"""A reader of the format of CLE-MV and CLE-Aug ("Dolphin"), the multi-view scenes of MulMON."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_compvae.data.records import MAX_LABELS, DataError, StoredScene
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.runs.files import check_opens

WHERE_TO_GET = (
    "CLE-MV (clevr_mv) and CLE-Aug (clevr_aug) are published with https://github.com/NanboLi/MulMON; "
    "https://github.com/NanboLi/CLEVR-Object-Centric generates such scenes."
)


MAX_SCENE_BYTES = 256 << 20
"""The largest scene that is read, in bytes. One of ten views of 64 × 64 pixels has half a MiB."""


class _IndexedScene(NamedTuple):
    """One scene in the JSON index; `where` names it in messages."""

    where: str
    data_path: str
    depth_orders: NDArray[np.int64]  # (V, N): the objects of a view, nearest first
    locations: NDArray[np.float64]  # (V, 3): the camera, in Blender units


def read_clevr_mv(
    root: Path,
    name: str = "clevr_mv",
    split: Literal["train", "test"] = "train",
    image_size: int | None = None,
) -> SceneSet:
    """Read one split.

    Labels are 1 + the object's index in its scene, so one object has one label in all views of its scene. An object
    that is hidden in a view has no pixel there, but num_objects counts it. The format, and the viewpoint vector, are
    those of MulMON's `data_loader/getClevrMV.py`.

    Args:
        root: the folder that holds `<name>/<name>_<split>.json`, or the folder `<name>` itself.
        name: "clevr_mv" (CLE-MV) or "clevr_aug" (CLE-Aug).
        split: "train" or "test".
        image_size: height and width to bring the images to, in pixels; see `resize`.

    Returns:
        images (N, V, 3, H, W), labels (N, V, H, W), num_objects (N,), viewpoints (N, V, 3).

    Raises:
        DataError: if a file is missing, unreadable, pickled or outside the set's folder, or if its content is
            not of the format; the message names the file.
    """
    origin = f"{name}_{split}.json of {name}"
    try:
        return SceneSet.from_scenes(clevr_mv_scenes(root, name, split), origin, image_size)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(
            f"{origin} in {root}: {error}. Split the index, drop the views that not all scenes have, or give "
            "image_size to bring images to one size."
        ) from error


def count_clevr_mv(root: Path, name: str, split: str) -> int:
    """The number of scenes of a split in its index."""
    return len(_read_index(_find_index(Path(root), name, split)))


def clevr_mv_scenes(root: Path, name: str, split: str) -> Iterator[StoredScene]:
    """The scenes of `read_clevr_mv` one by one, in their stored form.

    Raises:
        DataError: as for `read_clevr_mv`.
    """
    index = _find_index(Path(root), name, split)
    for scene in _read_index(index):
        yield _read_views(index.parent, scene)


def viewpoint_vectors(locations: NDArray[np.float64]) -> NDArray[np.float32]:
    """MulMON's viewpoints: the camera's direction as seen from above, minus that of the x axis.

    Args:
        locations: the positions of the camera (V, 3), off the vertical axis.

    Returns:
        The viewpoints (V, 3), whose third component is zero.
    """
    ground = locations * [1.0, 1.0, 0.0]
    # MulMON divides by distance + 1e-5, which moves its vectors by a millionth.
    return (ground / np.linalg.norm(ground, axis=1, keepdims=True) - [1.0, 0.0, 0.0]).astype(np.float32)


def _read_views(folder: Path, scene: _IndexedScene) -> StoredScene:
    path = _resolve(folder, scene)
    images, masks = _load_arrays(path, scene)
    labels = _object_labels(masks[..., 0], scene.depth_orders, path)
    return StoredScene(images, labels, scene.depth_orders.shape[1], viewpoint_vectors(scene.locations))


def _find_index(root: Path, name: str, split: str) -> Path:
    for folder in (root / name, root):
        if (folder / f"{name}_{split}.json").is_file():
            return folder / f"{name}_{split}.json"
    if not root.is_dir():
        raise DataError(
            f"root: expected a folder that holds {name}/, got {root}, no folder (--data-root). {WHERE_TO_GET}"
        )
    raise DataError(
        f"root: expected {name}_{split}.json in {root / name} or in {root}, found it in neither. Give the "
        f"folder that holds {name}/ (--data-root). {WHERE_TO_GET}"
    )


def _read_index(index: Path) -> list[_IndexedScene]:
    check_opens(index, DataError)
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # malformed JSON, malformed UTF-8, or too many nested brackets
        raise DataError(f"{index}: expected JSON, got {error}. Download the file again.") from error
    if not isinstance(content, dict) or not isinstance(content.get("scenes"), list) or not content["scenes"]:
        raise DataError(
            f"{index}: expected a JSON object whose key 'scenes' lists one scene or more, found none. "
            f"Check that this is the index of the set. {WHERE_TO_GET}"
        )
    return [_parse_scene(scene, f"{index}: scenes[{i}]") for i, scene in enumerate(content["scenes"])]


def _parse_scene(scene: Any, where: str) -> _IndexedScene:
    try:
        data_path = os.fspath(scene["data_path"])
        depth_orders = np.asarray(scene["depth_orders"], dtype=np.int64)
        locations = np.asarray(scene["camera"]["location"], dtype=np.float64)
    except KeyError as error:
        raise DataError(
            f"{where}: expected the keys data_path, depth_orders and camera.location, {error} is missing. "
            "Download the file again."
        ) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where}: expected a text data_path, and depth_orders and camera.location as lists of lists of "
            f"numbers, got {error}. Download the file again."
        ) from error
    ranks_are_objects = (
        depth_orders.ndim == 2 and (np.sort(depth_orders, axis=1) == np.arange(depth_orders.shape[1])).all()
    )
    if not ranks_are_objects:
        raise DataError(
            f"{where}: depth_orders: expected, for each view, every object from 0 to N - 1 once, "
            f"got {scene['depth_orders']}. Download the file again."
        )
    if depth_orders.shape[1] >= MAX_LABELS:
        most, found = MAX_LABELS - 1, depth_orders.shape[1]
        raise DataError(f"{where}: depth_orders: expected at most {most} objects, got {found}.")
    if locations.shape != (len(depth_orders), 3):
        raise DataError(
            f"{where}: camera.location: expected ({len(depth_orders)}, 3), one position for each view of "
            f"depth_orders, got {locations.shape}. Download the file again."
        )
    if not (np.isfinite(locations).all() and locations[:, :2].any(axis=1).all()):
        raise DataError(
            f"{where}: camera.location: expected finite positions off the vertical axis, where a direction is "
            f"defined, got {locations.tolist()}. Download the file again."
        )
    return _IndexedScene(where, data_path, depth_orders, locations)


def _resolve(folder: Path, scene: _IndexedScene) -> Path:
    # The check looks at the text of the path and follows no links, since data folders are often links to another disk.
    path = Path(os.path.abspath(folder / scene.data_path))
    if not path.is_relative_to(os.path.abspath(folder)):
        raise DataError(
            f"{scene.where}: data_path: expected a file inside {folder}, got {scene.data_path!r}. "
            "Move the file there, and write its path relative to that folder."
        )
    if not path.is_file():
        raise DataError(f"{scene.where}: expected the data file {path}, found none. {WHERE_TO_GET}")
    return path


def _load_arrays(path: Path, scene: _IndexedScene) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Images (V, H, W, 3) and masks (V, H, W, 1 + N) of one scene."""
    check_opens(path, DataError)
    with path.open("rb") as file:
        try:
            if zipfile.is_zipfile(file):  # an npz archive, whatever its name ends with
                _check_sizes(file, path)
            file.seek(0)
            content = np.load(file, allow_pickle=False)
            names = content.files if isinstance(content, np.lib.npyio.NpzFile) else content.dtype.names or ()
            arrays = {key: content[key] for key in ("images", "masks") if key in names}
        except DataError:
            raise
        except Exception as error:  # damaged files make numpy and zipfile raise a dozen unrelated types
            raise DataError(
                f"{path}: expected an npz archive or a structured array of plain numbers, got neither. "
                "Pickled content is never loaded, because unpickling runs whatever code the file holds. "
                "Download the file again, or write images and masks anew with numpy.savez."
            ) from error
    if len(arrays) < 2:
        raise DataError(f"{path}: expected the arrays 'images' and 'masks', found {list(names)}. {WHERE_TO_GET}")
    images, masks = arrays["images"], arrays["masks"]
    num_views, num_objects = scene.depth_orders.shape
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != num_views or images.shape[3] not in (3, 4):
        raise DataError(
            f"{path}: images: expected ({num_views}, H, W, 3 or 4) uint8, for the {num_views} views of "
            f"{scene.where}, got {images.shape} {images.dtype}. Download both files again."
        )
    masks_shape = (*images.shape[:3], 1 + num_objects)
    if not np.issubdtype(masks.dtype, np.integer) or masks.shape != masks_shape:
        raise DataError(
            f"{path}: masks: expected {masks_shape} integers, for these images and the {num_objects} objects "
            f"of {scene.where}, got {masks.shape} {masks.dtype}. Download both files again."
        )
    return images[..., :3], masks  # the fourth channel is an opaque alpha


def _check_sizes(file: IO[bytes], path: Path) -> None:
    """Refuse archives that would fill the memory before their content can be checked."""
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MAX_SCENE_BYTES:
        raise DataError(f"{path}: expected at most {MAX_SCENE_BYTES >> 20} MiB of arrays, got {size >> 20} MiB.")


def _object_labels(ranks: NDArray[Any], depth_orders: NDArray[np.int64], path: Path) -> NDArray[np.uint8]:
    """Labels (V, H, W) of stored depth ranks, which start at 1 for the nearest object and so differ between views."""
    num_views, num_objects = depth_orders.shape
    if ranks.min() < 0 or ranks.max() > num_objects:
        raise DataError(
            f"{path}: masks[..., 0]: expected labels from 0 to {num_objects}, the number of objects, "
            f"got values from {ranks.min()} to {ranks.max()}. Download the file again."
        )
    label_of_rank = np.zeros((num_views, 1 + num_objects), dtype=np.uint8)  # rank 0 is the background
    label_of_rank[:, 1:] = 1 + depth_orders
    return label_of_rank[np.arange(num_views)[:, None, None], ranks]

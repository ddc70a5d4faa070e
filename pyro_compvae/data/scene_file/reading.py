"""Reading of files of scenes: one split into memory, or everything to check it against its checksums."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from pyro_compvae.data.readers.hdf5 import open_hdf5, read_rows
from pyro_compvae.data.readers.resize import resize
from pyro_compvae.data.records import ARRAYS, DataError, StoredScene
from pyro_compvae.data.scene_file.format import FileInfo, SplitInfo, read_info, scenes_per_chunk, split_digest
from pyro_compvae.data.scenes import SceneSet


def read_scene_file(path: Path, split: str, image_size: int | None = None, num_scenes: int | None = None) -> SceneSet:
    """Read one split into memory.

    Args:
        path: the file.
        split: "train", "validation" or "test".
        image_size: the height and width in pixels to which images are resized; see `resize`.
        num_scenes: the largest number of scenes to read, from the first on; None reads all.

    Raises:
        DataError: if the file is missing, damaged or in another format, or has no such split.
    """
    with open_hdf5(path) as file:
        info = read_info(file, path)
        if split not in info.splits:
            raise DataError(f"{path}: expected a split {split!r}, found {', '.join(info.splits)}. Convert with one.")
        about = info.splits[split]
        if num_scenes is not None:
            first = {name: (min(num_scenes, shape[0]), *shape[1:]) for name, shape in about.shapes.items()}
            about = replace(about, shapes=first)
        _check_memory(path, about, image_size)
        arrays: dict[str, NDArray] = {}
        for rows, part in _parts(file[split], about):
            image, labels = part["images"], part.get("labels")
            resized = resize(StoredScene(image, labels), image_size)
            part["images"] = np.moveaxis(resized.image, -1, -3)
            if resized.labels is not None:
                part["labels"] = resized.labels
            for name, values in part.items():
                if name not in arrays:
                    arrays[name] = np.empty((about.num_scenes, *values.shape[1:]), ARRAYS[name])
                arrays[name][rows] = values
    origin = f"{info.name}: {about.origin} (sha256 {about.sha256[:16]})"
    height, width = about.shapes["images"][-3:-1]
    fields = {name: torch.from_numpy(values) for name, values in arrays.items()}
    return SceneSet(**fields, origin=origin, stored_sizes=((height, width),))


def verify(path: Path) -> FileInfo:
    """Read all scenes of a file, and compare them with their checksums.

    Raises:
        DataError: if a split is damaged, or its scenes are not those that were written.
    """
    with open_hdf5(path) as file:
        info = read_info(file, path)
        for split, about in info.splits.items():
            digests = {name: hashlib.sha256() for name in about.shapes}
            for _, part in _parts(file[split], about):
                for name, values in part.items():
                    digests[name].update(values.tobytes())
            if split_digest(digests, about.shapes) != about.sha256:
                raise DataError(f"{path}: {split}: expected scenes of the recorded SHA-256, got others. Convert again.")
    return info


def _parts(group: h5py.Group, about: SplitInfo) -> Iterator[tuple[slice, dict[str, NDArray]]]:
    """Read the arrays of a split, some rows at a time."""
    step = scenes_per_chunk(about.shapes["images"])
    for start in range(0, about.num_scenes, step):
        rows = slice(start, min(start + step, about.num_scenes))
        part = {name: read_rows(group[name], rows) for name in about.shapes}
        if not all(np.isfinite(values).all() for values in part.values()):
            raise DataError(f"{group.file.filename}: {group.name}: expected finite numbers, got others.")
        yield rows, part


def _check_memory(path: Path, about: SplitInfo, image_size: int | None) -> None:
    """Refuse scenes that do not fit into memory, before the system kills the process."""
    *batch, height, width, _ = about.shapes["images"]
    side = (image_size, image_size) if image_size else (height, width)
    needed = 4 * math.prod((*batch, *side))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else sys.maxsize
    if needed > memory:
        raise DataError(
            f"{path}: expected scenes that fit into memory, {memory >> 30} GiB, got {needed >> 30} GiB. Convert fewer "
            "(--num-train), or take smaller images (--set data.image_size=...)."
        )

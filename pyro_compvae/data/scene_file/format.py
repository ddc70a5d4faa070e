"""The format of our own files of scenes: HDF5 in compressed chunks with checksums, and a group for every split.

    /                        format, version, name, settings (JSON)
    /train, /validation, /test    origin, sha256
        images               (N, [V,] H, W, 3) uint8
        labels               (N, [V,] H, W) uint8, if there are masks
        num_objects          (N,) int64, if there are masks
        viewpoints           (N, V, 3) float32, if there are several views

HDF5 checks a Fletcher-32 checksum whenever it reads a chunk; the SHA-256 of a split identifies the data in results.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pyro_compvae.data.readers.hdf5 import find_dataset, open_hdf5
from pyro_compvae.data.records import ARRAYS, DataError
from pyro_compvae.data.scenes import SPLITS
from pyro_compvae.visible import visible

FORMAT = "pyro_compvae scenes"
VERSION = 1
CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class SplitInfo:
    """A split of a file: the origin and the SHA-256 that the file records, and the shapes of its arrays by name."""

    origin: str
    sha256: str
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def num_scenes(self) -> int:
        """N, the number of scenes."""
        return self.shapes["images"][0]


@dataclass(frozen=True)
class FileInfo:
    """The declarations of a file of scenes: its name, the settings of its conversion, and its splits."""

    name: str
    settings: Mapping[str, Any]
    splits: Mapping[str, SplitInfo]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the conversion noted: the files that were used and left out, and the crop; none in older files."""
        notes = self.settings.get("notes") if isinstance(self.settings, dict) else None
        return tuple(visible(str(note), "") for note in notes) if isinstance(notes, list) else ()


def file_info(path: Path) -> FileInfo:
    """Read the declarations of a file.

    Raises:
        DataError: if the file is damaged or in another format.
    """
    with open_hdf5(path) as file:
        return read_info(file, path)


def read_info(file: h5py.File, path: Path) -> FileInfo:
    """Read the declarations of an open file.

    Raises:
        DataError: as for `file_info`.
    """
    if file.attrs.get("format") != FORMAT:
        raise DataError(f"{path}: expected a file of scenes, got other HDF5. `compvae data convert` makes one.")
    if file.attrs.get("version") != VERSION:
        found = file.attrs.get("version")
        raise DataError(f"{path}: expected version {VERSION} of the format, got {found}. Convert again.")
    unknown = set(file) - set(SPLITS)
    if unknown or len(file) == 0:
        raise DataError(f"{path}: expected the splits {', '.join(SPLITS)} or some of them, got {sorted(file)}.")
    try:
        settings = json.loads(_text(file, "settings", path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: settings: expected JSON, got {error}.") from error
    splits = {split: _split_info(file[split], path) for split in SPLITS if split in file}
    return FileInfo(_text(file, "name", path), settings, splits)


def _split_info(group: Any, path: Path) -> SplitInfo:
    if not isinstance(group, h5py.Group):
        raise DataError(f"{path}: {group.name}: expected a group of arrays, got something else.")
    images = find_dataset(group, "images", "(N, [V,] H, W, 3)", (4, 5), "u").shape
    *batch, height, width, _ = images
    wanted = {"images": (*batch, height, width, 3), "labels": (*batch, height, width), "num_objects": (batch[0],)}
    wanted["viewpoints"] = (*batch, 3)
    shapes = {}
    for name in sorted(set(group) & set(ARRAYS), key=list(ARRAYS).index):
        dataset = find_dataset(group, name, str(wanted[name]), len(wanted[name]), "uif")
        if dataset.shape != wanted[name] or dataset.dtype != ARRAYS[name]:
            raise DataError(
                f"{path}: {dataset.name}: expected {wanted[name]} {np.dtype(ARRAYS[name])}, got {dataset.shape} "
                f"{dataset.dtype}."
            )
        shapes[name] = dataset.shape
    if ("labels" in shapes) != ("num_objects" in shapes) or ("viewpoints" in shapes) != (len(batch) == 2):
        raise DataError(
            f"{path}: {group.name}: expected labels with num_objects, and viewpoints with several views, got "
            f"{', '.join(shapes)}."
        )
    return SplitInfo(_text(group, "origin", path), _text(group, "sha256", path), shapes)


def _text(group: h5py.Group, name: str, path: Path) -> str:
    value = group.attrs.get(name)
    if not isinstance(value, str):
        raise DataError(f"{path}: {group.name}: expected a text {name!r}, got {type(value).__name__}.")
    return value


def scenes_per_chunk(shape: tuple[int, ...]) -> int:
    """How many scenes with images of this shape (N, [V,] H, W, 3) a chunk of every array holds."""
    return max(1, CHUNK_BYTES // math.prod(shape[1:]))


def split_digest(digests: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The SHA-256 of a split, from the hashes of its arrays, which are objects of hashlib, and their shapes."""
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{name} {shapes[name]}".encode() + digests[name].digest())
    return total.hexdigest()

"""Our own file of scenes: HDF5, chunked, compressed, checksummed, a group for every split.

    /                        format, version, name, settings (JSON)
    /train, /validation, /test    origin, sha256
        images               (N, [V,] H, W, 3) uint8
        labels               (N, [V,] H, W) uint8, where there are masks
        num_objects          (N,) int64, where there are masks
        viewpoints           (N, V, 3) float32, where there are views

HDF5 checks a Fletcher-32 checksum whenever it reads a chunk; the SHA-256 of a split tells data sets apart in results.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from pyro_compvae.data.patient_file import PatientFile
from pyro_compvae.data.readers.hdf5 import find_dataset, open_hdf5, read_rows
from pyro_compvae.data.readers.resize import resize
from pyro_compvae.data.records import ARRAYS, DataError, StoredScene, stack_scenes
from pyro_compvae.data.scenes import SPLITS, SceneSet
from pyro_compvae.errors import ArgumentError
from pyro_compvae.runs.files import atomic_path
from pyro_compvae.signals import stop_signals

FORMAT = "pyro_compvae scenes"
VERSION = 1
CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class SplitInfo:
    """What a file says of a split, and what its arrays are: name to shape."""

    origin: str
    sha256: str
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def num_scenes(self) -> int:
        """N."""
        return self.shapes["images"][0]


@dataclass(frozen=True)
class FileInfo:
    """What a file of scenes says of itself."""

    name: str
    settings: Mapping[str, Any]
    splits: Mapping[str, SplitInfo]


def write_scenes(
    path: Path, name: str, splits: Mapping[str, tuple[str, Iterable[StoredScene]]], settings: Mapping[str, Any]
) -> None:
    """Write a file of scenes, scene by scene and atomically. Ctrl-C and SIGTERM are heeded between chunks.

    Args:
        path: the file, which must not exist.
        name: of the data, as results call them.
        splits: for "train", "validation", "test" or some of them, where the scenes are from, in words, and the scenes.
        settings: how they were made from their source.

    Raises:
        DataError: if the file exists, a split has another name or no scenes, or its scenes differ in shape.
        DiskFullError: if there is no room for it.
    """
    if path.exists():
        raise DataError(f"{path}: expected a new file, found one. Name another, or remove it; nothing was overwritten.")
    if not path.parent.is_dir():
        raise DataError(f"{path}: expected a file in a folder that exists, found no {path.parent}.")
    if not splits or not set(splits) <= set(SPLITS):
        raise DataError(f"splits: expected {', '.join(SPLITS)} or some of them, got {', '.join(splits) or 'none'}.")
    with stop_signals(False) as stop, atomic_path(path) as temporary, PatientFile(temporary, "w+") as raw:

        def check() -> None:
            raw.check()
            if stop:  # not where it comes, which may be within HDF5
                raise KeyboardInterrupt

        # From HDF5 1.10 on, metadata have checksums too.
        with h5py.File(raw, "w", libver=("v110", "v110")) as file:
            file.attrs.update({"format": FORMAT, "version": VERSION, "name": name, "settings": json.dumps(settings)})
            for split, (origin, scenes) in splits.items():
                group = file.create_group(split)
                try:
                    digest = _write_split(group, scenes, check)
                except DataError:
                    raise
                except ValueError as error:
                    raise DataError(
                        f"{path}: split {split!r}: {error}. Look at the number of scenes asked for, and at image_size, "
                        "which brings images to one shape."
                    ) from error
                group.attrs.update({"origin": origin, "sha256": digest})
        check()


def file_info(path: Path) -> FileInfo:
    """What a file holds, by its declarations.

    Raises:
        DataError: if it is damaged or of another format.
    """
    with open_hdf5(path) as file:
        return _info(file, path)


def read_scene_file(path: Path, split: str, image_size: int | None = None, num_scenes: int | None = None) -> SceneSet:
    """One split, in memory.

    Args:
        path: the file.
        split: "train", "validation" or "test".
        image_size: height and width to bring the images to, in pixels; see `resize`.
        num_scenes: at most so many, from the first on, instead of all.

    Raises:
        DataError: if the file is missing, damaged, or of another format, or has no such split.
    """
    with open_hdf5(path) as file:
        info = _info(file, path)
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
    return SceneSet(**{name: torch.from_numpy(values) for name, values in arrays.items()}, origin=origin)


def verify(path: Path) -> FileInfo:
    """Read everything, and compare it with its checksums.

    Raises:
        DataError: if a split is damaged, or its scenes are not those that were written.
    """
    with open_hdf5(path) as file:
        info = _info(file, path)
        for split, about in info.splits.items():
            digests = {name: hashlib.sha256() for name in about.shapes}
            for _, part in _parts(file[split], about):
                for name, values in part.items():
                    digests[name].update(values.tobytes())
            if _combined(digests, about.shapes) != about.sha256:
                raise DataError(f"{path}: {split}: expected scenes of the recorded SHA-256, got others. Convert again.")
    return info


def _write_split(group: h5py.Group, scenes: Iterable[StoredScene], check: Callable[[], None]) -> str:
    """Write scenes a chunk at a time, with a check after each; returns the SHA-256 of all."""
    digests: dict[str, Any] = {}
    for batch in _batches(scenes):
        arrays = stack_scenes(batch)
        if not digests:
            digests = {name: hashlib.sha256() for name in arrays}
            for name, values in arrays.items():
                group.create_dataset(
                    name,
                    shape=(0, *values.shape[1:]),
                    maxshape=(None, *values.shape[1:]),
                    dtype=ARRAYS[name],
                    chunks=(_scenes_per_chunk(arrays["images"].shape), *values.shape[1:]),
                    compression="gzip",
                    fletcher32=True,
                    track_times=False,
                )
        shapes = {name: values.shape[1:] for name, values in arrays.items()}
        before = {name: group[name].shape[1:] for name in digests}
        if shapes != before:
            raise ArgumentError(f"scenes: expected one shape of all scenes, got {before} and {shapes}")
        for name, values in arrays.items():
            group[name].resize(len(group[name]) + len(values), axis=0)
            group[name][-len(values) :] = values
            digests[name].update(values.tobytes())
        check()
    if not digests:
        raise ArgumentError("scenes: expected one scene or more, got none")
    return _combined(digests, {name: group[name].shape for name in digests})


def _batches(scenes: Iterable[StoredScene]) -> Iterator[list[StoredScene]]:
    """As many scenes at a time as a chunk holds."""
    iterator = iter(scenes)
    for first in iterator:
        yield [first, *itertools.islice(iterator, _scenes_per_chunk((1, *first.image.shape)) - 1)]


def _info(file: h5py.File, path: Path) -> FileInfo:
    if file.attrs.get("format") != FORMAT:
        raise DataError(f"{path}: expected a file of scenes, got other HDF5. `make_data.py convert` makes one.")
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


def _parts(group: h5py.Group, about: SplitInfo) -> Iterator[tuple[slice, dict[str, NDArray]]]:
    """The arrays of a split, some rows at a time."""
    step = _scenes_per_chunk(about.shapes["images"])
    for start in range(0, about.num_scenes, step):
        rows = slice(start, min(start + step, about.num_scenes))
        part = {name: read_rows(group[name], rows) for name in about.shapes}
        if not all(np.isfinite(values).all() for values in part.values()):
            raise DataError(f"{group.file.filename}: {group.name}: expected finite numbers, got others.")
        yield rows, part


def _scenes_per_chunk(shape: tuple[int, ...]) -> int:
    return max(1, CHUNK_BYTES // math.prod(shape[1:]))


def _combined(digests: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> str:
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{name} {shapes[name]}".encode() + digests[name].digest())
    return total.hexdigest()


def _check_memory(path: Path, about: SplitInfo, image_size: int | None) -> None:
    """Refuse what cannot be held, rather than have the system stop the process."""
    *batch, height, width, _ = about.shapes["images"]
    side = (image_size, image_size) if image_size else (height, width)
    needed = 4 * math.prod((*batch, *side))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else sys.maxsize
    if needed > memory:
        raise DataError(
            f"{path}: expected scenes that fit into memory, {memory >> 30} GiB, got {needed >> 30} GiB. Convert fewer "
            "(--num-train), or take smaller images (--set data.image_size=...)."
        )

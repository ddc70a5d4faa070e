"""Writing of files of scenes, scene by scene and atomically, from a source of any length."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from pyro_compvae.data.patient_file import PatientFile
from pyro_compvae.data.readers.hdf5 import call_sound
from pyro_compvae.data.records import ARRAYS, DataError, StoredScene, stack_scenes
from pyro_compvae.data.scene_file.format import FORMAT, VERSION, scenes_per_chunk, split_digest
from pyro_compvae.data.scenes import SPLITS
from pyro_compvae.errors import ArgumentError
from pyro_compvae.runs.files import atomic_path
from pyro_compvae.signals import stop_signals


def write_scenes(
    path: Path, name: str, splits: Mapping[str, tuple[str, Iterable[StoredScene]]], settings: Mapping[str, Any]
) -> None:
    """Write a file of scenes, scene by scene and atomically. Ctrl-C and SIGTERM take effect between chunks.

    Args:
        path: the file, which must not exist.
        name: the name of the data in results.
        splits: for some of "train", "validation" and "test", a phrase on the scenes' origin, and the scenes.
        settings: the settings with which they were made from their source.

    Raises:
        DataError: if the file exists, a split has another name or no scenes, or its scenes differ in shape.
        DiskFullError: if the disk has no room for the file.
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
            if stop:  # raised here because a signal may arrive within HDF5
                raise KeyboardInterrupt

        # In the formats from HDF5 1.10 on, metadata have checksums too.
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
    call_sound(path)


def _write_split(group: h5py.Group, scenes: Iterable[StoredScene], check: Callable[[], None]) -> str:
    """Write scenes one chunk at a time, with a check after each chunk; returns the SHA-256 of them all."""
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
                    chunks=(scenes_per_chunk(arrays["images"].shape), *values.shape[1:]),
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
    return split_digest(digests, {name: group[name].shape for name in digests})


def _batches(scenes: Iterable[StoredScene]) -> Iterator[list[StoredScene]]:
    """The scenes in lists, each of as many as a chunk holds."""
    iterator = iter(scenes)
    for first in iterator:
        yield [first, *itertools.islice(iterator, scenes_per_chunk((1, *first.image.shape)) - 1)]

"""Public data sets on disk, recognised by their content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py

from pyro_compvae.data.readers import clevr_mv, hdf5_layouts, image_folder, multi_object_datasets
from pyro_compvae.data.readers.hdf5 import open_hdf5
from pyro_compvae.data.readers.tfrecords import is_gzip
from pyro_compvae.data.records import DataError, StoredScene
from pyro_compvae.data.scene_file.format import FORMAT

WHERE_TO_GET = {
    "Tetrominoes, multi-dSprites, CLEVR with masks, Objects Room (.tfrecords)": multi_object_datasets.WHERE_TO_GET,
    "the same as .hdf5, with ShapeStacks": hdf5_layouts.OCL_WHERE_TO_GET,
    "Tetrominoes, multi-dSprites, CLEVR6 as .h5": hdf5_layouts.EM_WHERE_TO_GET,
    "CLE-MV and CLE-Aug (Dolphin)": "https://github.com/NanboLi/MulMON",
}


class SourcePart(NamedTuple):
    """Some scenes of a source: a phrase on their origin, their number if it is known beforehand, and the scenes."""

    origin: str
    num_scenes: int | None
    scenes: Callable[[], Iterator[StoredScene]]


class Source(NamedTuple):
    """A data set: its name, and its parts "train", "validation" and "test", or the part "all" if it is not divided."""

    name: str
    parts: dict[str, SourcePart]


def open_source(path: Path, num_background: int | None = None) -> Source:
    """Find out which data set a file or folder is.

    Args:
        path: a TFRecord file of multi_object_datasets, an HDF5 file of object-centric-library or EfficientMORL, a
            folder in the format of CLE-MV, or a folder of images, which may contain the folders train, val and test.
        num_background: how many of the first entities are background in object-centric-library's files; by default 4 if
            the name starts with objects_room, and else 1.

    Raises:
        DataError: if it is none of these; the message says where to get data.
    """
    if path.is_file() and h5py.is_hdf5(path):
        return _open_hdf5(path, num_background)
    _refuse_background(path, num_background)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a file or folder of data, found nothing. {known_sources()}")
    if is_gzip(path) or ".tfrecord" in path.name:
        name = multi_object_datasets.identify(path)
        part = SourcePart(path.name, None, partial(multi_object_datasets.read_multi_objects, path, name))
        return Source(name, {"test" if name.startswith("objects_room_test") else "all": part})
    raise DataError(f"{path}: expected TFRecords or HDF5, got a file of another kind. {known_sources()}")


def _refuse_background(path: Path, num_background: int | None) -> None:
    if num_background is not None:
        raise DataError(f"num_background: expected none for {path}, whose background is known, got {num_background}")


def _open_folder(path: Path) -> Source:
    found = [
        name
        for name in ("clevr_mv", "clevr_aug")
        if any((folder / f"{name}_train.json").is_file() for folder in (path, path / name))
    ]
    if len(found) > 1:
        raise DataError(f"{path}: expected one set, found {' and '.join(found)}. Name the folder of one of them.")
    if found:
        (name,) = found
        parts = {}
        for split in ("train", "test"):
            scenes = partial(clevr_mv.clevr_mv_scenes, path, name, split)
            parts[split] = SourcePart(f"{name}_{split}.json", clevr_mv.count_clevr_mv(path, name, split), scenes)
        return Source(name, parts)
    names = [name for name in image_folder.SPLIT_FOLDERS if (path / name).is_dir()]
    folders = {image_folder.SPLIT_FOLDERS[name]: path / name for name in names}
    if len(folders) < len(names) or (folders and image_folder.find_images(path)):
        raise DataError(
            f"{path}: expected images in it, or in folders for splits, each once; found "
            f"{', '.join(names)}{' and images beside them' if image_folder.find_images(path) else ''}. Move some."
        )
    images = {split: image_folder.find_images(folder) for split, folder in (folders or {"all": path}).items()}
    parts = {
        split: SourcePart(
            f"images of the folder {folders.get(split, path).name}",
            len(found),
            partial(image_folder.read_images, found),
        )
        for split, found in images.items()
        if found
    }
    if not parts:
        raise DataError(
            f"{path}: expected images ({', '.join(image_folder.SUFFIXES)}) or clevr_mv_train.json, found neither. "
            f"{known_sources()}"
        )
    return Source(path.resolve().name, parts)


def _open_hdf5(path: Path, num_background: int | None) -> Source:
    with open_hdf5(path) as file:
        if file.attrs.get("format") == FORMAT:
            raise DataError(f"{path}: expected data to convert, got a file that is converted already.")
        if isinstance(image := file.get("image"), h5py.Dataset):
            background = 4 if path.name.startswith("objects_room") else 1
            background = background if num_background is None else num_background
            scenes = partial(hdf5_layouts.read_object_centric_library, path, background)
            return Source(path.stem, {"all": SourcePart(path.name, image.shape[0] if image.shape else None, scenes)})
        _refuse_background(path, num_background)
        parts = {}
        for name, split in hdf5_layouts.EM_SPLITS.items():
            group = file.get(name)
            if isinstance(group, h5py.Group) and isinstance(images := group.get("imgs"), h5py.Dataset):
                scenes = partial(hdf5_layouts.read_efficient_morl, path, name)
                parts[split] = SourcePart(f"{name} of {path.name}", images.shape[0] if images.shape else None, scenes)
    if not parts:
        raise DataError(f"{path}: expected the array 'image', or groups train, val, test with 'imgs', found neither.")
    return Source(path.stem, parts)


def known_sources() -> str:
    """A sentence that says which data sets can be read, and where to get them."""
    known = "; ".join(f"{what}: {where}" for what, where in WHERE_TO_GET.items())
    return f"Known are {known}; and folders of images."

"""Public data sets on disk, recognised by their content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py

from pyro_compvae.data.readers import clevr_mv, hdf5_layouts, image_folder, multi_object_datasets
from pyro_compvae.data.readers.hdf5 import open_hdf5
from pyro_compvae.data.readers.image_files import read_images
from pyro_compvae.data.readers.resize import CLEVR_SIZE, Crop
from pyro_compvae.data.readers.tfrecords import is_tfrecords
from pyro_compvae.data.readers.used_files import LeftOut, used_note
from pyro_compvae.data.records import DataError, StoredScene
from pyro_compvae.data.scene_file.format import FORMAT
from pyro_compvae.data.scenes import SPLIT_NAMES, SPLITS
from pyro_compvae.visible import visible

WHERE_TO_GET = {
    "Tetrominoes, multi-dSprites, Objects Room, CLEVR, CATER (.tfrecords)": multi_object_datasets.WHERE_TO_GET,
    "the same as .hdf5, with ShapeStacks": hdf5_layouts.OCL_WHERE_TO_GET,
    "Tetrominoes, multi-dSprites, CLEVR6 as .h5": hdf5_layouts.EM_WHERE_TO_GET,
    "CLE-MV and CLE-Aug (Dolphin)": "https://github.com/NanboLi/MulMON",
}


class SourcePart(NamedTuple):
    """Some scenes of a source.

    origin: a phrase on where they are from.
    num_scenes: their number if it is known beforehand.
    scenes: they themselves, one by one.
    together: how many consecutive scenes belong in one split; the frames of a film do.
    """

    origin: str
    num_scenes: int | None
    scenes: Callable[[], Iterator[StoredScene]]
    together: int = 1


class Source(NamedTuple):
    """A data set: its parts "train", "validation" and "test", or the part "all" if it is not divided.

    name: the name of the data set.
    notes: sentences on the files that are used and that are not, if there are several.
    crop: how its images become square: CLEVR's own by the usual crop, all others by the central square.
    """

    name: str
    parts: dict[str, SourcePart]
    notes: tuple[str, ...] = ()
    crop: Crop = "centre"


def open_source(path: Path, num_background: int | None = None) -> Source:
    """Find out which data set a file or folder is.

    Args:
        path: TFRecords of multi_object_datasets, in one file or in a folder of them, an HDF5 file of
            object-centric-library or EfficientMORL, a folder in the format of CLE-MV, or a folder of images (see
            `find_images`).
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
    if _named_tfrecords(path) or is_tfrecords(path):
        return _open_tfrecords([path], path.name)
    raise DataError(f"{path}: expected TFRecords or HDF5, got a file of another kind. {known_sources()}")


def _refuse_background(path: Path, num_background: int | None) -> None:
    if num_background is not None:
        raise DataError(f"num_background: expected none for {path}, whose background is known, got {num_background}")


def _named_tfrecords(path: Path) -> bool:
    return ".tfrecord" in path.name and not path.name.startswith(".") and path.is_file()


def _open_tfrecords(paths: list[Path], origin: str, notes: tuple[str, ...] = ()) -> Source:
    """Files of one data set, one after the other."""
    name, *others = dict.fromkeys(multi_object_datasets.identify(path) for path in paths)
    tests = ["_test" in path.name for path in paths]
    if others or (any(tests) and not all(tests)):
        raise DataError(
            f"{paths[0].parent}: expected TFRecords of one split of one data set, found "
            f"{' and '.join([name, *others]) if others else 'some for training and some for the test'}. Name the files "
            "of one, or move the others."
        )

    def scenes() -> Iterator[StoredScene]:
        for path in paths:
            yield from multi_object_datasets.read_multi_objects(path, name)

    part = SourcePart(origin, None, scenes, multi_object_datasets.LAYOUTS[name].num_frames)
    is_test = name.startswith("objects_room_test") or (name.startswith("cater") and all(tests))
    crop: Crop = "clevr" if name == "clevr_with_masks" else "centre"
    return Source(name, {"test" if is_test else "all": part}, notes, crop)


def _open_folder(path: Path) -> Source:
    found = [
        name
        for name in ("clevr_mv", "clevr_aug")
        if any((folder / f"{name}_train.json").is_file() for folder in (path, path / name))
    ]
    if len(found) > 1:
        raise DataError(f"{path}: expected one set, found {' and '.join(found)}. Name the folder of one of them.")
    if found:
        return _open_clevr_mv(path, found[0])
    if records := sorted(file for file in path.iterdir() if _named_tfrecords(file)):
        left_out = LeftOut(path)
        left_out.add("no TFRecords", *sorted(set(path.iterdir()) - set(records)))
        notes = (f"used: {len(records):,} files of TFRecords, by name", left_out.note())
        return _open_tfrecords(records, f"the files {records[0].name} to {records[-1].name}", notes)
    try:
        images = image_folder.find_images(path)
    except image_folder.NoImagesError as error:
        raise DataError(f"{error} {known_sources()}") from error
    name = visible(path.resolve().name, "")
    parts = {
        split: SourcePart(
            f"images of the folder {name}{'' if split == 'all' else f' for {split}'}, shuffled by a "
            "hash of their names",
            len(files),
            partial(read_images, files),
        )
        for split in ("all", *SPLITS)
        if (files := images.splits.get(split))
    }
    return Source(name, parts, images.notes)


def _open_clevr_mv(path: Path, name: str) -> Source:
    parts = {}
    for split in ("train", "test"):
        scenes = partial(clevr_mv.clevr_mv_scenes, path, name, split)
        parts[split] = SourcePart(f"{name}_{split}.json", clevr_mv.count_clevr_mv(path, name, split), scenes)
    folder = path if (path / f"{name}_train.json").is_file() else path / name
    indices = {folder / part.origin for part in parts.values()}
    left_out = LeftOut(folder)
    left_out.add("indices of other splits", *sorted(set(folder.glob(f"{name}_*.json")) - indices))
    return Source(name, parts, (used_note("indices of scenes", indices), left_out.note()))


def _open_hdf5(path: Path, num_background: int | None) -> Source:
    with open_hdf5(path) as file:
        if file.attrs.get("format") == FORMAT:
            raise DataError(f"{path}: expected data to convert, got a file that is converted already.")
        if isinstance(image := file.get("image"), h5py.Dataset):
            background = 4 if path.name.startswith("objects_room") else 1
            background = background if num_background is None else num_background
            scenes = partial(hdf5_layouts.read_object_centric_library, path, background)
            part = SourcePart(path.name, image.shape[0] if image.shape else None, scenes)
            is_clevr = path.name.lower().startswith("clevr") and image.shape[1:3] == CLEVR_SIZE
            return Source(path.stem, {"all": part}, crop="clevr" if is_clevr else "centre")
        _refuse_background(path, num_background)
        parts: dict[str, SourcePart] = {}
        left_out = []
        for name, group in file.items():
            split = SPLIT_NAMES.get(name.lower())
            images = group.get("imgs") if isinstance(group, h5py.Group) else None
            if split is None or not isinstance(images, h5py.Dataset):
                left_out.append(visible(name, ""))
                continue
            if split in parts:
                raise DataError(f"{path}: expected one group for {split}, found {name} and {parts[split].origin}.")
            scenes = partial(hdf5_layouts.read_efficient_morl, path, name)
            parts[split] = SourcePart(f"{name} of {path.name}", images.shape[0] if images.shape else None, scenes)
    if not parts:
        raise DataError(f"{path}: expected the array 'image', or groups train, val, test with 'imgs', found neither.")
    parts = {split: parts[split] for split in SPLITS if split in parts}
    return Source(path.stem, parts, (f"left out: {', '.join(left_out) or 'nothing'}",))


def known_sources() -> str:
    """A sentence that says which data sets can be read, and where to get them."""
    known = "; ".join(f"{what}: {where}" for what, where in WHERE_TO_GET.items())
    return f"Known are {known}; and folders of images."

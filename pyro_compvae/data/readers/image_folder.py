"""Folders of images: which files are images, masks or neither, and in which split each image is.

These layouts are known. In each of them images may be in further folders, such as one for every class.

    a.png                       images
    images/a.png  masks/a.png   images and masks of the same name; a_mask.png is the mask of a.png in any folder
    train/...  valid/...        splits, which may also be inside of images/ and masks/
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pyro_compvae.data.readers.image_files import SUFFIXES, ImageFile
from pyro_compvae.data.readers.used_files import LeftOut, used_note
from pyro_compvae.data.records import DataError
from pyro_compvae.data.scenes import SPLIT_NAMES
from pyro_compvae.visible import visible

IMAGES = ("image", "images", "img", "imgs")
MASKS = ("mask", "masks", "label", "labels", "segmentation", "segmentations", "annotation", "annotations")
"""The names of folders of images, and of folders of their masks."""

MASK_END = "_mask"
"""The end of a mask's name, which it need not have in a folder of masks."""


class NoImagesError(DataError):
    """A folder has no images that can be used."""


class ImageFolder(NamedTuple):
    """The images of every split, or of "all" if there are none; and notes on the files that are used and left out."""

    splits: dict[str, list[ImageFile]]
    notes: tuple[str, ...]


class _Place(NamedTuple):
    """The folder of its split that a file is in, if any, and its folders and its name inside of that."""

    split: str | None
    inside: tuple[str, ...]


def find_images(root: Path) -> ImageFolder:
    """Find the images in a folder and in the folders in it, with their masks if there are any.

    Left out are hidden files (such as the ._* files of macOS), files that are no images, and, if some images have
    masks, those without. The images of a split are in the order of a hash of their paths, which has nothing to do with
    the order of their names: a class, a camera or a day then does not end up in one split.

    Raises:
        NoImagesError: if there are no images, or none of the masks belongs to one.
        DataError: if two folders are for one split, some images are in no split while others are,
            or an image has two masks.
    """
    left_out = LeftOut(root)
    images: dict[_Place, list[Path]] = defaultdict(list)
    masks: dict[_Place, list[Path]] = defaultdict(list)
    for path in _image_files(root, left_out):
        place, in_masks = _place(path.relative_to(root))
        (masks[_of_image(place)] if in_masks else images[place]).append(path)
    for place in [place for place in images if _of_image(place) != place and _of_image(place) in images]:
        masks[_of_image(place)] += images.pop(place)
    files = [ImageFile(path, _only(root, masks.get(place, []))) for place, paths in images.items() for path in paths]
    unused = [path for place, paths in masks.items() if place not in images for path in paths]
    left_out.add("masks without an image", *unused)
    if masks:
        left_out.add("images without a mask", *(file.path for file in files if file.mask is None))
        files = [file for file in files if file.mask is not None]
    if not files:
        raise NoImagesError(
            f"{root}: expected images ({', '.join(SUFFIXES)}) in it or in the folders in it, and masks, if there are "
            f"any, with the names of their images in a folder masks/; found none; {left_out.note()}."
        )
    _check_splits(root, images)
    splits: dict[str, list[ImageFile]] = {}
    for file in sorted(files, key=lambda file: _hash(file.path.relative_to(root))):
        name = _place(file.path.relative_to(root))[0].split
        splits.setdefault("all" if name is None else SPLIT_NAMES[name], []).append(file)
    used = [used_note("images", [file.path for file in files])]
    used += [used_note("masks", [file.mask for file in files if file.mask])] if masks else []
    return ImageFolder(splits, (*used, left_out.note()))


def _image_files(folder: Path, left_out: LeftOut, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The files in a folder, and in the folders in it, whose names are those of images."""
    here = above | {os.path.realpath(folder)}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            left_out.add("hidden", path)
        elif path.is_dir():
            if os.path.realpath(path) in here:
                left_out.add("links to a folder around them", path)
            else:
                yield from _image_files(path, left_out, here)
        elif not path.is_file():
            left_out.add("no files", path)
        elif path.suffix.lower() in SUFFIXES:
            yield path
        else:
            left_out.add(visible(path.suffix.lower(), "") or "without a type", path)


def _place(path: Path) -> tuple[_Place, bool]:
    """The place of a file, given its path from the root, and whether it is in a folder of masks."""
    folders = list(path.parts[:-1])
    role, split = None, None
    while folders:
        name = folders[0].lower()
        if name in (*IMAGES, *MASKS) and role is None:
            role = name
        elif name in SPLIT_NAMES and split is None:
            split = name
        else:
            break
        folders.pop(0)
    return _Place(split, (*folders, path.stem)), role in MASKS


def _of_image(place: _Place) -> _Place:
    """The place of the image of a mask."""
    *folders, stem = place.inside
    return place._replace(inside=(*folders, stem.removesuffix(MASK_END)))


def _only(root: Path, masks: list[Path]) -> Path | None:
    if len(masks) > 1:
        names = " and ".join(visible(path.relative_to(root).as_posix(), "") for path in masks)
        raise DataError(
            f"{root}: expected one mask for an image, in which every object has a colour of its own, found {names}. "
            "Draw them into one, or move the others."
        )
    return masks[0] if masks else None


def _check_splits(root: Path, images: dict[_Place, list[Path]]) -> None:
    names = sorted({place.split for place in images if place.split is not None})
    beside = [paths[0] for place, paths in images.items() if place.split is None]
    if len({SPLIT_NAMES[name] for name in names}) < len(names) or (names and beside):
        others = (
            f" and images beside them, such as {visible(beside[0].relative_to(root).as_posix(), '')}" if beside else ""
        )
        raise DataError(
            f"{root}: expected images in it, or in folders for splits, each once; found {', '.join(names)}{others}. "
            "Move some."
        )


def _hash(path: Path) -> bytes:
    """A hash of a path, which is the same on all systems."""
    text = unicodedata.normalize("NFC", path.as_posix())
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

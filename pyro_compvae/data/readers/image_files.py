"""A reader of files of images, and of files that are masks of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pyro_compvae.data.records import MAX_LABELS, DataError, StoredScene
from pyro_compvae.runs.files import check_opens

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
JPEG = ("JPEG", "MPO")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes of 8 bits or less for each channel; in the others it would clip values at 255."""
DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
"""Its modes of 16 bits. It brings images of several channels of 16 bits to 8 bits by itself."""
MAX_PIXELS = 1 << 26


class ImageFile(NamedTuple):
    """An image, and the file with its mask if there is one."""

    path: Path
    mask: Path | None = None


def read_images(files: Sequence[ImageFile]) -> Iterator[StoredScene]:
    """Read images of any size as RGB, with transparent parts on black, and turned as the camera's orientation says.

    Values of 16 bits are divided by 257, so that 0 to 65,535 become 0 to 255.

    In a mask black, and whatever is transparent, is the background, and every other colour or number is an object.

    Raises:
        DataError: if a file is damaged, no image, a film, of another depth, or larger than MAX_PIXELS, or if a mask is
            a JPEG, has another size than its image, or has too many colours; the message names the file.
    """
    for file in files:
        image = _read(file.path)
        colours = _bytes_of_deep(image) if image.mode in DEEP else image
        scene = StoredScene(_on_black(colours))
        yield scene if file.mask is None else _with_mask(scene, file)


def _with_mask(scene: StoredScene, file: ImageFile) -> StoredScene:
    assert file.mask is not None
    mask = _read(file.mask)
    if mask.format in JPEG:
        raise DataError(
            f"{file.mask}: expected a mask with exact colours, got a JPEG, which blurs them. Save the masks as PNG."
        )
    colours = np.asarray(mask) if mask.mode in DEEP else _on_black(mask)
    height, width = scene.image.shape[:2]
    if colours.shape[:2] != (height, width):
        raise DataError(
            f"{file.mask}: expected the size of {file.path.name}, {height} x {width} pixels, got "
            f"{colours.shape[0]} x {colours.shape[1]}."
        )
    labels = _labels(colours.reshape(height, width, -1).astype(np.int64), file.mask)
    return scene._replace(labels=labels, num_objects=int(labels.max()))


def _labels(colours: NDArray[np.int64], path: Path) -> NDArray[np.uint8]:
    """Labels (H, W) of colours (H, W, C): 0 for black, and 1, 2, ... for the others in increasing order."""
    numbers = (colours * 256 ** np.arange(colours.shape[-1])).sum(-1)
    values, labels = np.unique(np.append(0, numbers), return_inverse=True)  # so that black is always the first
    if len(values) > MAX_LABELS:
        raise DataError(
            f"{path}: expected a mask with a colour for each object and at most {MAX_LABELS - 1} objects, got "
            f"{len(values) - 1:,} colours. Is it a picture, or has it smooth edges?"
        )
    return labels[1:].reshape(numbers.shape).astype(np.uint8)


def _read(path: Path) -> Image.Image:
    """Read a file whole, once its type and size have been checked."""
    check_opens(path, DataError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of sizes, which are checked below, and of odd metadata
            with Image.open(path, formats=FORMATS) as image:
                _check(image, path)
                turned = ImageOps.exif_transpose(image)
                turned.load()
                if image.mode == "I":  # 16 bits too, in Pillow before version 11
                    turned = Image.fromarray(np.asarray(turned).astype(np.uint16))
                turned.format = image.format
                return turned
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise a dozen types on damaged files
        raise DataError(f"{path}: expected an image, but it cannot be read ({error}).") from error


def _check(image: Image.Image, path: Path) -> None:
    """Refuse what is too large, or is no picture of bytes, by what the file declares."""
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{path}: expected at most {MAX_PIXELS} pixels, got {image.width} x {image.height}. Reduce it first."
        )
    # A JPEG of several pictures, as some cameras write it, shows the first one.
    if image.format not in JPEG and (frames := getattr(image, "n_frames", 1)) > 1:
        raise DataError(f"{path}: expected one picture, got {frames} in one file. Save each as a file of its own.")
    if image.mode not in (*MODES, *DEEP) and (image.mode, image.format) != ("I", "PNG"):
        raise DataError(
            f"{path}: expected 8 or 16 bits for each channel, got mode {image.mode}. Convert it to 8-bit RGB."
        )


def _on_black(image: Image.Image) -> NDArray[np.uint8]:
    rgba = image.convert("RGBA")
    black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return np.asarray(Image.alpha_composite(black, rgba).convert("RGB"))


def _bytes_of_deep(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))

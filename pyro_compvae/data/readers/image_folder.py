"""A reader of plain folders of images, which have no masks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pyro_compvae.data.records import DataError, StoredScene
from pyro_compvae.runs.files import check_opens

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes of 8 bits or less for each channel; in the others it would clip values at 255."""
MAX_PIXELS = 1 << 26
SPLIT_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def find_images(folder: Path) -> list[Path]:
    """The image files of a folder, ordered by name; folders inside it are not searched."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def read_images(paths: list[Path]) -> Iterator[StoredScene]:
    """Read images of any size as RGB, with transparent parts on black, and turned as the camera's orientation says.

    Raises:
        DataError: if a file is damaged, no image, of more than 8 bits per channel, or larger than MAX_PIXELS; the
            message names the file.
    """
    for path in paths:
        check_opens(path, DataError)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of sizes, which are checked below, and of odd metadata
                with Image.open(path, formats=FORMATS) as image:
                    if image.width * image.height > MAX_PIXELS:
                        raise DataError(
                            f"{path}: expected at most {MAX_PIXELS} pixels, got {image.width} x {image.height}. "
                            "Reduce it first."
                        )
                    if image.mode not in MODES:
                        raise DataError(
                            f"{path}: expected 8 bits for each channel, got mode {image.mode}. Convert it to 8-bit RGB."
                        )
                    rgba = ImageOps.exif_transpose(image).convert("RGBA")
            black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
            yield StoredScene(np.asarray(Image.alpha_composite(black, rgba).convert("RGB")))
        except DataError:
            raise
        except Exception as error:  # Pillow's readers raise a dozen types on damaged files
            raise DataError(f"{path}: expected an image, but it cannot be read ({error}).") from error

"""DeepMind's multi_object_datasets: Tetrominoes, multi-dSprites, CLEVR, Objects Room and CATER with masks.

The sets are by Kabra et al. 2019 (https://github.com/deepmind/multi_object_datasets), and are read from the published
TFRecord files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_compvae.data.readers.labels import count_objects, labels_of_masks, merge_background
from pyro_compvae.data.readers.tfrecords import Record, read_tfrecords
from pyro_compvae.data.records import DataError, StoredScene

WHERE_TO_GET = (
    "https://storage.googleapis.com/multi-object-datasets (https://github.com/deepmind/multi_object_datasets)"
)


class Layout(NamedTuple):
    """The layout in which the arrays of a data set are stored.

    channels: the number of channels of the image; one channel shows white objects on black
    entities_last: whether masks are (H, W, E, 1) as stored, or (E, H, W, 1)
    num_background: how many of the first entities are not objects; in Objects Room these are sky, floor and two walls.
        Some of its scenes show only one wall, and then the first object counts as background. (object-centric-library
        guesses these scenes from the shapes of the masks; we do not.)
    """

    size: tuple[int, int]
    channels: int
    num_entities: int
    entities_last: bool = False
    num_background: int = 1
    num_frames: int = 1


LAYOUTS = {
    "tetrominoes": Layout((35, 35), 3, 4),
    "multi_dsprites_binarized": Layout((64, 64), 1, 4, entities_last=True),
    "multi_dsprites_colored_on_grayscale": Layout((64, 64), 3, 6, entities_last=True),
    "multi_dsprites_colored_on_colored": Layout((64, 64), 3, 5, entities_last=True),
    "clevr_with_masks": Layout((240, 320), 3, 11),
    "objects_room_train": Layout((64, 64), 3, 7, num_background=4),
    "objects_room_test_empty_room": Layout((64, 64), 3, 4, num_background=4),
    "objects_room_test_six_objects": Layout((64, 64), 3, 10, num_background=4),
    "objects_room_test_identical_color": Layout((64, 64), 3, 10, num_background=4),
    "cater_with_masks": Layout((64, 64), 3, 11, num_frames=33),
}


def identify(path: Path) -> str:
    """Find out which of LAYOUTS a file has, by the features of its first record and, if two fit, by the file's name.

    Raises:
        DataError: if none fits, or the file is no TFRecord file.
    """
    record = next(read_tfrecords(path), None)
    if record is None:
        raise DataError(f"{path}: expected one record or more, found none. Download the file again.")
    fitting = [name for name, layout in LAYOUTS.items() if _fits(layout, record)]
    # Only Objects Room and CATER come without the properties that all others give of their objects.
    if "x" not in record.floats:
        fitting = [name for name in fitting if name.startswith(("objects_room", "cater"))]
    named = [name for name in fitting if path.name.startswith(name)]
    if len(fitting) > 1 and not named:
        raise DataError(
            f"{path}: expected the name that the file was published with, such as {fitting[0]}.tfrecords, as only that "
            f"tells {' and '.join(fitting)} apart. Rename it."
        )
    if not fitting:
        found = {name: len(values) for name, values in sorted(record.octets.items())}
        raise DataError(
            f"{path}: expected the features of one of {', '.join(LAYOUTS)}, got byte features of the lengths {found}. "
            "Only TFRecords of multi_object_datasets are known."
        )
    return (named or fitting)[0]


def read_multi_objects(path: Path, name: str) -> Iterator[StoredScene]:
    """The scenes of a file, one by one; of CATER, the frames of one film after another.

    Labels are 1, 2, ... for the entities after the background, in the order of the masks; a pixel without an entity is
    background. Objects without a pixel are not counted.

    Args:
        path: the file.
        name: the name of its layout in LAYOUTS, from `identify`.

    Raises:
        DataError: if a record is damaged or of another layout.
    """
    layout = LAYOUTS[name]
    for number, record in enumerate(read_tfrecords(path)):
        if not _fits(layout, record):
            raise DataError(f"{path}: record {number}: expected the features of {name}, got others.")
        images = record.octets["image"].reshape(layout.num_frames, -1)
        masks = record.octets["mask"].reshape(layout.num_frames, -1)
        for image, mask in zip(images, masks, strict=True):
            yield _scene(layout, image, mask)


def _fits(layout: Layout, record: Record) -> bool:
    pixels = math.prod(layout.size) * layout.num_frames
    lengths = {"image": pixels * layout.channels, "mask": pixels * layout.num_entities}
    return all(len(record.octets.get(name, ())) == length for name, length in lengths.items())


def _scene(layout: Layout, image: NDArray[np.uint8], masks: NDArray[np.uint8]) -> StoredScene:
    height, width = layout.size
    image = image.reshape(height, width, layout.channels)
    if layout.entities_last:
        masks = np.moveaxis(masks.reshape(height, width, layout.num_entities), -1, 0)
    else:
        masks = masks.reshape(layout.num_entities, height, width)
    labels = merge_background(labels_of_masks(masks), layout.num_background)
    return StoredScene(np.broadcast_to(image, (height, width, 3)), labels, count_objects(labels))

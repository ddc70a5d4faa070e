"""Tiny files in the formats of public data sets, written like the published ones, without our own code."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from tensorboard.summary.writer.record_writer import RecordWriter


def masks_of(labels: NDArray, num_entities: int) -> NDArray[np.uint8]:
    """Labels (..., H, W) as masks (..., E, H, W, 1) of 0 and 255."""
    entity = np.arange(num_entities)[:, None, None]
    return (255 * (labels[..., None, :, :] == entity)).astype(np.uint8)[..., None]


def write_tfrecords(path: Path, examples: Iterable[Mapping[str, NDArray]]) -> None:
    """A TFRecord file compressed as a whole, framed by TensorBoard's writer."""
    with gzip.open(path, "wb") as file:
        writer = RecordWriter(file)
        for features in examples:
            writer.write(example(features))


def example(features: Mapping[str, NDArray]) -> bytes:
    """A `tf.train.Example` in protobuf's wire format, with one byte per element, as in multi_object_datasets."""
    entries = []
    for name, values in features.items():
        if values.dtype == np.uint8:
            octets = values.ravel()
            tag_and_length = np.broadcast_to(np.array([0x0A, 1], np.uint8), (len(octets), 2))
            feature = delimited(1, np.column_stack([tag_and_length, octets]).tobytes())
        else:
            feature = delimited(2, delimited(1, values.astype("<f4").tobytes()))
        entries.append(delimited(1, delimited(1, name.encode()) + delimited(2, feature)))
    return delimited(1, b"".join(entries))


def delimited(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """Encode a number with seven bits per byte, the lowest first; the eighth bit says that more bytes follow."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(value & 0x7F)
    return bytes([*(digit | 0x80 for digit in digits[:-1]), digits[-1]])


def labelled_scene(seed: int, height: int, width: int, num_entities: int) -> tuple[NDArray, NDArray]:
    """An image (H, W, 3) uint8, and labels (H, W) of this number of entities, all of which occur."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_entities, (height, width))
    labels.ravel()[:num_entities] = np.arange(num_entities)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), labels


def tetrominoes(path: Path, num_scenes: int, num_entities: int = 4) -> list[tuple[NDArray, NDArray]]:
    """Write scenes with masks (4, 35, 35, 1); returns images and labels of this number of entities."""
    scenes = [labelled_scene(seed, 35, 35, num_entities) for seed in range(num_scenes)]
    write_tfrecords(path, [_entities(image, masks_of(labels, 4), 4) for image, labels in scenes])
    return scenes


def multi_dsprites(path: Path, num_scenes: int, num_entities: int, channels: int = 3) -> list[tuple[NDArray, NDArray]]:
    """Write scenes with masks (64, 64, E, 1), where entities are last."""
    scenes = [labelled_scene(seed, 64, 64, num_entities) for seed in range(num_scenes)]
    examples = []
    for image, labels in scenes:
        masks = np.moveaxis(masks_of(labels, num_entities), 0, 2)
        examples.append(_entities(image[..., :channels], masks, num_entities))
    write_tfrecords(path, examples)
    return scenes


def clevr_with_masks(path: Path, objects: list[int]) -> list[tuple[NDArray, NDArray]]:
    """Write scenes with masks (11, 240, 320, 1) and these numbers of objects."""
    scenes = [labelled_scene(seed, 240, 320, 1 + count) for seed, count in enumerate(objects)]
    write_tfrecords(path, [_entities(image, masks_of(labels, 11), 11) for image, labels in scenes])
    return scenes


def objects_room(path: Path, num_scenes: int, num_entities: int) -> list[tuple[NDArray, NDArray]]:
    """Write scenes with masks (E, 64, 64, 1), without properties of the objects."""
    scenes = [labelled_scene(seed, 64, 64, num_entities) for seed in range(num_scenes)]
    write_tfrecords(path, [{"image": image, "mask": masks_of(labels, num_entities)} for image, labels in scenes])
    return scenes


def cater_with_masks(path: Path, num_films: int) -> list[tuple[NDArray, NDArray]]:
    """Write films of 33 frames with masks (33, 11, 64, 64, 1), compressed by zlib; returns their frames.

    Images and masks are one element each, and there are cameras and positions of the objects.
    """
    content, frames = io.BytesIO(), []
    for film in range(num_films):
        scenes = [labelled_scene(33 * film + frame, 64, 64, 11) for frame in range(33)]
        images = np.stack([image for image, _ in scenes])
        masks = np.stack([masks_of(labels, 11) for _, labels in scenes])
        numbers = {"camera_matrix": np.zeros((33, 4, 4), "<f4"), "object_positions": np.zeros((11, 33, 3), "<f4")}
        features = {
            name: delimited(1, delimited(1, value.tobytes())) for name, value in (("image", images), ("mask", masks))
        }
        features |= {name: delimited(2, delimited(1, value.tobytes())) for name, value in numbers.items()}
        entries = [delimited(1, delimited(1, name.encode()) + delimited(2, value)) for name, value in features.items()]
        RecordWriter(content).write(delimited(1, b"".join(entries)))
        frames += scenes
    path.write_bytes(zlib.compress(content.getvalue(), 1))
    return frames


def object_centric_library(path: Path, num_scenes: int, num_entities: int) -> list[tuple[NDArray, NDArray]]:
    """Write labels (N, H, W, 1), and a pickled file of metadata beside them, as the library does."""
    scenes = [labelled_scene(seed, 16, 16, num_entities) for seed in range(num_scenes)]
    with h5py.File(path, "w") as file:
        file["image"] = np.stack([image for image, _ in scenes])
        file["mask"] = np.stack([labels for _, labels in scenes])[..., None]
        file["visibility"] = np.ones((num_scenes, num_entities))
        file["num_actual_objects"] = np.full((num_scenes, 1), num_entities - 1)
    return scenes


def efficient_morl(path: Path, sizes: Mapping[str, int], masks: bool = True) -> list[tuple[NDArray, NDArray]]:
    """Write the groups train, val and test with imgs (N, H, W, C) and masks (N, E, H, W, 1)."""
    scenes = [labelled_scene(seed, 16, 16, 4) for seed in range(sum(sizes.values()))]
    rest = iter(scenes)
    with h5py.File(path, "w") as file:
        for split, size in sizes.items():
            chosen = [next(rest) for _ in range(size)]
            group = file.create_group(split)
            group["imgs"] = np.stack([image for image, _ in chosen])
            if masks:
                group["masks"] = np.stack([masks_of(labels, 4) for _, labels in chosen])
            group["factors"] = np.zeros((size, 3))
    return scenes


def _entities(image: NDArray, masks: NDArray, num_entities: int) -> dict[str, NDArray]:
    """Records with properties of the entities, which no reader here uses."""
    numbers = np.arange(num_entities, dtype=np.float32)
    return {"image": image, "mask": masks, "x": numbers, "y": numbers, "visibility": np.ones_like(numbers)}

"""Conversion of any known source to a file of scenes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from pyro_compvae.data.readers.resize import Crop, resize, square
from pyro_compvae.data.readers.sources import Source, SourcePart, open_source
from pyro_compvae.data.records import DataError, StoredScene
from pyro_compvae.data.scene_file.format import FileInfo, file_info
from pyro_compvae.data.scene_file.writing import write_scenes
from pyro_compvae.data.scenes import SPLITS

PUBLISHED_TRAIN = {"clevr_with_masks": 70_000, "objects_room_train": 100_000}
"""How many scenes the literature trains on, from the first of the file on; 60,000 for the other data sets."""
HELD_OUT = 1_000
CROPS = {
    "clevr": "rows 29 to 220 and columns 64 to 255, as is usual for CLEVR",
    "centre": "the central square",
}
MAX_SIDE = 4_096


@dataclass(frozen=True)
class ConvertConfig:
    """Settings of the conversion of a source to a file of scenes."""

    image_size: int | None = None
    """New side of the images in pixels; by default they keep their size."""
    crop: Crop | None = None
    """How images that are not square become square: by the central square, or by the usual crop of CLEVR's images of
    240x320 pixels; by default by the latter only if the source is CLEVR with masks itself."""
    max_objects: int | None = None
    """Scenes with more objects than this are left out; 6 turns CLEVR into CLEVR6."""
    num_train: int | None = None
    """Number of scenes to train on, from the first of the source on, counted before any are left out. By default 60,000
    of TFRecords (CLEVR 70,000), eight tenths of a source that is not divided into splits, and all of one that is."""
    num_validation: int | None = None
    """Number of scenes for evaluations during training, which follow those; by default 1,000 of TFRecords, and a tenth
    of other sources."""
    num_test: int | None = None
    """Number of unseen scenes, which follow those; by default as many as for validation, or all of a source that is
    divided into splits."""
    num_background: int | None = None
    """How many first labels of object-centric-library's files are background; by default 4 in Objects Room, else 1."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            least = 0 if name.startswith("num_") else 1
            if name != "crop" and value is not None and value < least:
                raise DataError(f"{name}: expected {least} or more, got {value}")
        if self.image_size is not None and self.image_size > MAX_SIDE:
            raise DataError(f"image_size: expected at most {MAX_SIDE} pixels, got {self.image_size}")


def convert(path: Path, target: Path, config: ConvertConfig, show: bool = False) -> FileInfo:
    """Convert a source; see `open_source` and `write_scenes`.

    Args:
        path: the source.
        target: the new file.
        config: the settings.
        show: whether to show progress.

    Raises:
        DataError: if the source is unknown, damaged, or has fewer scenes than asked for, or if the target exists.
    """
    source = open_source(path, config.num_background)
    crop = config.crop or source.crop

    def prepared(split: str, scenes: Iterable[StoredScene]) -> Iterator[StoredScene]:
        for scene in tqdm(scenes, split, unit="scene", disable=not show):
            if config.max_objects is not None and scene.num_objects is None:
                raise DataError(f"max_objects: expected scenes with masks, {path} has none")
            if config.max_objects is None or (scene.num_objects or 0) <= config.max_objects:
                yield resize(square(scene, crop), config.image_size)

    splits = {split: (origin, prepared(split, scenes)) for split, (origin, scenes) in divide(source, config).items()}
    name = source.name if config.max_objects is None else f"{source.name}, at most {config.max_objects} objects"
    notes = [*source.notes, f"images that are not square: cropped to {CROPS[crop]}"]
    write_scenes(
        target, name, splits, {"source": path.name, **dataclasses.asdict(config), "crop": crop, "notes": notes}
    )
    return file_info(target)


def divide(source: Source, config: ConvertConfig) -> dict[str, tuple[str, Iterable[StoredScene]]]:
    """The splits of a source: a phrase on the scenes' origin, and the scenes, which must be taken in this order.

    If a source is divided but has no validation scenes, the last of its training scenes are used for validation.

    Raises:
        DataError: if the source does not have a split that is asked for, or is known to have fewer scenes.
    """
    asked = {"train": config.num_train, "validation": config.num_validation, "test": config.num_test}
    given = {split: size for split, size in asked.items() if size is not None}
    if "all" in source.parts:
        part = source.parts["all"]
        return _cut(part, _default_sizes(source.name, part) | given)
    has = set(source.parts) | ({"validation"} if "train" in source.parts else set())
    if not set(given) <= has:
        raise DataError(
            f"{source.name}: expected numbers for {', '.join(sorted(has))}, which it is divided into, got some for "
            f"{', '.join(sorted(set(given) - has))} too"
        )
    splits: dict[str, tuple[str, Iterable[StoredScene]]] = {}
    for split, part in source.parts.items():
        sizes = {split: given.get(split, part.num_scenes)}
        if split == "train" and "validation" not in source.parts and part.num_scenes is not None:
            held_out = given.get("validation", part.num_scenes - part.num_scenes * 9 // 10)
            sizes = {"train": given.get("train", max(part.num_scenes - held_out, 0)), "validation": held_out}
        splits |= _cut(part, sizes)
    return splits


def _cut(part: SourcePart, sizes: Mapping[str, int | None]) -> dict[str, tuple[str, Iterable[StoredScene]]]:
    """Divide the scenes of a part into consecutive splits, from the first on; a size of None takes all."""
    for split, size in sizes.items():
        if size is not None and size % part.together:
            raise DataError(
                f"num_{split}: expected a multiple of {part.together}, since so many consecutive frames of "
                f"{part.origin} belong together, got {size:,}."
            )
    total = sum(size or 0 for size in sizes.values())
    if part.num_scenes is not None and total > part.num_scenes:
        raise DataError(
            f"{part.origin}: expected at most its {part.num_scenes:,} scenes for {', '.join(sizes)}, got {total:,}. "
            "Give smaller --num-train, --num-validation, --num-test."
        )
    scenes = part.scenes()
    splits: dict[str, tuple[str, Iterable[StoredScene]]] = {}
    start = 0
    for split, size in sizes.items():
        if size is None or (size == part.num_scenes and start == 0):
            splits[split] = (part.origin, scenes)
        elif size > 0:
            origin = f"scenes {start:,} to {start + size - 1:,} of {part.origin}"
            splits[split] = (origin, _take(scenes, size, split, part))
            start += size
    return splits


def _take(scenes: Iterator[StoredScene], size: int, split: str, part: SourcePart) -> Iterator[StoredScene]:
    taken = 0
    for scene in itertools.islice(scenes, size):
        taken += 1
        yield scene
    if taken < size:
        raise DataError(
            f"{part.origin}: expected {size:,} scenes for the split {split!r}, found {taken:,} left. "
            "Give --num-train, --num-validation and --num-test."
        )


def _default_sizes(name: str, part: SourcePart) -> dict[str, int]:
    if part.num_scenes is None:
        sizes = {"train": PUBLISHED_TRAIN.get(name, 60_000), "validation": HELD_OUT, "test": HELD_OUT}
        return {split: size - size % part.together for split, size in sizes.items()}
    tenth = min(max(part.num_scenes // 10, 1), HELD_OUT) if part.num_scenes >= len(SPLITS) else 0
    return {"train": part.num_scenes - 2 * tenth, "validation": tenth, "test": tenth}

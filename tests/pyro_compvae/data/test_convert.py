"""Sources become files of scenes, with splits, filter, crop and size."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import formats
from PIL import Image

from pyro_compvae.data import SceneSet, convert, read_scene_file
from pyro_compvae.data.convert import ConvertConfig
from pyro_compvae.data.readers.sources import Source, SourcePart
from pyro_compvae.data.records import DataError, StoredScene
from pyro_compvae.data.scene_file.format import FileInfo
from pyro_compvae.data.scene_file.reading import verify
from pyro_compvae.data.scenes import SPLITS
from pyro_compvae.data.solids.clevr_mv_writer import write_clevr_mv
from pyro_compvae.data.solids.scenes import solid_scenes

to_file = convert.convert


def origins(info: FileInfo) -> dict[str, tuple[int, str]]:
    return {split: (about.num_scenes, about.origin) for split, about in info.splits.items()}


def test_clevr6(tmp_path: Path) -> None:
    """Splits are counted before scenes are left out, as in the literature."""
    source = tmp_path / "clevr_with_masks_train.tfrecords"
    written = formats.clevr_with_masks(source, [3, 7, 6, 10, 5])
    config = ConvertConfig(image_size=64, max_objects=6, num_train=3, num_validation=0, num_test=2)
    info = to_file(source, tmp_path / "clevr6.h5", config)
    assert info.name == "clevr_with_masks, at most 6 objects"
    assert origins(info) == {
        "train": (2, f"scenes 0 to 2 of {source.name}"),
        "test": (1, f"scenes 3 to 4 of {source.name}"),
    }
    assert info.settings["max_objects"] == 6
    train = read_scene_file(tmp_path / "clevr6.h5", "train")
    assert train.num_objects.tolist() == [3, 6]
    image, labels = written[2]
    np.testing.assert_array_equal(train.labels[1], labels[29:221, 64:256][1::3, 1::3])
    blocks = image[29:221, 64:256].reshape(64, 3, 64, 3, 3).mean((1, 3))
    assert np.abs(train.images[1].movedim(0, -1).numpy() - blocks).max() <= 0.5 + 1e-6


def test_the_published_number_of_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(convert.PUBLISHED_TRAIN, "tetrominoes", 3)
    monkeypatch.setattr(convert, "HELD_OUT", 2)
    formats.tetrominoes(tmp_path / "a.tfrecords", 8)
    info = to_file(tmp_path / "a.tfrecords", tmp_path / "a.h5", ConvertConfig())
    assert origins(info) == {
        "train": (3, "scenes 0 to 2 of a.tfrecords"),
        "validation": (2, "scenes 3 to 4 of a.tfrecords"),
        "test": (2, "scenes 5 to 6 of a.tfrecords"),
    }


def test_frames_of_a_film_stay_in_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scenes() -> Iterator[StoredScene]:
        for number in range(9):
            yield StoredScene(np.full((4, 4, 3), number, np.uint8))

    film = Source("film", {"all": SourcePart("film", None, scenes, together=3)})
    monkeypatch.setattr(convert, "open_source", lambda path, background: film)
    monkeypatch.setitem(convert.PUBLISHED_TRAIN, "film", 5)
    monkeypatch.setattr(convert, "HELD_OUT", 4)
    info = to_file(tmp_path / "film", tmp_path / "a.h5", ConvertConfig())
    assert {split: about.num_scenes for split, about in info.splits.items()} == dict.fromkeys(SPLITS, 3)
    with pytest.raises(DataError, match=r"num_validation: expected a multiple of 3, since so many .* of film be"):
        to_file(tmp_path / "film", tmp_path / "b.h5", ConvertConfig(num_validation=2))


def test_the_crop_is_clevrs_only_for_clevr_or_if_asked(tmp_path: Path) -> None:
    """A photograph of CLEVR's size keeps its centre; the file says what became of it, and which files were used."""
    (tmp_path / "photos").mkdir()
    columns = np.broadcast_to(np.arange(320).astype(np.uint8)[:, None], (240, 320, 3))
    for number in range(3):
        Image.fromarray(columns).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "a.txt").write_text("no image")
    used = ("used: 3 images (3 .png)", "left out: 1 .txt (a.txt)")
    for crop, side, note in (
        (None, 240, "the central square"),
        ("clevr", 192, "rows 29 to 220 and columns 64 to 255, as is usual for CLEVR"),
    ):
        info = to_file(tmp_path / "photos", tmp_path / f"{crop}.h5", ConvertConfig(crop=crop))
        assert info.notes == (*used, f"images that are not square: cropped to {note}")
        assert read_scene_file(tmp_path / f"{crop}.h5", "train").images[0, 0, 0, 0] == (320 - side) // 2
        assert info.splits["train"].shapes["images"] == (1, side, side, 3)


def test_too_few_scenes(tmp_path: Path) -> None:
    formats.tetrominoes(tmp_path / "a.tfrecords", 2)
    with pytest.raises(
        DataError, match=r"a\.tfrecords: expected 60,000 scenes for the split 'train', found 2 left\. Give --n"
    ):
        to_file(tmp_path / "a.tfrecords", tmp_path / "a.h5", ConvertConfig())
    config = ConvertConfig(num_train=1, num_validation=1, num_test=1)
    with pytest.raises(DataError, match="expected 1 scenes for the split 'test', found 0 left"):
        to_file(tmp_path / "a.tfrecords", tmp_path / "a.h5", config)
    assert not list(tmp_path.glob("*.h5"))


def test_tenths_where_the_number_is_known(tmp_path: Path) -> None:
    formats.object_centric_library(tmp_path / "a.hdf5", 20, 3)
    info = to_file(tmp_path / "a.hdf5", tmp_path / "a.h5", ConvertConfig())
    assert {split: about.num_scenes for split, about in info.splits.items()} == {
        "train": 16,
        "validation": 2,
        "test": 2,
    }
    some = to_file(tmp_path / "a.hdf5", tmp_path / "b.h5", ConvertConfig(num_train=5))
    assert origins(some)["validation"] == (2, "scenes 5 to 6 of a.hdf5")


def test_divided_sources_hold_out_the_last_of_the_training_scenes(tmp_path: Path) -> None:
    written = formats.efficient_morl(tmp_path / "a.h5", {"train": 10, "test": 2})
    info = to_file(tmp_path / "a.h5", tmp_path / "b.h5", ConvertConfig())
    assert origins(info) == {
        "train": (9, "scenes 0 to 8 of train of a.h5"),
        "validation": (1, "scenes 9 to 9 of train of a.h5"),
        "test": (2, "test of a.h5"),
    }
    np.testing.assert_array_equal(read_scene_file(tmp_path / "b.h5", "validation").labels[0], written[9][1])
    info = to_file(tmp_path / "a.h5", tmp_path / "c.h5", ConvertConfig(num_train=4, num_test=1))
    assert {split: about.num_scenes for split, about in info.splits.items()} == {"train": 4, "validation": 1, "test": 1}
    formats.efficient_morl(tmp_path / "d.h5", {"train": 3, "val": 2, "test": 2})
    info = to_file(tmp_path / "d.h5", tmp_path / "e.h5", ConvertConfig())
    assert {split: about.num_scenes for split, about in info.splits.items()} == {"train": 3, "validation": 2, "test": 2}


def test_views_stay_together(tmp_path: Path) -> None:
    write_clevr_mv(tmp_path, "clevr_mv", {"train": solid_scenes("train", 3), "test": solid_scenes("test", 1)})
    info = to_file(tmp_path, tmp_path / "a.h5", ConvertConfig(image_size=16))
    assert info.name == "clevr_mv"
    assert {split: about.shapes["images"] for split, about in info.splits.items()} == {
        "train": (2, 6, 16, 16, 3),
        "validation": (1, 6, 16, 16, 3),
        "test": (1, 6, 16, 16, 3),
    }
    scenes = read_scene_file(tmp_path / "a.h5", "train")
    direct = SceneSet.from_scenes(convert.open_source(tmp_path).parts["train"].scenes())
    np.testing.assert_array_equal(scenes.viewpoints, direct.viewpoints[:2])
    assert scenes.num_objects.tolist() == direct.num_objects[:2].tolist()


def test_images_have_no_objects_to_count(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    info = to_file(tmp_path / "photos", tmp_path / "a.h5", ConvertConfig(num_validation=1, num_test=1, num_train=1))
    assert info.splits["train"].shapes == {"images": (1, 6, 6, 3)}
    with pytest.raises(DataError, match=r"max_objects: expected scenes with masks, .*photos has none"):
        to_file(tmp_path / "photos", tmp_path / "b.h5", ConvertConfig(num_train=1, max_objects=3))


def test_files_of_scenes_are_no_source(tmp_path: Path) -> None:
    formats.tetrominoes(tmp_path / "a.tfrecords", 1)
    to_file(tmp_path / "a.tfrecords", tmp_path / "a.h5", ConvertConfig(num_train=1, num_validation=0, num_test=0))
    with pytest.raises(DataError, match=r"a\.h5: expected data to convert, got a file that is converted already"):
        to_file(tmp_path / "a.h5", tmp_path / "b.h5", ConvertConfig())


@pytest.mark.parametrize(("name", "least"), [("num_train", 0), ("image_size", 1), ("max_objects", 1)])
def test_bad_numbers(name: str, least: int) -> None:
    with pytest.raises(DataError, match=f"{name}: expected {least} or more, got -1"):
        ConvertConfig(**{name: -1})


def test_sizes_that_cannot_be_had(tmp_path: Path) -> None:
    """Impossible sizes are refused before anything is converted, and no split is silently smaller than asked for."""
    formats.object_centric_library(tmp_path / "a.hdf5", 5, 3)
    with pytest.raises(DataError, match=r"a\.hdf5: expected at most its 5 scenes for train, validation, test, got 6"):
        to_file(tmp_path / "a.hdf5", tmp_path / "a.h5", ConvertConfig(num_train=4))
    formats.efficient_morl(tmp_path / "b.h5", {"train": 20})
    with pytest.raises(
        DataError, match=r"train of b\.h5: expected at most its 20 scenes for train, validation, got 22"
    ):
        to_file(tmp_path / "b.h5", tmp_path / "a.h5", ConvertConfig(num_train=20))
    with pytest.raises(DataError, match=r"expected numbers for train, validation, .* got some for test too"):
        to_file(tmp_path / "b.h5", tmp_path / "a.h5", ConvertConfig(num_test=1))
    with pytest.raises(DataError, match="splits: expected train, validation, test or some of them, got none"):
        to_file(tmp_path / "a.hdf5", tmp_path / "a.h5", ConvertConfig(num_train=0, num_validation=0, num_test=0))
    assert not (tmp_path / "a.h5").exists()


def test_three_scenes_are_a_scene_for_each_split(tmp_path: Path) -> None:
    formats.object_centric_library(tmp_path / "a.hdf5", 3, 3)
    info = to_file(tmp_path / "a.hdf5", tmp_path / "a.h5", ConvertConfig())
    assert {split: about.num_scenes for split, about in info.splits.items()} == {"train": 1, "validation": 1, "test": 1}


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
from pyro_compvae.data.convert import ConvertConfig, convert
source, target, delay, number = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
def strike():
    while not any(target.parent.iterdir()):  # until it writes
        time.sleep(0.001)
    time.sleep(delay)
    for _ in range(3):
        os.kill(os.getpid(), number)
threading.Thread(target=strike, daemon=True).start()
try:
    convert(source, target, ConvertConfig())
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, number: int) -> None:
    """Signals may come anywhere, also within HDF5."""
    (tmp_path / "source").mkdir()
    formats.object_centric_library(tmp_path / "source" / "a.hdf5", 3_000, 3)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "a.h5"
    codes = set()
    for delay in (0.0, 0.1):
        command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "source" / "a.hdf5"), str(target)]
        run = subprocess.run([*command, str(delay), str(int(number))], capture_output=True, text=True, check=False)
        codes.add(run.returncode)
        if target.exists():  # the signal came late
            verify(target)
            target.unlink()
        assert not list(target.parent.iterdir()), run.stderr
    assert codes <= {0, 130, -number}
    assert 130 in codes

"""Public formats: scenes written by code that is not ours are read correctly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import formats
from numpy.typing import NDArray

from pyro_compvae.data.readers.sources import open_source
from pyro_compvae.data.records import DataError, StoredScene

Scenes = list[tuple[NDArray, NDArray]]


def check(read: list[StoredScene], written: Scenes, num_background: int = 1) -> None:
    """Assert that images and labels are those written, where the first entities are the background."""
    assert len(read) == len(written) > 0
    for scene, (image, labels) in zip(read, written, strict=True):
        np.testing.assert_array_equal(scene.image, image)
        np.testing.assert_array_equal(scene.labels, np.maximum(labels - (num_background - 1), 0))
        assert scene.labels is not None
        assert scene.labels.dtype == scene.image.dtype == np.uint8
        assert scene.num_objects == labels.max() - (num_background - 1)
        assert scene.viewpoints is None


@pytest.mark.parametrize(
    ("name", "write", "background"),
    [
        ("tetrominoes", lambda path: formats.tetrominoes(path, 3), 1),
        ("multi_dsprites_colored_on_grayscale", lambda path: formats.multi_dsprites(path, 2, 6), 1),
        ("multi_dsprites_colored_on_colored", lambda path: formats.multi_dsprites(path, 2, 5), 1),
        ("clevr_with_masks", lambda path: formats.clevr_with_masks(path, [10, 10]), 1),
        ("objects_room_train", lambda path: formats.objects_room(path, 2, 7), 4),
    ],
)
@pytest.mark.parametrize("keeps_its_name", [True, False])
def test_multi_object_datasets(
    tmp_path: Path, name: str, write: Callable[[Path], Scenes], background: int, keeps_its_name: bool
) -> None:
    path = tmp_path / (f"{name}_train.tfrecords" if keeps_its_name else "renamed.bin")
    written = write(path)
    source = open_source(path)
    assert source.name == name
    (part,) = source.parts.values()
    assert (list(source.parts), part.origin, part.num_scenes) == (["all"], path.name, None)
    check(list(part.scenes()), written, background)


def test_binarized_dsprites_are_white_on_black(tmp_path: Path) -> None:
    path = tmp_path / "multi_dsprites_binarized.tfrecords"
    ((image, labels),) = formats.multi_dsprites(path, 1, 4, channels=1)
    source = open_source(path)
    assert source.name == "multi_dsprites_binarized"
    (scene,) = source.parts["all"].scenes()
    np.testing.assert_array_equal(scene.image, np.repeat(image[..., :1], 3, axis=-1))
    np.testing.assert_array_equal(scene.labels, labels)


def test_test_sets_of_objects_room(tmp_path: Path) -> None:
    """Two test sets have ten masks, so the name of the file tells them apart; all their scenes are for testing."""
    for name in ("objects_room_test_six_objects", "objects_room_test_identical_color"):
        written = formats.objects_room(tmp_path / f"{name}.tfrecords", 2, 10)
        source = open_source(tmp_path / f"{name}.tfrecords")
        assert (source.name, list(source.parts)) == (name, ["test"])
        check(list(source.parts["test"].scenes()), written, 4)


def test_frames_of_cater(tmp_path: Path) -> None:
    """CATER's shards are compressed by zlib, and every frame of a film is a scene."""
    shards = [tmp_path / f"cater_with_masks_train.tfrecords-{i:05}-of-00100" for i in range(2)]
    written = [formats.cater_with_masks(path, films) for path, films in zip(shards, (1, 1), strict=True)]
    source = open_source(shards[0])
    assert (source.name, list(source.parts), source.parts["all"].together) == ("cater_with_masks", ["all"], 33)
    check(list(source.parts["all"].scenes()), written[0])

    (tmp_path / "._a.tfrecords").write_bytes(b"of macOS")
    whole = open_source(tmp_path)
    assert whole.parts["all"].origin == f"the files {shards[0].name} to {shards[1].name}"
    assert whole.notes == ("used: 2 files of TFRecords, by name", "left out: 1 no TFRecords (._a.tfrecords)")
    check(list(whole.parts["all"].scenes()), written[0] + written[1])

    shards[1].rename(tmp_path / "cater_with_masks_test.tfrecords-00000-of-00100")
    assert list(open_source(tmp_path / "cater_with_masks_test.tfrecords-00000-of-00100").parts) == ["test"]
    with pytest.raises(DataError, match="expected TFRecords of one split of one data set, found some for training and"):
        open_source(tmp_path)
    formats.tetrominoes(tmp_path / "tetrominoes_train.tfrecords", 1)
    with pytest.raises(DataError, match="of one data set, found cater_with_masks and tetrominoes"):
        open_source(tmp_path)

    content = shards[0].read_bytes()
    for damaged, message in (
        (content[:-2000], "a compressed stream that ends"),
        (content[:99] + b"?" * 99 + content[198:], "Error -3"),
    ):
        shards[0].write_bytes(damaged)
        with pytest.raises(DataError, match=f"00000-of-00100: record .: expected sound gzip or zlib, got {message}"):
            list(open_source(shards[0]).parts["all"].scenes())


def test_lengths_that_look_like_zlib(tmp_path: Path) -> None:
    """A record of 376 bytes begins with the bytes of a zlib stream, and is a record all the same."""
    path = tmp_path / "a.bin"
    with path.open("wb") as file:
        formats.RecordWriter(file).write(bytes(376))
    assert path.read_bytes()[:2] == b"\x78\x01"
    with pytest.raises(DataError, match=r"record 0: expected a tf\.train\.Example, got other content"):
        open_source(path)


def test_objects_without_a_pixel_do_not_count(tmp_path: Path) -> None:
    formats.tetrominoes(tmp_path / "a.tfrecords", 1, num_entities=3)
    (scene,) = open_source(tmp_path / "a.tfrecords").parts["all"].scenes()
    assert scene.num_objects == 2


def test_records_need_no_compression_and_bytes_no_division(tmp_path: Path) -> None:
    """TFRecords may come from other tools, in which an image is one element."""
    image, labels = formats.labelled_scene(0, 35, 35, 4)
    features = {"image": image, "mask": formats.masks_of(labels, 4)}
    entries = [
        formats.delimited(1, formats.delimited(1, name.encode()) + formats.delimited(2, feature))
        for name, feature in [
            *(
                (name, formats.delimited(1, formats.delimited(1, values.tobytes())))
                for name, values in features.items()
            ),
            ("x", formats.delimited(2, formats.delimited(1, np.zeros(4, "<f4").tobytes()))),
        ]
    ]
    path = tmp_path / "plain.tfrecords"
    with path.open("wb") as file:
        formats.RecordWriter(file).write(formats.delimited(1, b"".join(entries)))
    check(list(open_source(path).parts["all"].scenes()), [(image, labels)])


@pytest.mark.parametrize(("name", "background"), [("multidsprites-train", 1), ("objects_room-train", 4)])
def test_object_centric_library(tmp_path: Path, name: str, background: int) -> None:
    path = tmp_path / f"{name}.hdf5"
    written = formats.object_centric_library(path, 3, 6)
    with h5py.File(path, "a") as file:
        file["num_actual_objects"][:] = 6 - background
    source = open_source(path)
    assert (source.name, source.parts["all"].num_scenes) == (name, 3)
    check(list(source.parts["all"].scenes()), written, background)
    with h5py.File(path, "a") as file:
        del file["num_actual_objects"]
    check(list(open_source(path).parts["all"].scenes()), written, background)
    check(list(open_source(path, num_background=2).parts["all"].scenes()), written, 2)


def test_efficient_morl(tmp_path: Path) -> None:
    path = tmp_path / "tetrominoes.h5"
    written = formats.efficient_morl(path, {"train": 3, "val": 1, "test": 2})
    source = open_source(path)
    assert {split: part.num_scenes for split, part in source.parts.items()} == {"train": 3, "validation": 1, "test": 2}
    check([scene for part in source.parts.values() for scene in part.scenes()], written)


def test_groups_by_other_names(tmp_path: Path) -> None:
    """Splits are found by whatever name is usual, and groups that are not read are named."""
    written = formats.efficient_morl(tmp_path / "a.h5", {"Train": 2, "valid": 1, "held_out": 1})
    source = open_source(tmp_path / "a.h5")
    assert {split: part.origin for split, part in source.parts.items()} == {
        "train": "Train of a.h5",
        "validation": "valid of a.h5",
    }
    assert source.notes == ("left out: held_out",)
    check([scene for part in source.parts.values() for scene in part.scenes()], written[:3])
    formats.efficient_morl(tmp_path / "b.h5", {"val": 2, "valid": 1})
    with pytest.raises(DataError, match=r"expected one group for validation, found valid and val of b\.h5"):
        open_source(tmp_path / "b.h5")


def test_only_clevr_gets_its_crop(tmp_path: Path) -> None:
    formats.clevr_with_masks(tmp_path / "a.tfrecords", [3])
    formats.tetrominoes(tmp_path / "b.tfrecords", 1)
    for name in ("clevr_10-full.hdf5", "photos.hdf5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["image"] = np.zeros((1, 240, 320, 3), np.uint8)
            file["mask"] = np.zeros((1, 240, 320, 1), np.uint8)
    found = {path.name: open_source(path).crop for path in sorted(tmp_path.iterdir())}
    clevr, others = ("a.tfrecords", "clevr_10-full.hdf5"), ("b.tfrecords", "photos.hdf5")
    assert found == dict.fromkeys(clevr, "clevr") | dict.fromkeys(others, "centre")


def test_efficient_morl_without_masks(tmp_path: Path) -> None:
    formats.efficient_morl(tmp_path / "a.h5", {"train": 2}, masks=False)
    scenes = list(open_source(tmp_path / "a.h5").parts["train"].scenes())
    assert [(scene.labels, scene.num_objects) for scene in scenes] == [(None, None)] * 2


def test_what_is_missing_or_unknown_says_where_to_get_data(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    for path, message in [
        (tmp_path / "nowhere", "expected a file or folder of data, found nothing"),
        (tmp_path / "notes.txt", "expected TFRecords or HDF5, got a file of another kind"),
        (tmp_path, r"expected images \(.png, .*\) in it .*; found none; left out: 1 \.txt \(notes\.txt\)\. Known are"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            open_source(path)
        for where in ("storage.googleapis.com/multi-object-datasets", "addtt/object-centric-library", "zenodo.4895643"):
            assert where in str(caught.value)


@pytest.mark.parametrize(
    ("message", "features"),
    [
        (
            "expected the features of one of tetrominoes, .*, got byte features of the lengths {'image': 12}",
            {"image": 12},
        ),
        ("got byte features of the lengths {}", {}),
        ("lengths {'image': 3675, 'mask': 100}", {"image": 3675, "mask": 100}),
    ],
)
def test_records_of_other_data(tmp_path: Path, message: str, features: dict[str, int]) -> None:
    content = {name: np.zeros(length, np.uint8) for name, length in features.items()}
    formats.write_tfrecords(tmp_path / "a.tfrecords", [content | {"x": np.zeros(2, np.float32)}])
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "a.tfrecords")


def test_a_record_of_another_layout_within(tmp_path: Path) -> None:
    image, labels = formats.labelled_scene(0, 35, 35, 4)
    good = {"image": image, "mask": formats.masks_of(labels, 4), "x": np.zeros(4, np.float32)}
    formats.write_tfrecords(tmp_path / "a.tfrecords", [good, good | {"mask": np.zeros(7, np.uint8)}])
    scenes = open_source(tmp_path / "a.tfrecords").parts["all"].scenes()
    next(scenes)
    with pytest.raises(DataError, match=r"record 1: expected the features of tetrominoes, got others"):
        next(scenes)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"/mask: expected an array \(N, H, W, 1\), found none", {"mask": None}),
        (r"/mask: expected \(2, 16, 16\) labels, got \(2, 8, 16, 1\)", {"mask": np.zeros((2, 8, 16, 1))}),
        (r"/mask: scene 0: expected whole numbers from 0 to 255, got others", {"mask": np.full((2, 16, 16, 1), -1)}),
        (r"/mask: scene 0: expected whole numbers from 0 to 255, got others", {"mask": np.full((2, 16, 16, 1), 1.7)}),
        (r"/image: expected \(N, H, W, C\) of kind 'u', got .* float64", {"image": np.zeros((2, 16, 16, 3))}),
        (r"/image: expected 1, 3 or 4 channels, got 2", {"image": np.zeros((2, 16, 16, 2), np.uint8)}),
        (r"/num_actual_objects: expected 2 counts, got \[-1. nan\]", {"num_actual_objects": np.array([-1, np.nan])}),
        (r"/num_actual_objects: expected 2 counts", {"num_actual_objects": np.ones(3)}),
    ],
)
def test_malformed_object_centric_library(tmp_path: Path, message: str, change: dict[str, NDArray | None]) -> None:
    path = tmp_path / "a.hdf5"
    formats.object_centric_library(path, 2, 3)
    with h5py.File(path, "a") as file:
        for name, value in change.items():
            del file[name]
            if value is not None:
                file[name] = value
    with pytest.raises(DataError, match=message):
        list(open_source(path).parts["all"].scenes())


@pytest.mark.parametrize(
    ("message", "name", "value"),
    [
        (r"masks of .*: expected \(N, E, H, W, 1\) for \(2, 16, 16, 3\), got", "masks", np.zeros((2, 4, 8, 8, 1))),
        (r"/train/masks: expected \(N, E, H, W, 1\) of kind 'uif', got \(2, 4\)", "masks", np.zeros((2, 4))),
        (r"/train/imgs: scene 0: expected whole numbers from 0 to 255", "imgs", np.full((2, 16, 16, 3), np.nan)),
        (r"/train/imgs: scene 0: expected whole numbers from 0 to 255", "imgs", np.full((2, 16, 16, 3), 0.3)),
        (
            r"/train/imgs: .* got floating-point ones from 0 to 1\. Multiply them by 255",
            "imgs",
            np.ones((2, 16, 16, 3)),
        ),
    ],
)
def test_malformed_efficient_morl(tmp_path: Path, message: str, name: str, value: NDArray) -> None:
    path = tmp_path / "a.h5"
    formats.efficient_morl(path, {"train": 2})
    with h5py.File(path, "a") as file:
        del file["train"][name]
        file["train"][name] = value
    with pytest.raises(DataError, match=message):
        list(open_source(path).parts["train"].scenes())


def test_hdf5_of_something_else(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(
        DataError, match="expected the array 'image', or groups train, val, test with 'imgs', found nei"
    ):
        open_source(tmp_path / "a.h5")


def test_objects_room_is_told_apart_by_its_name_only(tmp_path: Path) -> None:
    formats.objects_room(tmp_path / "mine.tfrecords", 1, 10)
    with pytest.raises(
        DataError, match="expected the name that the file was published with, such as objects_room_test_six"
    ):
        open_source(tmp_path / "mine.tfrecords")


def test_a_background_that_is_known(tmp_path: Path) -> None:
    formats.tetrominoes(tmp_path / "a.tfrecords", 1)
    formats.efficient_morl(tmp_path / "a.h5", {"train": 1})
    for path in (tmp_path / "a.tfrecords", tmp_path / "a.h5"):
        with pytest.raises(DataError, match=r"num_background: expected none for .*, whose background is known, got 2"):
            open_source(path, num_background=2)

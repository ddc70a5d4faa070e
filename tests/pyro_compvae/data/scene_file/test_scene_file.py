"""Files of scenes: the scenes read are those written, and damage is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pyro_compvae.data.records import DataError, StoredScene
from pyro_compvae.data.scene_file import format as scene_format
from pyro_compvae.data.scene_file.format import file_info
from pyro_compvae.data.scene_file.reading import read_scene_file, verify
from pyro_compvae.data.scene_file.writing import write_scenes


def stored(count: int, *views: int, size: int = 8, masks: bool = True) -> list[StoredScene]:
    rng = np.random.default_rng(count)
    scenes = []
    for number in range(count):
        image = rng.integers(0, 256, (*views, size, size, 3), dtype=np.uint8)
        viewpoints = rng.random((*views, 3), dtype=np.float32) if views else None
        labels = rng.integers(0, 3, (*views, size, size), dtype=np.uint8)
        scenes.append(
            StoredScene(image, labels, number, viewpoints) if masks else StoredScene(image, None, None, viewpoints)
        )
    return scenes


@pytest.mark.parametrize("views", [(), (3,)], ids=["images", "views"])
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "plain"])
def test_round_trip(tmp_path: Path, views: tuple[int, ...], masks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_format, "CHUNK_BYTES", 2 * 8 * 8 * 3)  # two images, or less than a scene of three views
    path = tmp_path / "a.h5"
    splits = {"train": stored(5, *views, masks=masks), "test": stored(2, *views, masks=masks)}
    write_scenes(path, "noise", {name: (f"the {name} ones", scenes) for name, scenes in splits.items()}, {"a": 1})
    info = verify(path)
    assert (info.name, info.settings, list(info.splits)) == ("noise", {"a": 1}, ["train", "test"])
    for name, scenes in splits.items():
        read = read_scene_file(path, name)
        assert len(read) == info.splits[name].num_scenes == len(scenes)
        assert read.origin == f"noise: the {name} ones (sha256 {info.splits[name].sha256[:16]})"
        for i, scene in enumerate(scenes):
            assert torch.equal(read.images[i].movedim(-3, -1), torch.from_numpy(scene.image))
            if masks:
                assert read.labels is not None
                assert torch.equal(read.labels[i], torch.from_numpy(scene.labels))
                assert read.num_objects[i] == i
            if views:
                assert torch.equal(read.viewpoints[i], torch.from_numpy(scene.viewpoints))
        assert (read.labels is None) == (not masks)
        small = read_scene_file(path, name, image_size=4)
        assert small.image_size == (4, 4)
        expected = torch.nn.functional.avg_pool2d(read.images.flatten(0, -4).double(), 2).view(small.images.shape)
        assert (small.images - expected).abs().max() <= 0.5


def test_the_same_scenes_have_the_same_checksum_and_others_another(tmp_path: Path) -> None:
    digests = []
    for number, scenes in enumerate([stored(3), stored(3), stored(4), stored(3, masks=False)]):
        write_scenes(tmp_path / f"{number}.h5", "noise", {"train": (str(number), scenes)}, {})
        digests.append(file_info(tmp_path / f"{number}.h5").splits["train"].sha256)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_files_are_seekable_compressed_and_checksummed(tmp_path: Path) -> None:
    flat = [StoredScene(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8), 0) for _ in range(200)]
    write_scenes(tmp_path / "a.h5", "flat", {"train": ("", flat)}, {})
    assert (tmp_path / "a.h5").stat().st_size < 200 * 64 * 64 * 3 / 50
    with h5py.File(tmp_path / "a.h5") as file:
        images = file["train/images"]
        assert images.chunks[0] * 64 * 64 * 3 <= scene_format.CHUNK_BYTES
        assert images.id.get_num_chunks() > 1
        assert images.fletcher32


def test_nothing_is_overwritten_and_nothing_left_half_done(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_scenes(path, "noise", {"train": ("", stored(2))}, {})
    with pytest.raises(DataError, match=r"a\.h5: expected a new file, found one\. .*; nothing was overwritten"):
        write_scenes(path, "noise", {"train": ("", stored(3))}, {})
    for message, scenes in [
        ("split 'train': scenes: expected one scene or more, got none", []),
        (
            r"images: expected one shape of all scenes, got \(4, 4, 3\), \(8, 8, 3\)\. .* image_size",
            stored(2) + stored(1, size=4),
        ),
        ("labels: expected the same of all scenes, got 1 without", stored(2) + stored(1, masks=False)),
    ]:
        with pytest.raises(DataError, match=message):
            write_scenes(tmp_path / "b.h5", "noise", {"train": ("", scenes)}, {})
    with pytest.raises(DataError, match="splits: expected train, validation, test or some of them, got val"):
        write_scenes(tmp_path / "b.h5", "noise", {"val": ("", stored(1))}, {})
    with pytest.raises(DataError, match=r"expected a file in a folder that exists, found no .*nowhere"):
        write_scenes(tmp_path / "nowhere" / "b.h5", "noise", {"train": ("", stored(1))}, {})
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]


def test_shapes_that_change_between_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_format, "CHUNK_BYTES", 8 * 8 * 3)
    for scenes in (stored(2) + stored(1, size=4), stored(2) + stored(1, masks=False)):
        with pytest.raises(DataError, match=r"expected one shape of all scenes, got {.*images.*} and {"):
            write_scenes(tmp_path / "b.h5", "noise", {"train": ("", scenes)}, {})


def drop(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


def put(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = value

    return change


def attribute(group: str, name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file[group].attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (
            r"expected a file of scenes, got other HDF5\. `compvae data convert` makes one",
            attribute("/", "format", "x"),
        ),
        (r"expected version 1 of the format, got 9", attribute("/", "version", 9)),
        (r"/: expected a text 'name', got int64", attribute("/", "name", 3)),
        (r"settings: expected JSON, got", attribute("/", "settings", "{")),
        (r"settings: expected JSON, got", attribute("/", "settings", "[" * 20_000)),
        (r"expected the splits train, validation, test or some of them, got \['more', 'train'\]", put("more", 1)),
        (r"/train: expected a text 'sha256'", attribute("train", "sha256", np.zeros(3))),
        (r"/train: expected a group of arrays", put("train", 1)),
        (r"/train/images: expected an array .*, found none", drop("train/images")),
        (
            r"/train/images: expected \(3, 8, 8, 3\) uint8, got \(3, 8, 8, 2\)",
            put("train/images", np.ones((3, 8, 8, 2), "u1")),
        ),
        (
            r"/train/labels: expected \(3, 8, 8\) uint8, got \(3, 8, 7\)",
            put("train/labels", np.ones((3, 8, 7), np.uint8)),
        ),
        (r"/train/num_objects: expected \(3,\) int64, got \(3,\) float", put("train/num_objects", np.ones(3))),
        (r"/train: expected labels with num_objects, and viewpoints with several views", drop("train/labels")),
        (r"/train: expected labels with num_objects, and view.*views", put("train/viewpoints", np.ones((3, 3), "f4"))),
        (r"train: expected scenes of the recorded SHA-256, got others", put("train/num_objects", np.arange(1, 4))),
        (r"/train/images is a link, which may point out of the file", put("train/images", h5py.ExternalLink("b", "c"))),
        (r"/soft is a link, which may point out of the file", put("soft", h5py.SoftLink("/train"))),
    ],
)
def test_what_is_no_file_of_scenes(tmp_path: Path, message: str, change: Callable[[h5py.File], None]) -> None:
    path = tmp_path / "a.h5"
    write_scenes(path, "noise", {"train": ("", stored(3))}, {})
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(DataError, match=message):
        verify(path)


def test_values_kept_elsewhere_are_not_read(tmp_path: Path) -> None:
    """An HDF5 file may refer to any file of the system for its values."""
    (tmp_path / "secret").write_bytes(bytes(3 * 8 * 8 * 3))
    path = tmp_path / "a.h5"
    write_scenes(path, "noise", {"train": ("", stored(3))}, {})
    with h5py.File(path, "a") as file:
        del file["train/images"]
        external = [(str(tmp_path / "secret"), 0, 3 * 8 * 8 * 3)]
        file["train"].create_dataset("images", (3, 8, 8, 3), "u1", external=external)
    with pytest.raises(DataError, match="/train/images keeps its values outside of the file"):
        read_scene_file(path, "train")


def test_more_values_than_the_file_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_scenes(path, "noise", {"train": ("", stored(3))}, {})
    with h5py.File(path, "a") as file:
        del file["train/images"]
        file["train"].create_dataset("images", (10**9, 64, 64, 3), "u1", chunks=(1, 64, 64, 3), compression="gzip")
    with pytest.raises(
        DataError, match=r"expected no more values than the file can hold, got \(1000000000, 64, 64, 3\)"
    ):
        read_scene_file(path, "train")


def test_more_than_the_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 10)
    write_scenes(tmp_path / "a.h5", "noise", {"train": ("", stored(3))}, {})
    with pytest.raises(DataError, match=r"expected scenes that fit into memory, 0 GiB, .*--num-train"):
        read_scene_file(tmp_path / "a.h5", "train")


def test_a_damaged_chunk(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_scenes(path, "noise", {"train": ("", stored(3))}, {})
    with h5py.File(path) as file:
        where = file["train/images"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[where + 40] ^= 1
    path.write_bytes(content)
    assert file_info(path).splits["train"].num_scenes == 3
    for read in (verify, lambda path: read_scene_file(path, "train")):
        with pytest.raises(DataError, match=r"/train/images: expected sound values, but they cannot be read"):
            read(path)


def test_missing_files_and_splits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.h5: expected an HDF5 file, found no such file"):
        read_scene_file(tmp_path / "nowhere.h5", "train")
    write_scenes(tmp_path / "a.h5", "noise", {"train": ("", stored(1))}, {})
    with pytest.raises(DataError, match=r"expected a split 'test', found train"):
        read_scene_file(tmp_path / "a.h5", "test")

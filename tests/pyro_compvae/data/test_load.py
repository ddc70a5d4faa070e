"""The scenes of a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_compvae.data import DataError, StoredScene, load_scenes, read_clevr_mv, write_scenes
from pyro_compvae.data.convert import ConvertConfig, convert
from pyro_compvae.errors import ConfigError
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import DataConfig, DatasetName


def test_sprites_have_the_asked_sizes_and_splits_differ() -> None:
    config = DataConfig(image_size=16, num_train=20, num_test=10)
    train, validation, test = (load_scenes(config, split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (20, 10, 10)
    assert train.image_size == (16, 16)
    assert not torch.equal(train.images[:10], test.images)
    assert not torch.equal(validation.images, test.images)


@pytest.mark.parametrize(("name", "side"), [("tetrominoes", 35), ("multi-dsprites", 64), ("multi-dsprites-colour", 64)])
def test_benchmarks_have_their_published_size_and_no_other(name: DatasetName, side: int) -> None:
    config = DataConfig(name, image_size=side, num_train=6, num_test=4)
    train, validation, test = (load_scenes(config, split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (6, 4, 4)
    assert train.image_size == (side, side)
    assert not torch.equal(validation.images, test.images)
    with pytest.raises(ConfigError, match=rf"image_size: expected {side} for {name}, .* got 24"):
        DataConfig(name)
    with pytest.raises(DataError, match=f"{name} have no cameras; MulMON needs --dataset solids"):
        load_scenes(config, "train", multi_view=True)
    for guide in ("iodine", "monet"):
        assert build_guide(preset("default", guide, name)).model.image_size == (side, side)


def test_solids_are_views_or_images() -> None:
    config = DataConfig(name="solids", image_size=16, num_train=3, num_test=2, num_views=4)
    for split, size in (("train", 3), ("validation", 2), ("test", 2)):
        views = load_scenes(config, split, multi_view=True)
        assert views.images.shape == (size, 4, 3, 16, 16)
        images = load_scenes(config, split)
        assert torch.equal(images.images, views.images.flatten(0, 1))


def write_clevr_mv(root: Path, num_scenes: int) -> None:
    """Write a training split of scenes with two views and one object, whose colour is 10 * scene + view."""
    (root / "clevr_mv").mkdir()
    for number in range(num_scenes):
        colours = np.array([10 * number, 10 * number + 1], dtype=np.uint8)
        images = np.broadcast_to(colours[:, None, None, None], (2, 4, 4, 3))
        with (root / "clevr_mv" / f"{number}.npy").open("wb") as file:
            np.savez(file, images=images, masks=np.ones((2, 4, 4, 2), dtype=np.uint8))
    camera = {"location": [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]}
    scenes = [{"data_path": f"{i}.npy", "depth_orders": [[0], [0]], "camera": camera} for i in range(num_scenes)]
    (root / "clevr_mv" / "clevr_mv_train.json").write_text(json.dumps({"scenes": scenes}))


def test_the_last_tenth_of_the_training_scenes_is_held_out(tmp_path: Path) -> None:
    write_clevr_mv(tmp_path, num_scenes=11)
    config = DataConfig(name="clevr-mv", root=str(tmp_path), image_size=4)
    train = load_scenes(config, "train", multi_view=True)
    validation = load_scenes(config, "validation", multi_view=True)
    assert train.images[:, :, 0, 0, 0].tolist() == [[10 * i, 10 * i + 1] for i in range(9)]
    assert validation.images[:, :, 0, 0, 0].tolist() == [[90, 91], [100, 101]]
    images = load_scenes(config, "validation")
    assert images.num_views is None
    assert images.images[:, 0, 0, 0].tolist() == [90, 91, 100, 101]


def test_one_scene_cannot_be_split(tmp_path: Path) -> None:
    write_clevr_mv(tmp_path, num_scenes=1)
    with pytest.raises(DataError, match=r"clevr_mv_train\.json .*: expected at least two scenes, .* got one"):
        load_scenes(DataConfig(name="clevr-mv", root=str(tmp_path), image_size=4), "train")


def test_sprites_have_no_views() -> None:
    with pytest.raises(DataError, match="sprites have no cameras; MulMON needs --dataset solids, clevr-mv or dolphin"):
        load_scenes(DataConfig(), "train", multi_view=True)


def test_one_view_leaves_nothing_to_query() -> None:
    config = DataConfig(name="solids", image_size=16, num_train=1, num_views=1)
    with pytest.raises(
        DataError, match=r"expected scenes of at least 2 views, .* got 1\. MONet and IODINE do with one"
    ):
        load_scenes(config, "train", multi_view=True)
    assert load_scenes(config, "train").images.shape == (1, 3, 16, 16)


def test_data_on_disk_need_a_root() -> None:
    with pytest.raises(DataError, match=r"data.root: expected the folder that holds clevr_aug/, got nothing.*MulMON"):
        load_scenes(DataConfig(name="dolphin"), "train")


def test_files_of_scenes_are_views_or_images(tmp_path: Path) -> None:
    write_clevr_mv(tmp_path, num_scenes=10)
    (tmp_path / "clevr_mv" / "clevr_mv_test.json").write_text(
        (tmp_path / "clevr_mv" / "clevr_mv_train.json").read_text()
    )
    convert(tmp_path, tmp_path / "a.h5", ConvertConfig())
    config = DataConfig(name="file", root=str(tmp_path / "a.h5"), image_size=2)
    for split, size in (("train", 9), ("validation", 1), ("test", 10)):
        views = load_scenes(config, split, multi_view=True)
        assert views.images.shape == (size, 2, 3, 2, 2)
        assert len(load_scenes(config, split)) == 2 * size
    direct = read_clevr_mv(tmp_path, "clevr_mv", "test", 2)
    assert torch.equal(views.images, direct.images)
    assert views.stored_sizes == direct.stored_sizes == ((4, 4),)


def test_files_of_images_have_no_views(tmp_path: Path) -> None:
    write_scenes(tmp_path / "a.h5", "grey", {"train": ("", [StoredScene(np.zeros((4, 4, 3), np.uint8))])}, {})
    config = DataConfig(name="file", root=str(tmp_path / "a.h5"), image_size=4)
    assert load_scenes(config, "train").labels is None
    with pytest.raises(
        DataError, match="expected scenes of at least 2 views, one to observe and one to query, got None"
    ):
        load_scenes(config, "train", multi_view=True)

"""The scenes of a configuration."""

from __future__ import annotations

import pytest
import torch

from pyro_compvae.config import DataConfig
from pyro_compvae.data import DataError, SceneSet, load_scenes


def test_sprites_have_the_asked_sizes_and_splits_differ() -> None:
    config = DataConfig(image_size=16, num_train=20, num_test=10)
    train, validation, test = (load_scenes(config, split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (20, 10, 10)
    assert train.image_size == (16, 16)
    assert not torch.equal(train.images[:10], test.images)
    assert not torch.equal(validation.images, test.images)


def test_data_on_disk_need_a_root() -> None:
    with pytest.raises(DataError, match=r"--data-root: expected the folder that holds clevr_aug/, got nothing.*MulMON"):
        load_scenes(DataConfig(name="dolphin"), "train")


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"images: expected \(N, 3, H, W\) uint8, got \(2, 3, 4, 4\) float32", {"images": torch.zeros(2, 3, 4, 4)}),
        (r"labels: expected \(2, 4, 4\) uint8, got \(2, 4, 5\)", {"labels": torch.zeros(2, 4, 5, dtype=torch.uint8)}),
        (r"num_objects: expected \(2,\), got \(3,\)", {"num_objects": torch.zeros(3, dtype=torch.int64)}),
        (r"viewpoints: expected \(2, 3\), got \(2, 2\)", {"viewpoints": torch.zeros(2, 2)}),
    ],
)
def test_malformed_scene_sets_are_named(message: str, change: dict) -> None:
    content = {
        "images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "labels": torch.zeros(2, 4, 4, dtype=torch.uint8),
        "num_objects": torch.zeros(2, dtype=torch.int64),
        "viewpoints": torch.zeros(2, 3),
    }
    assert SceneSet(**content)[1].viewpoint is not None
    with pytest.raises(ValueError, match=message):
        SceneSet(**{**content, **change})

"""What training says about its scenes."""

from __future__ import annotations

import pytest
import torch

from pyro_compvae.analysis.used_scenes import about_scenes
from pyro_compvae.data import SceneSet
from pyro_compvae.data.scenes import SPLITS
from pyro_compvae.runs.presets import preset


def test_scenes_on_disk_that_are_resized_and_have_no_masks() -> None:
    images = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    scenes = dict.fromkeys(SPLITS, SceneSet(images, origin="a.h5", stored_sizes=((24, 24),)))
    config = preset("tiny", "monet", "file").replace({"data.root": "/data/a.h5"})
    assert list(about_scenes(config, scenes)) == [
        "images of /data/a.h5: 3 for train, 3 for validation, 3 for test",
        "images of 24 x 24 pixels are resized to 16 x 16; --set data.image_size=N sets another size",
        "no masks in a.h5: miou, ari, ari_fg, duplicates are left out",
    ]


def test_nothing_is_said_of_scenes_that_are_as_they_were_asked_for() -> None:
    images, labels = torch.zeros(3, 3, 16, 16, dtype=torch.uint8), torch.zeros(3, 16, 16, dtype=torch.uint8)
    scenes = dict.fromkeys(SPLITS, SceneSet(images, labels, torch.full((3,), 2), stored_sizes=((16, 16),)))
    assert list(about_scenes(preset("tiny", "monet"), scenes)) == []
    with pytest.warns(UserWarning, match="num_slots: expected at least 3 for scenes of up to 2 objects"):
        assert list(about_scenes(preset("tiny", "monet").replace({"num_slots": 2}), scenes)) == []

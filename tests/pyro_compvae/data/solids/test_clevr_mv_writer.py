"""Scenes that the writer has written are read back unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_compvae.data import DataError, read_clevr_mv
from pyro_compvae.data.solids.clevr_mv_writer import write_clevr_mv
from pyro_compvae.data.solids.config import SolidsConfig
from pyro_compvae.data.solids.scenes import make_solids, solid_scenes

# The cameras are low, so that objects hide one another.
CONFIG = SolidsConfig(image_size=24, num_views=4, min_objects=3, sizes=(0.6, 1.0), camera_height=1.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "new"
    write_clevr_mv(root, "clevr_mv", {split: solid_scenes(split, 3, 5, CONFIG) for split in ("train", "test")})
    return root


@pytest.mark.parametrize("split", ["train", "test"])
def test_round_trip(root: Path, split: str) -> None:
    made, read = make_solids(split, 3, 5, CONFIG), read_clevr_mv(root, "clevr_mv", split)
    assert torch.equal(read.images, made.images)
    assert torch.equal(read.labels, made.labels)
    assert torch.equal(read.num_objects, made.num_objects)
    assert read.viewpoints is not None
    assert made.viewpoints is not None
    assert torch.equal(read.viewpoints, made.viewpoints)


def test_files_are_of_the_published_format(root: Path) -> None:
    content = json.loads((root / "clevr_mv" / "clevr_mv_train.json").read_text())
    assert content.keys() == {"info", "num_views", "shape_gallery", "scenes"}
    assert content["num_views"] == 4
    ranks_permuted = False
    for entry, scene in zip(content["scenes"], solid_scenes("train", 3, 5, CONFIG), strict=True):
        with np.load(root / "clevr_mv" / entry["data_path"], allow_pickle=False) as arrays:
            images, masks = arrays["images"], arrays["masks"]
        assert images.dtype == masks.dtype == np.uint8
        assert images.shape == (4, 24, 24, 4)
        assert masks.shape == (4, 24, 24, 1 + 3)
        assert (images[..., 3] == 255).all()
        ranks, shapes = masks[..., 0], masks[..., 1:]
        assert np.unique(shapes).tolist() == [0, 1]
        np.testing.assert_array_equal(ranks > 0, shapes.any(-1))
        coordinates = np.array([solid["3d_coords"] for solid in entry["objects"]])
        for view, order in enumerate(entry["depth_orders"]):
            # The nearest object comes first, and objects are where the index says.
            distances = np.linalg.norm(coordinates - entry["camera"]["location"][view], axis=1)
            assert order == np.argsort(distances).tolist()
            ranks_permuted |= order != sorted(order)
            for rank, index in enumerate(order, start=1):
                visible = ranks[view] == rank
                np.testing.assert_array_equal(visible, scene.labels[view] == 1 + index)
                assert not (visible & (shapes[view, ..., index] == 0)).any()
        hidden = shapes.sum((1, 2)) - np.stack([(scene.labels == i).sum((1, 2)) for i in (1, 2, 3)], axis=1)
        assert hidden.min() == 0
        assert hidden.max() > 0
        assert [solid["shape"] for solid in entry["objects"]] == [solid.shape for solid in scene.solids]
    assert ranks_permuted


def test_nothing_is_overwritten(root: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert len(before) == 2 + 6
    with pytest.raises(DataError, match="clevr_mv: expected a new or empty folder, found one that holds files"):
        write_clevr_mv(root, "clevr_mv", {"train": solid_scenes("train", 1, 6, CONFIG)})
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected a place for a new folder, but it cannot be made"):
        write_clevr_mv(tmp_path / "file", "clevr_mv", {})


def test_a_split_has_scenes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"splits\['test'\]: expected one scene or more, got none"):
        write_clevr_mv(tmp_path, "clevr_mv", {"test": iter(())})


def test_of_an_interrupted_set_nothing_is_left(tmp_path: Path) -> None:
    """The next try finds an empty folder, and so does one after a kill, which leaves a hidden folder."""

    def interrupted():
        yield from solid_scenes("train", 1, config=CONFIG)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clevr_mv(tmp_path, "clevr_mv", {"train": interrupted()})
    assert list(tmp_path.iterdir()) == []

"""Sets of scenes: single images, views, and fields that are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_compvae.data import Scene, SceneSet, StoredScene
from pyro_compvae.errors import ArgumentError


def content(*batch: int) -> dict[str, Tensor]:
    """Random fields of a set with these leading dimensions, N or N and V."""
    generator = torch.Generator().manual_seed(0)
    return {
        "images": torch.randint(0, 256, (*batch, 3, 4, 5), generator=generator, dtype=torch.uint8),
        "labels": torch.randint(0, 3, (*batch, 4, 5), generator=generator, dtype=torch.uint8),
        "num_objects": torch.arange(batch[0]),
        "viewpoints": torch.rand(*batch, 3, generator=generator),
    }


@pytest.mark.parametrize("batch", [(3,), (3, 2)], ids=["images", "views"])
def test_records_have_the_leading_dimensions(batch: tuple[int, ...]) -> None:
    fields = content(*batch)
    scenes = SceneSet(**fields)
    assert (len(scenes), scenes.image_size, scenes.max_objects) == (3, (4, 5), 2)
    assert scenes.num_views == (2 if len(batch) == 2 else None)
    record = scenes[torch.tensor([2, 0])]
    assert record.image.shape == (2, *batch[1:], 3, 4, 5)
    assert record.labels.shape == (2, *batch[1:], 4, 5)
    assert record.viewpoint is not None
    assert torch.equal(record.viewpoint, fields["viewpoints"][[2, 0]])
    assert record.num_objects.tolist() == [2, 0]
    torch.testing.assert_close(scenes[2].image, fields["images"][2] / 255)
    for part in (scenes.part(slice(0, 3, 2)), scenes.spread(2)):
        assert torch.equal(part.images, fields["images"][[0, 2]])


def test_views_as_images() -> None:
    fields = content(3, 2)
    images = SceneSet(**fields).as_images()
    assert len(images) == 6
    assert images.num_views is None
    assert images.num_objects.tolist() == [0, 0, 1, 1, 2, 2]
    for i, (scene, view) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]):
        record = images[i]
        assert torch.equal(images.images[i], fields["images"][scene, view])
        assert torch.equal(record.labels, fields["labels"][scene, view].long())
        assert record.viewpoint is not None
        assert torch.equal(record.viewpoint, fields["viewpoints"][scene, view])
    assert images.as_images() is images


@pytest.mark.parametrize(
    ("batch", "message", "change"),
    [
        (
            (2,),
            r"images: expected \(N, 3, H, W\) or .*, got \(2, 3, 4, 5\) float32",
            {"images": torch.zeros(2, 3, 4, 5)},
        ),
        ((2,), r"images: expected .*, got \(3, 4, 5\) uint8", {"images": torch.zeros(3, 4, 5, dtype=torch.uint8)}),
        ((2,), r"labels: expected \(2, 4, 5\) uint8, got \(2, 4, 6\)", {"labels": torch.zeros(2, 4, 6).byte()}),
        ((2, 3), r"labels: expected \(2, 3, 4, 5\) uint8, got \(2, 4, 5\)", {"labels": torch.zeros(2, 4, 5).byte()}),
        ((2,), r"num_objects: expected \(2,\), got \(3,\)", {"num_objects": torch.zeros(3, dtype=torch.int64)}),
        ((2, 3), r"num_objects: expected \(2,\), got \(2, 3\)", {"num_objects": torch.zeros(2, 3).long()}),
        ((2,), r"viewpoints: expected \(2, 3\), got \(2, 2\)", {"viewpoints": torch.zeros(2, 2)}),
        ((2, 3), r"viewpoints: expected \(2, 3, 3\), got \(2, 3\)", {"viewpoints": torch.zeros(2, 3)}),
        ((2, 3), r"viewpoints: expected \(2, 3, 3\) for these 3 views of each scene, got None", {"viewpoints": None}),
    ],
)
def test_malformed_scene_sets_are_named(batch: tuple[int, ...], message: str, change: dict) -> None:
    with pytest.raises(ValueError, match=message):
        SceneSet(**{**content(*batch), **change})


def test_single_images_need_no_cameras() -> None:
    assert SceneSet(**{**content(2), "viewpoints": None})[1].viewpoint is None


@pytest.mark.parametrize("batch", [(3,), (3, 2)], ids=["images", "views"])
def test_scenes_without_masks(batch: tuple[int, ...]) -> None:
    whole = SceneSet(**content(*batch), origin="here")
    scenes = whole.without_masks()
    assert (scenes.labels, scenes.num_objects, scenes.max_objects, scenes.origin) == (None, None, None, "here")
    for some in (scenes, scenes.part(slice(2)), scenes.as_images(), scenes.spread(2)):
        assert (some[:].labels, some[:].num_objects, some.origin) == (None, None, "here")
        assert some[:].scenes(slice(1)).labels is None
    assert torch.equal(scenes.images, whole.images)
    if scenes.num_views is not None:
        assert scenes[:].view(0).labels is None
        assert scenes.reorder_views(torch.tensor([[1, 0]] * 3)).labels is None
    with pytest.raises(ValueError, match="labels and num_objects: expected both, or None for both, got one of them"):
        SceneSet(whole.images, whole.labels, None, whole.viewpoints)


@pytest.mark.parametrize("batch", [(3,), (3, 2)], ids=["images", "views"])
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no masks"])
def test_data_loaders(batch: tuple[int, ...], masks: bool) -> None:
    """A batch of a loader is the record that the set itself gives; what the data have not stays None."""
    scenes = SceneSet(**content(*batch)) if masks else SceneSet(**content(*batch)).without_masks()
    scenes = replace(scenes, viewpoints=None) if scenes.num_views is None else scenes
    first, last = DataLoader(scenes, batch_size=2)
    for found, expected in ((first, scenes[0:2]), (last, scenes[2:3])):
        assert type(found) is Scene
        for name, value in expected._asdict().items():
            other = getattr(found, name)
            assert (other is None) if value is None else torch.equal(other, value)


def test_arrays_of_other_types_are_refused_with_advice() -> None:
    whole = torch.arange(192).reshape(4, 3, 4, 4)
    for images, message in [
        (whole, r"got int64 from 0 to 191\. Convert them to uint8\."),
        (whole.double(), r"got float64 from 0 to 191\. Divide them by 255\."),
        (whole - 1.0, r"got float32 from -1 to 190\.$"),
        (whole * float("nan"), r"got float32 from nan to nan\.$"),
    ]:
        with pytest.raises(ArgumentError, match=r"images: expected bytes, or floats in \[0, 1\], " + message):
            SceneSet.from_arrays(images)
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert torch.equal(SceneSet.from_arrays((whole / 255).to(dtype)).images, whole.byte())


def test_stored_scenes_of_other_types_are_refused() -> None:
    """Floats in [0, 1] would be black as bytes, and labels from 256 on would begin again at 0."""
    image, labels = np.full((4, 4, 3), 0.5), np.zeros((4, 4), np.int64)
    good = StoredScene(np.zeros((4, 4, 3), np.uint8), labels + 255, 1)
    assert SceneSet.from_scenes([good]).labels.unique().tolist() == [255]
    for scene, message in [
        (good._replace(image=image), "images: expected bytes from 0 to 255, got float64 from 0.5 to 0.5"),
        (good._replace(labels=labels + 256), "labels: expected whole numbers from 0 to 255, got int64 from 256 to 256"),
        (good._replace(labels=labels + 0.5), "labels: expected whole numbers from 0 to 255, got float64 from 0.5 to"),
        (good._replace(labels=labels * np.nan), "labels: expected whole numbers from 0 to 255, got float64 from nan"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            SceneSet.from_scenes([scene])


def test_digests_are_of_what_is_there_and_of_nothing_else() -> None:
    whole = SceneSet(**content(3, 2), origin="here")
    assert set(whole.digests) == {"images", "labels", "num_objects", "viewpoints"}
    assert set(whole.seen) == {"images", "viewpoints"}
    assert whole.cameras == {"viewpoints": whole.digests["viewpoints"]}
    assert whole.without_masks().digests == whole.seen
    copy = SceneSet(**{name: field.clone() for name, field in content(3, 2).items()}, origin="there")
    assert copy.digests == whole.digests
    assert whole.part(torch.tensor([0, 1])).digests == whole.part(slice(2)).digests != whole.digests
    for name in whole.digests:
        field = content(3, 2)[name].clone()
        field.view(-1)[-1] += 1
        other = SceneSet(**{**content(3, 2), name: field})
        assert [key for key in whole.digests if other.digests[key] != whole.digests[key]] == [name]


def test_scenes_from_files() -> None:
    fields = content(3, 2)
    stored = [
        StoredScene(
            fields["images"][i].movedim(1, -1).numpy(), fields["labels"][i].numpy(), i, fields["viewpoints"][i].numpy()
        )
        for i in range(3)
    ]
    scenes = SceneSet.from_scenes(stored, "there")
    for name, value in fields.items():
        assert torch.equal(getattr(scenes, name), value)
    assert scenes.origin == "there"
    for message, some in [
        ("scenes: expected one scene or more, got none", []),
        ("labels: expected the same of all scenes, got 1 without", [stored[0]._replace(labels=None), stored[1]]),
        (
            r"viewpoints: expected one shape of all scenes, got \(1, 3\), \(2, 3\)",
            [stored[0], stored[1]._replace(viewpoints=stored[1].viewpoints[:1])],
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            SceneSet.from_scenes(some)

"""The reader of CLE-MV and CLE-Aug, on small folders written in the published format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_compvae.data import DataError, read_clevr_mv
from pyro_compvae.data.readers import clevr_mv
from pyro_compvae.data.scenes import SceneSet

SIZE = 8
# Three views of three objects in two cyclic orders, so that an order and its inverse differ.
DEPTH_ORDERS = [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
LOCATIONS = [[3.0, 4.0, 3.5], [-6.0, 8.0, 3.5], [0.0, -2.0, 3.5]]


def silhouettes(depth_orders: list[list[int]], hide: tuple[int, int] | None = None) -> np.ndarray:
    """Overlapping rectangles (V, H, W, N), the same in all views except for `hide` = (view, object).

    There the object's silhouette is a single pixel that all the others cover.
    """
    masks = np.zeros((len(depth_orders), SIZE, SIZE, len(depth_orders[0])), dtype=np.uint8)
    for i in range(masks.shape[-1]):
        masks[:, 1 : 6 - i, i : i + 5, i] = 1
    if hide is not None:
        view, hidden = hide
        masks[view, ..., hidden] = 0
        masks[view, 2, 4, hidden] = 1
    return masks


def rank_map(shapes: np.ndarray, depth_orders: list[list[int]]) -> np.ndarray:
    """Depth ranks (V, H, W), painted from the farthest object to the nearest."""
    ranks = np.zeros(shapes.shape[:3], dtype=np.uint8)
    for view, order in enumerate(depth_orders):
        for rank in range(len(order), 0, -1):
            ranks[view][shapes[view, ..., order[rank - 1]] == 1] = rank
    return ranks


def make_arrays(depth_orders: list[list[int]], channels: int = 4, seed: int = 0, **kwargs: Any) -> dict:
    shapes = silhouettes(depth_orders, **kwargs)
    masks = np.concatenate([rank_map(shapes, depth_orders)[..., None], shapes], axis=-1)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (len(depth_orders), SIZE, SIZE, channels), dtype=np.uint8)
    return {"images": images, "masks": masks}


def write_scene(folder: Path, number: int, arrays: dict, structured: bool = False, **index: Any) -> dict:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    path = folder / "data" / f"scene_{number}.npy"
    with path.open("wb") as file:
        if structured:
            views = len(arrays["images"])
            fields = [(key, array.dtype, array.shape[1:]) for key, array in arrays.items()]
            record = np.zeros(views, dtype=fields)
            for key, array in arrays.items():
                record[key] = array
            np.save(file, record)
        else:
            np.savez_compressed(file, **arrays)
    scene = {
        "data_path": f"data/scene_{number}.npy",
        "depth_orders": DEPTH_ORDERS,
        "camera": {"location": LOCATIONS},
    }
    return scene | index


def write_index(folder: Path, scenes: list[dict], name: str = "clevr_mv", split: str = "train") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"info": name, "num_views": 3, "shape_gallery": ["cube"], "scenes": scenes}
    (folder / f"{name}_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "multi_view"


@pytest.fixture
def folder(root: Path) -> Path:
    """A set of one sound scene, whose files a test can then damage."""
    folder = root / "clevr_mv"
    write_index(folder, [write_scene(folder, 0, make_arrays(DEPTH_ORDERS))])
    return folder


def rewrite(folder: Path, arrays: dict | None = None, **index: Any) -> None:
    write_index(folder, [write_scene(folder, 0, arrays or make_arrays(DEPTH_ORDERS), **index)])


def expect(message: str, root: Path, **kwargs: Any) -> str:
    with pytest.raises(DataError, match=message) as caught:
        read_clevr_mv(root, **kwargs)
    return str(caught.value)


def test_scenes_of_different_numbers_of_objects(root: Path) -> None:
    first = make_arrays(DEPTH_ORDERS, seed=1)
    second = make_arrays([[1, 0]] * 3, seed=2)
    scenes = [
        write_scene(root / "clevr_mv", 0, first),
        write_scene(root / "clevr_mv", 1, second, depth_orders=[[1, 0]] * 3),
    ]
    write_index(root / "clevr_mv", scenes)
    read = read_clevr_mv(root)

    assert isinstance(read, SceneSet)
    assert len(read) == 2
    assert read.num_views == 3
    assert read.images.dtype == read.labels.dtype == torch.uint8
    assert read.num_objects.tolist() == [3, 2]
    assert read.num_objects.dtype == torch.int64
    expected = np.stack([first["images"], second["images"]])[..., :3].transpose(0, 1, 4, 2, 3)
    np.testing.assert_array_equal(read.images.numpy(), expected)
    assert read.images.is_contiguous()


def test_scenes_of_different_numbers_of_views(root: Path) -> None:
    short = make_arrays(DEPTH_ORDERS[:2])
    scenes = [
        write_scene(root / "clevr_mv", 0, make_arrays(DEPTH_ORDERS)),
        write_scene(root / "clevr_mv", 1, short, depth_orders=DEPTH_ORDERS[:2], camera={"location": LOCATIONS[:2]}),
    ]
    write_index(root / "clevr_mv", scenes)
    expect(
        r"clevr_mv_train\.json .*: images: expected one shape of all scenes, got \(2, 8, 8, 3\), \(3, 8, 8, 3\)", root
    )


def test_viewpoint_is_direction_on_the_ground_minus_x_axis(root: Path, folder: Path) -> None:
    viewpoints = read_clevr_mv(root)[0].viewpoint
    assert viewpoints is not None
    assert viewpoints.dtype == torch.float32
    expected = torch.tensor([[0.6 - 1, 0.8, 0.0], [-0.6 - 1, 0.8, 0.0], [-1.0, -1.0, 0.0]])
    torch.testing.assert_close(viewpoints, expected)


def test_labels_name_the_same_object_in_all_views(root: Path, folder: Path) -> None:
    shapes = silhouettes(DEPTH_ORDERS)
    stored = rank_map(shapes, DEPTH_ORDERS)
    inverse = [list(np.argsort(order)) for order in DEPTH_ORDERS]
    assert inverse != DEPTH_ORDERS  # so that a reader that inverts the order is noticed

    labels = read_clevr_mv(root).labels[0].numpy()
    outside = (labels[..., None] == np.arange(1, 4)) & (shapes == 0)  # (V, H, W, N)
    assert not outside.any()
    np.testing.assert_array_equal(labels > 0, shapes.any(-1))
    for view, order in enumerate(DEPTH_ORDERS):
        nearest = order[0]
        np.testing.assert_array_equal(labels[view] == 1 + nearest, shapes[view, ..., nearest] == 1)

    as_stored = (stored[..., None] == np.arange(1, 4)) & (shapes == 0)
    assert as_stored.any()  # the silhouettes do tell ranks from objects


def test_hidden_object_keeps_its_place_and_is_counted(root: Path, folder: Path) -> None:
    # Object 2 has rank 2 of 3 in view 1: the farther object 0 keeps rank 3.
    arrays = make_arrays(DEPTH_ORDERS, hide=(1, 2))
    assert np.unique(arrays["masks"][1, ..., 0]).tolist() == [0, 1, 3]
    rewrite(folder, arrays)
    read = read_clevr_mv(root)
    assert [read.labels[0, v].unique().tolist() for v in range(3)] == [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2, 3]]
    assert read.num_objects.tolist() == [3]


def test_farthest_object_hidden(root: Path, folder: Path) -> None:
    # MulMON's own loader stops here, because the largest label is below the number of objects.
    arrays = make_arrays(DEPTH_ORDERS, hide=(0, 2))
    assert arrays["masks"][0, ..., 0].max() == 2
    rewrite(folder, arrays)
    read = read_clevr_mv(root)
    assert read.labels[0, 0].unique().tolist() == [0, 1, 2]
    assert read.num_objects.tolist() == [3]


@pytest.mark.parametrize("structured", [False, True], ids=["npz", "structured"])
@pytest.mark.parametrize("channels", [3, 4])
def test_containers_and_channels(root: Path, structured: bool, channels: int) -> None:
    arrays = make_arrays(DEPTH_ORDERS, channels=channels)
    folder = root / "clevr_aug"
    write_index(folder, [write_scene(folder, 0, arrays, structured=structured)], "clevr_aug", "test")
    read = read_clevr_mv(root, "clevr_aug", "test")
    np.testing.assert_array_equal(read.images[0].permute(0, 2, 3, 1).numpy(), arrays["images"][..., :3])
    assert read.labels.unique().tolist() == [0, 1, 2, 3]


def test_root_may_be_the_folder_of_the_set(root: Path, folder: Path) -> None:
    assert torch.equal(read_clevr_mv(folder).images, read_clevr_mv(root).images)


def test_data_folder_may_be_a_link(root: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "data").rename(tmp_path / "other_disk")
    (folder / "data").symlink_to(tmp_path / "other_disk")
    assert len(read_clevr_mv(root)) == 1


def test_image_size_averages_colours_and_picks_labels(root: Path, folder: Path) -> None:
    full, half = read_clevr_mv(root), read_clevr_mv(root, image_size=4)
    assert half.image_size == (4, 4)
    averages = torch.nn.functional.avg_pool2d(full.images[0].double(), 2)
    assert (averages - half.images[0]).abs().max() <= 0.5
    assert torch.equal(half.labels, full.labels[..., 1::2, 1::2])
    assert torch.equal(read_clevr_mv(root, image_size=SIZE).images, full.images)


def test_an_image_size_below_one_pixel(root: Path, folder: Path) -> None:
    expect("image_size: expected a positive number of pixels, .* got 0", root, image_size=0)


def test_zip_bombs_are_not_unpacked(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clevr_mv, "MAX_SCENE_BYTES", 1000)
    expect(r"scene_0\.npy: expected at most 0 MiB of arrays, got 0 MiB", root)


def test_missing_root(tmp_path: Path) -> None:
    message = expect(
        "root: expected a folder that holds clevr_aug/, got .*nowhere", tmp_path / "nowhere", name="clevr_aug"
    )
    assert "https://github.com/NanboLi/MulMON" in message
    assert "https://github.com/NanboLi/CLEVR-Object-Centric" in message


def test_missing_index(root: Path, folder: Path) -> None:
    message = expect(r"root: expected clevr_mv_test\.json in .*clevr_mv or in", root, split="test")
    assert "https://github.com/NanboLi/MulMON" in message


def test_missing_data_file(root: Path, folder: Path) -> None:
    (folder / "data" / "scene_0.npy").unlink()
    message = expect(r"scenes\[0\]: expected the data file .*scene_0\.npy, found none", root)
    assert "https://github.com/NanboLi/MulMON" in message


@pytest.mark.parametrize("content", [b'{"scenes": [', b"\xff\xfe\x00"], ids=["json", "utf8"])
def test_malformed_index(root: Path, folder: Path, content: bytes) -> None:
    (folder / "clevr_mv_train.json").write_bytes(content)
    expect(r"clevr_mv_train\.json: expected JSON, got", root)


@pytest.mark.parametrize("content", ["[]", "{}", '{"scenes": []}', '{"scenes": 3}'])
def test_index_without_scenes(root: Path, folder: Path, content: str) -> None:
    (folder / "clevr_mv_train.json").write_text(content)
    expect("expected a JSON object whose key 'scenes' lists one scene or more", root)


@pytest.mark.parametrize("key", ["data_path", "depth_orders", "camera", "location"])
def test_missing_key(root: Path, folder: Path, key: str) -> None:
    good = write_scene(folder, 0, make_arrays(DEPTH_ORDERS))
    bad = good | {"camera": {}} if key == "location" else {k: v for k, v in good.items() if k != key}
    write_index(folder, [good, bad])
    expect(rf"scenes\[1\]: expected the keys .*'{key}' is missing", root)


@pytest.mark.parametrize(
    "index",
    [{"data_path": 3}, {"depth_orders": [[0, 1], [0]]}, {"camera": {"location": "left"}}, {"camera": [1]}],
    ids=["path", "ragged", "text", "list"],
)
def test_values_of_another_kind(root: Path, folder: Path, index: dict) -> None:
    rewrite(folder, **index)
    expect(r"scenes\[0\]: expected a text data_path, and depth_orders and camera\.location", root)


@pytest.mark.parametrize("orders", [[0, 1, 2], [[0, 1, 1]] * 3, [[1, 2, 3]] * 3], ids=["flat", "twice", "from 1"])
def test_depth_orders_that_are_no_orders(root: Path, folder: Path, orders: list) -> None:
    rewrite(folder, depth_orders=orders)
    expect(rf"depth_orders: expected, .* every object from 0 to N - 1 once, got {re.escape(str(orders))}", root)


def test_cameras_do_not_match_the_views(root: Path, folder: Path) -> None:
    rewrite(folder, camera={"location": LOCATIONS[:2]})
    expect(r"camera\.location: expected \(3, 3\), .* got \(2, 3\)", root)


@pytest.mark.parametrize("location", [[0.0, 0.0, 5.0], [float("nan"), 1.0, 1.0]])
def test_camera_without_direction(root: Path, folder: Path, location: list[float]) -> None:
    rewrite(folder, camera={"location": [*LOCATIONS[:2], location]})
    expect(r"camera\.location: expected finite positions off the vertical axis", root)


@pytest.mark.parametrize("absolute", [False, True])
def test_data_path_outside_the_folder(root: Path, folder: Path, tmp_path: Path, absolute: bool) -> None:
    (folder / "data" / "scene_0.npy").rename(tmp_path / "outside.npy")
    scene = json.loads((folder / "clevr_mv_train.json").read_text())["scenes"][0]
    path = str(tmp_path / "outside.npy") if absolute else "data/../../../outside.npy"
    assert (folder / path).exists()
    write_index(folder, [scene | {"data_path": path}])
    expect(rf"data_path: expected a file inside .*clevr_mv, got '{re.escape(path)}'", root)


class Trap:
    """An object that fails the test when it is unpickled."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("the reader unpickled a file",)


def test_pickled_content_is_refused(root: Path, folder: Path) -> None:
    path = folder / "data" / "scene_0.npy"
    trap = np.array({"images": Trap()}, dtype=object)
    np.save(path, trap, allow_pickle=True)
    expect("Pickled content is never loaded", root)
    path.write_bytes(trap.dumps())
    expect("Pickled content is never loaded", root)
    with path.open("wb") as file:
        np.savez(file, images=trap, masks=np.zeros(1))
    expect("Pickled content is never loaded", root)


@pytest.mark.parametrize("kept_bytes", [0, 3, 100, 1000])
def test_damaged_data_file(root: Path, folder: Path, kept_bytes: int) -> None:
    path = folder / "data" / "scene_0.npy"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    message = expect("expected an npz archive or a structured array of plain numbers, got neither", root)
    assert str(path) in message


def test_array_missing_from_the_data_file(root: Path, folder: Path) -> None:
    arrays = make_arrays(DEPTH_ORDERS)
    rewrite(folder, {"images": arrays["images"]})
    expect(r"expected the arrays 'images' and 'masks', found \['images'\]", root)
    np.save(folder / "data" / "scene_0.npy", arrays["images"])
    expect(r"expected the arrays 'images' and 'masks', found \[\]", root)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda x: x / np.float32(255), r"\(3, 8, 8, 4\) float32"),
        (lambda x: x[..., :2], r"\(3, 8, 8, 2\) uint8"),
        (lambda x: x[0], r"\(8, 8, 4\) uint8"),
        (lambda x: x[:2], r"\(2, 8, 8, 4\) uint8"),
    ],
    ids=["dtype", "channels", "axes", "views"],
)
def test_images_of_another_type_or_shape(root: Path, folder: Path, change: Any, got: str) -> None:
    arrays = make_arrays(DEPTH_ORDERS)
    rewrite(folder, arrays | {"images": change(arrays["images"])})
    expect(rf"images: expected \(3, H, W, 3 or 4\) uint8, .* got {got}", root)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda x: x.astype(np.float32), r"\(3, 8, 8, 4\) float32"),
        (lambda x: x[:, ::2], r"\(3, 4, 8, 4\) uint8"),
        (lambda x: x[..., :3], r"\(3, 8, 8, 3\) uint8"),
    ],
    ids=["dtype", "size", "objects"],
)
def test_masks_that_do_not_match(root: Path, folder: Path, change: Any, got: str) -> None:
    arrays = make_arrays(DEPTH_ORDERS)
    rewrite(folder, arrays | {"masks": change(arrays["masks"])})
    expect(rf"masks: expected \(3, 8, 8, 4\) integers, .* got {got}", root)


@pytest.mark.parametrize(("value", "span"), [(4, "0 to 4"), (-1, "-1 to 3")])
def test_labels_beyond_the_objects(root: Path, folder: Path, value: int, span: str) -> None:
    arrays = make_arrays(DEPTH_ORDERS)
    masks = arrays["masks"].astype(np.int16)
    masks[2, 7, 7, 0] = value
    rewrite(folder, arrays | {"masks": masks})
    expect(rf"masks\[\.\.\., 0\]: expected labels from 0 to 3, .* got values from {span}", root)


def test_scenes_of_two_sizes(root: Path, folder: Path) -> None:
    arrays = make_arrays(DEPTH_ORDERS)
    halved = {key: array[:, ::2, ::2] for key, array in arrays.items()}
    write_index(folder, [write_scene(folder, 0, arrays), write_scene(folder, 1, halved)])
    expect(r"images: expected one shape of all scenes, got \(\d, 4, 4, 3\), \(\d, 8, 8, 3\)\. .* image_size", root)
    assert read_clevr_mv(root, image_size=4).image_size == (4, 4)

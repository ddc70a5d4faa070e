"""Folders of images: every layout that people have, with what is used and what is left out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pyro_compvae.data.readers.image_folder import find_images
from pyro_compvae.data.readers.sources import open_source
from pyro_compvae.data.records import DataError, StoredScene


def write(root: Path, *names: str, colours: NDArray | None = None) -> None:
    """Write images of one colour, the number of the image, or of the colours given."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (4, 4), (number, 0, 0)) if colours is None else Image.fromarray(colours)
        image.save(root / name)


def names(root: Path) -> dict[str, set[str]]:
    """The images of every split, by their paths in the folder."""
    folder = find_images(root)
    return {split: {file.path.relative_to(root).as_posix() for file in files} for split, files in folder.splits.items()}


def scenes(root: Path, split: str = "all") -> dict[str, StoredScene]:
    """The scenes of a folder by the path of the image."""
    files = find_images(root).splits[split]
    read = open_source(root).parts[split].scenes()
    return {file.path.relative_to(root).as_posix(): scene for file, scene in zip(files, read, strict=True)}


def test_any_type_and_mode_becomes_rgb(tmp_path: Path) -> None:
    """Transparent pixels become black, 16 bits become 8, and every type that Pillow can write exactly is read."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    deep = rng.integers(0, 1 << 16, (4, 6), dtype=np.uint16)
    Image.fromarray(colours).save(tmp_path / "b.PNG")
    Image.fromarray(colours).save(tmp_path / "c.tiff", compression="tiff_lzw")
    Image.fromarray(colours).save(tmp_path / "d.bmp")
    Image.fromarray(colours).quantize(24).save(tmp_path / "e.gif")
    Image.fromarray(colours[..., 0]).save(tmp_path / "a.png")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    clear = np.dstack([colours, np.zeros((4, 6), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "f.webp", lossless=True, exact=True)
    images = {name: scene.image for name, scene in scenes(tmp_path).items()}
    assert len(images) == 8
    np.testing.assert_array_equal(images["a.png"], np.repeat(colours[..., :1], 3, axis=-1))
    for name in ("b.PNG", "c.tiff", "d.bmp", "e.gif"):
        np.testing.assert_array_equal(images[name], colours, name)
    assert not images["f.webp"].any()
    for name in ("deep.png", "deep.tif"):
        np.testing.assert_array_equal(images[name], np.repeat(np.rint(deep / 257)[..., None], 3, axis=-1), name)


def test_what_is_used_and_what_is_not_is_said(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png", "c.JPG", "class/d.png")
    (tmp_path / "._a.png").write_bytes(b"of macOS")
    (tmp_path / ".cache").mkdir()
    for number in range(7):
        (tmp_path / "class" / f"{number}.txt").write_text("a box")
    (tmp_path / "LICENSE").write_text("yours")
    (tmp_path / "raw\x1b[31m.heic").write_text("escape")
    os.mkfifo(tmp_path / "z.png")
    (tmp_path / "class" / "up").symlink_to(tmp_path)
    used, left_out = find_images(tmp_path).notes
    assert used == "used: 4 images (1 .jpg, 3 .png)"
    assert set(left_out.removeprefix("left out: ").split("; ")) == {
        "2 hidden (._a.png, .cache)",
        "7 .txt (class/0.txt, class/1.txt, class/2.txt, class/3.txt, class/4.txt and 2 more)",
        "1 without a type (LICENSE)",
        r"1 .heic (raw\x1b[31m.heic)",
        "1 no files (z.png)",
        "1 links to a folder around them (class/up)",
    }


def test_nothing_left_out_is_said_too(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    assert open_source(tmp_path).notes == ("used: 1 images (1 .png)", "left out: nothing")


def test_splits_do_not_follow_the_names_of_files(tmp_path: Path) -> None:
    """Folders of classes, and names with numbers in them, would otherwise put one class or day into the test."""
    files = [f"{kind}/{number:03}.png" for kind in ("cat", "dog") for number in range(100)]
    write(tmp_path, *files)
    order = [file.path.relative_to(tmp_path).as_posix() for file in find_images(tmp_path).splits["all"]]
    assert sorted(order) == files
    assert order == [file.path.relative_to(tmp_path).as_posix() for file in find_images(tmp_path).splits["all"]]
    held_out = [files.index(name) for name in order[-40:]]
    assert 12 <= sum(number < 100 for number in held_out) <= 28, "of 40, expected 20 ± 2.8"
    (part,) = open_source(tmp_path).parts.values()
    assert part.origin == f"images of the folder {tmp_path.name}, shuffled by a hash of their names"


@pytest.mark.parametrize("valid", ["val", "valid", "validation", "Valid"])
@pytest.mark.parametrize(
    "within", ["{split}/{name}", "{split}/images/{name}", "images/{split}/{name}", "{split}/class/{name}"]
)
def test_folders_of_splits(tmp_path: Path, valid: str, within: str) -> None:
    split_names = {"train": "train", valid: "validation", "test": "test"}
    files = {split: within.format(split=name, name=f"{split}.png") for name, split in split_names.items()}
    write(tmp_path, *files.values())
    assert names(tmp_path) == {split: {file} for split, file in files.items()}
    assert list(open_source(tmp_path).parts) == ["train", "validation", "test"]


def test_folders_that_say_two_things(tmp_path: Path) -> None:
    write(tmp_path, "train/a.png", "val/a.png", "valid/b.png")
    with pytest.raises(
        DataError, match=r"expected images in it, or in folders for splits, each once; found train, val, valid\. Mo"
    ):
        open_source(tmp_path)
    (tmp_path / "valid" / "b.png").rename(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"found train, val and images beside them, such as b\.png\. Move some"):
        open_source(tmp_path)


MASK = np.array([[0, 0, 0, 0], [0, 7, 7, 0], [0, 0, 200, 200], [9, 9, 9, 9]], np.uint8)
LABELS = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 3, 3], [2, 2, 2, 2]])


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a.jpg", "masks/a.png"),
        ("images/train/a.jpg", "masks/train/a_mask.png"),
        ("train/images/class/a.jpg", "train/labels/class/a.png"),
        ("train/a.jpg", "train/a_mask.png"),
        ("a.jpg", "masks/a.tif"),
    ],
)
def test_images_with_masks(tmp_path: Path, image: str, mask: str) -> None:
    write(tmp_path, image)
    write(tmp_path, mask, colours=MASK)
    ((name, scene),) = scenes(tmp_path, "train" if "train" in image else "all").items()
    assert name == image
    np.testing.assert_array_equal(scene.labels, LABELS)
    assert scene.num_objects == 3
    used = f"used: 1 masks (1 {Path(mask).suffix})"
    assert find_images(tmp_path).notes == ("used: 1 images (1 .jpg)", used, "left out: nothing")


def test_masks_of_other_modes(tmp_path: Path) -> None:
    """Colours are objects whatever the mode; black and transparent pixels are the background."""
    palette = np.array([[0, 0, 0], [200, 0, 0], [0, 1, 0], [0, 0, 9]], np.uint8)  # in the order of blue, green, red
    colours = palette[LABELS[..., None] * 0 + np.array([0, 1, 2, 3])[LABELS][..., None], np.arange(3)]
    clear = np.dstack([np.full((4, 4, 3), 90, np.uint8), 255 * (LABELS > 0).astype(np.uint8)])
    indexed = Image.fromarray(LABELS.astype(np.uint8), "P")
    indexed.putpalette(palette.ravel().tolist())
    write(tmp_path, *(f"images/{name}.png" for name in ("rgb", "palette", "deep", "clear", "binary", "empty")))
    write(tmp_path, "masks/rgb.png", colours=colours)
    indexed.save(tmp_path / "masks" / "palette.png")
    Image.fromarray((LABELS * 1000).astype(np.uint16)).save(tmp_path / "masks" / "deep.png")
    write(tmp_path, "masks/clear.png", colours=clear)
    Image.fromarray(LABELS > 0).save(tmp_path / "masks" / "binary.png")
    write(tmp_path, "masks/empty.png", colours=np.zeros((4, 4), np.uint8))
    read = {Path(name).stem: scene for name, scene in scenes(tmp_path).items()}
    for name in ("rgb", "palette", "deep"):
        np.testing.assert_array_equal(read[name].labels, LABELS, name)
    for name in ("clear", "binary"):
        np.testing.assert_array_equal(read[name].labels, LABELS > 0, name)
    assert {name: scene.num_objects for name, scene in read.items()} == {
        "rgb": 3,
        "palette": 3,
        "deep": 3,
        "clear": 1,
        "binary": 1,
        "empty": 0,
    }


def test_images_and_masks_without_the_other_are_named(tmp_path: Path) -> None:
    write(tmp_path, "images/a.png", "images/b.png", "masks/b.png", "masks/c.png")
    assert names(tmp_path) == {"all": {"images/b.png"}}
    assert find_images(tmp_path).notes[-1] == (
        "left out: 1 masks without an image (masks/c.png); 1 images without a mask (images/a.png)"
    )
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(
        DataError, match=r"with the names of their images in a folder masks/; found none; left out: 1 mas"
    ):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("message", "name", "mask"),
    [
        (r"a\.png: expected the size of a\.png, 4 x 4 pixels, got 5 x 6", "a.png", np.zeros((5, 6), np.uint8)),
        (r"a\.jpg: expected a mask with exact colours, got a JPEG, which blurs them", "a.jpg", MASK),
    ],
)
def test_masks_that_cannot_be_used(tmp_path: Path, message: str, name: str, mask: NDArray) -> None:
    write(tmp_path, "images/a.png")
    write(tmp_path, f"masks/{name}", colours=mask)
    with pytest.raises(DataError, match=message):
        scenes(tmp_path)


def test_too_many_colours_are_no_mask(tmp_path: Path) -> None:
    colours = np.arange(20 * 20, dtype=np.uint16).reshape(20, 20)
    write(tmp_path, "images/a.png", colours=colours.astype(np.uint8))
    write(tmp_path, "masks/a.png", colours=colours)
    with pytest.raises(DataError, match=r"at most 255 objects, got 399 colours\. Is it a picture, or has it smooth"):
        scenes(tmp_path)


def test_two_masks_of_an_image(tmp_path: Path) -> None:
    write(tmp_path, "images/a.png", "masks/a.png", "masks/a_mask.png")
    with pytest.raises(DataError, match=r"expected one mask for an image, .* found masks/a\.png and masks/a_mask\.png"):
        find_images(tmp_path)


def test_films_and_deeper_images_are_refused(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), number) for number in (1, 2, 3)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"film\.gif: expected one picture, got 3 in one file\. Save each as a file of"):
        scenes(tmp_path)
    (tmp_path / "film.gif").unlink()
    for number, values in enumerate((np.full((4, 4), 0.5, np.float32), np.full((4, 4), 1000, np.int32))):
        Image.fromarray(values).save(tmp_path / "a.tif")
        with pytest.raises(
            DataError, match=rf"a\.tif: expected 8 or 16 bits for each channel, got mode {'FI'[number]}\."
        ):
            scenes(tmp_path)


def test_photographs_of_several_pictures_show_the_first(tmp_path: Path) -> None:
    """Some telephones write JPEG files with a second picture for depth or brightness."""
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert scenes(tmp_path)["a.jpg"].image[0, 0].tolist() == [254, 0, 0]


def test_cameras_that_were_turned(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6  # the image must be turned clockwise by a quarter
    Image.fromarray(colours).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(scenes(tmp_path)["a.png"].image, np.rot90(colours, -1))

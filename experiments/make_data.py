"""Make, check and render files of scenes.

``python experiments/make_data.py convert SOURCE TARGET.h5`` turns a public data set, or a folder of images, into a file
that ``run_svi.py --dataset file --data-root TARGET.h5`` trains on. ``verify PATH`` checks such a file and shows its
content. ``render FOLDER`` makes multi-view scenes of solids in the format of CLE-MV.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tqdm import tqdm

from pyro_compvae.analysis.tables import Table
from pyro_compvae.cli import run
from pyro_compvae.data.convert import ConvertConfig, convert
from pyro_compvae.data.scene_file.format import FileInfo
from pyro_compvae.data.scene_file.reading import read_scene_file, verify
from pyro_compvae.data.scenes import SPLITS
from pyro_compvae.data.solids.config import CLE_MV, SolidsConfig
from pyro_compvae.runs.files import shortened

if TYPE_CHECKING:
    from pyro_compvae.data.solids.scenes import SolidScene

PRESETS = {"default": SolidsConfig(), "cle-mv": CLE_MV}
SHEET_SCENES = 12


@dataclass
class Convert:
    """Convert a public data set, or your images, to a file of scenes (HDF5). Nothing is ever overwritten."""

    source: tyro.conf.Positional[Path]
    """The data: TFRecords of multi_object_datasets, HDF5 of object-centric-library or EfficientMORL, a folder in the
    format of CLE-MV, or a folder of images, which may have masks and splits in its subfolders."""
    target: tyro.conf.Positional[Path]
    """The new file."""
    config: Annotated[ConvertConfig, tyro.conf.arg(name="")] = field(default_factory=ConvertConfig)


@dataclass
class Verify:
    """Check a file of scenes, print its content, and draw the first scenes of every split."""

    path: tyro.conf.Positional[Path]
    """The file of scenes."""
    out: Path | None = None
    """The folder for the pictures, FILE.SPLIT.png; by default that of the file."""


@dataclass
class Render:
    """Make multi-view scenes of solids, with masks and cameras, as files. Nothing is ever overwritten."""

    out_dir: tyro.conf.Positional[Path]
    """The folder in which the set is made, as OUT_DIR/NAME."""
    name: Literal["clevr_mv", "clevr_aug"] = "clevr_mv"
    """The name of the set: run_svi.py reads clevr_mv as --dataset clevr-mv, and clevr_aug as --dataset dolphin."""
    preset: Literal["default", "cle-mv"] = "default"
    """default: 2-3 large bright objects, 6 views, 32x32 pixels; cle-mv: 3-6 objects, 10 views, 64x64, as published."""
    num_train: int = 1500
    """Number of scenes to train on."""
    num_test: int = 200
    """Number of unseen scenes for the test."""
    seed: int = 0
    """The seed of the scenes."""
    meshes: Path | None = None
    """A folder of .obj, .ply or .stl files (watertight, z up), whose shapes are added to those of the preset."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Convert | Verify | Render, make, arguments)


def make(args: Convert | Verify | Render) -> None:
    """Convert, verify or render, and print the result."""
    if isinstance(args, Convert):
        info = convert(args.source, args.target, args.config, show=True)
        print(describe(args.target, info))
        missing = ", ".join(split for split in SPLITS if split not in info.splits)
        if missing:
            print(f"no scenes for {missing}; training needs all three (--num-train, --num-validation, --num-test)")
    elif isinstance(args, Verify):
        check(args)
    else:
        print(render(args))


def check(args: Verify) -> None:
    """Verify a file, and draw its first scenes.

    Raises:
        DataError: if the file is damaged.
    """
    from pyro_compvae.analysis.figures.decompositions import contact_sheet

    info = verify(args.path)
    print(describe(args.path, info))
    for split in info.splits:
        sheet = (args.out or args.path.parent) / f"{shortened(args.path.name)}.{split}.png"
        scenes = read_scene_file(args.path, split, num_scenes=SHEET_SCENES)
        contact_sheet(sheet, scenes[:], f"{info.name}, {split}")
        print(sheet)


def describe(path: Path, info: FileInfo) -> str:
    """The content of a file as text, with the notes of its conversion."""
    rows = []
    for split, about in info.splits.items():
        *_, height, width, _ = about.shapes["images"]
        views = about.shapes["images"][1] if "viewpoints" in about.shapes else 1
        masks = "yes" if "labels" in about.shapes else "no"
        size = f"{height}x{width}"
        rows.append((split, f"{about.num_scenes:,}", str(views), size, masks, about.sha256[:16], about.origin))
    table = Table(("split", "scenes", "views", "pixels", "masks", "sha256", "from"), tuple(rows))
    return "\n".join((f"{path}: {info.name}, {path.stat().st_size / 1e6:.1f} MB", str(table), *info.notes))


def render(args: Render) -> Path:
    """Draw scenes, render them and write both splits; returns the folder of the set.

    Raises:
        DataError: if the folder holds files, or the meshes are unusable.
        ValueError: for impossible numbers.
    """
    from pyro_compvae.data.solids.clevr_mv_writer import write_clevr_mv
    from pyro_compvae.data.solids.meshes import load_meshes
    from pyro_compvae.data.solids.scenes import solid_scenes

    meshes = None if args.meshes is None else load_meshes(args.meshes)
    sizes = {"train": args.num_train, "test": args.num_test}
    scenes = {
        split: solid_scenes(split, size, args.seed, PRESETS[args.preset], meshes) for split, size in sizes.items()
    }
    bars = {split: with_bar(scenes[split], split, sizes[split]) for split in sizes}
    return write_clevr_mv(args.out_dir, args.name, bars)


def with_bar(scenes: Iterator[SolidScene], split: str, size: int) -> Iterator[SolidScene]:
    """The scenes, with a progress bar that appears with the first one."""
    yield from tqdm(scenes, split, size, unit="scene")


if __name__ == "__main__":
    sys.exit(main())

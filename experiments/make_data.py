"""Make multi-view scenes of solids in the format of CLE-MV: ``python experiments/make_data.py data/solids``.

They are then trained on with ``run_svi.py --dataset clevr-mv --data-root data/solids``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from pyro_compvae.checkpoint import DiskFullError
from pyro_compvae.data.clevr_mv_writer import write_clevr_mv
from pyro_compvae.data.meshes import load_meshes
from pyro_compvae.data.solids import CLE_MV, SolidScene, SolidsConfig, solid_scenes

PRESETS = {"default": SolidsConfig(), "cle-mv": CLE_MV}


@dataclass
class Arguments:
    """Make multi-view scenes of solids, with masks and cameras, as files. Nothing is ever overwritten."""

    out_dir: tyro.conf.Positional[Path]
    """Folder to make the set in, as OUT_DIR/NAME."""
    name: Literal["clevr_mv", "clevr_aug"] = "clevr_mv"
    """Of the set: run_svi.py reads clevr_mv as --dataset clevr-mv, and clevr_aug as --dataset dolphin."""
    preset: Literal["default", "cle-mv"] = "default"
    """default: 2-3 large bright objects, 6 views, 32x32; cle-mv: 3-6 objects, 10 views, 64x64, as published."""
    num_train: int = 1500
    """Scenes to train on."""
    num_test: int = 200
    """Unseen scenes."""
    seed: int = 0
    """Of the scenes."""
    meshes: Path | None = None
    """Folder of .obj, .ply or .stl files (watertight, z up), whose shapes join those of the preset."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = tyro.cli(Arguments, args=arguments)
    try:
        print(make_data(args))
    except KeyboardInterrupt:
        print(f"interrupted; remove the unfinished {args.out_dir / args.name} before the next try", file=sys.stderr)
        return 130
    except (ValueError, DiskFullError) as error:  # DataError too
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make_data(args: Arguments) -> Path:
    """Draw, render and write both splits; returns the folder of the set.

    Raises:
        DataError: if the folder holds files, or the meshes are unusable.
        ValueError: for impossible numbers.
    """
    meshes = None if args.meshes is None else load_meshes(args.meshes)
    sizes = {"train": args.num_train, "test": args.num_test}
    scenes = {
        split: solid_scenes(split, size, args.seed, PRESETS[args.preset], meshes) for split, size in sizes.items()
    }
    bars = {split: with_bar(scenes[split], split, sizes[split]) for split in sizes}
    return write_clevr_mv(args.out_dir, args.name, bars)


def with_bar(scenes: Iterator[SolidScene], split: str, size: int) -> Iterator[SolidScene]:
    """The scenes, with a progress bar that appears with the first of them."""
    yield from tqdm(scenes, split, size, unit="scene")


if __name__ == "__main__":
    sys.exit(main())

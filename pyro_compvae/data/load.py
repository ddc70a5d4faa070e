"""Loading of the scenes that a configuration names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pyro_compvae.data.multi_dsprites import make_multi_dsprites
from pyro_compvae.data.readers import clevr_mv, sources
from pyro_compvae.data.readers.clevr_mv import read_clevr_mv
from pyro_compvae.data.records import DataError
from pyro_compvae.data.scene_file.reading import read_scene_file
from pyro_compvae.data.scenes import SPLITS, SceneSet
from pyro_compvae.data.sprites import SpriteConfig, make_sprites
from pyro_compvae.data.tetrominoes import make_tetrominoes
from pyro_compvae.errors import ArgumentError
from pyro_compvae.runs.sections import MADE, DataConfig

FOLDERS = {"clevr-mv": "clevr_mv", "dolphin": "clevr_aug"}
ROOTS = {
    "file": "a file of scenes that `compvae data convert` has made",
    "clevr-mv": "the folder that holds clevr_mv/",
    "dolphin": "the folder that holds clevr_aug/",
}
WHERE_TO_GET = {
    "file": sources.known_sources(),
    "clevr-mv": clevr_mv.WHERE_TO_GET,
    "dolphin": clevr_mv.WHERE_TO_GET,
}


def load_scenes(config: DataConfig, split: str, *, multi_view: bool = False) -> SceneSet:
    """Load one split: "train", "validation" (for evaluations during training) or "test" (unseen until the end).

    CLE-MV and Dolphin have no validation split; the last tenth of their training scenes is held out for it.

    Args:
        config: the data section of a configuration.
        split: the name of the split.
        multi_view: whether to keep the views of a scene together; otherwise every view counts as a separate scene.

    Raises:
        DataError: if data on disk are missing or malformed, or if views are wanted of data with one view or none.
        ValueError: for an unknown split.
    """
    if split not in SPLITS:
        raise ArgumentError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if multi_view and config.name in MADE and config.name != "solids":
        raise DataError(f"{config.name} have no cameras; MulMON needs --dataset solids, clevr-mv or dolphin")
    if config.name in MADE:
        scenes = _made(config, split)
    elif config.root is None or (config.name == "file" and not Path(config.root).is_file()):
        got = "nothing" if config.root is None else f"{config.root}, no file"
        raise DataError(
            f"data.root: expected {ROOTS[config.name]}, got {got} (--data-root). {WHERE_TO_GET[config.name]}"
        )
    elif config.name == "file":
        scenes = read_scene_file(Path(config.root), split, config.image_size)
    else:
        scenes = _clevr_mv(Path(config.root), FOLDERS[config.name], split, config.image_size)
    return _views(scenes) if multi_view else scenes.as_images()


def _made(config: DataConfig, split: str) -> SceneSet:
    num_scenes = config.num_train if split == "train" else config.num_test
    if config.name == "sprites":
        return make_sprites(split, num_scenes, config=SpriteConfig(image_size=config.image_size))
    if config.name == "tetrominoes":
        return make_tetrominoes(split, num_scenes)
    if config.name in ("multi-dsprites", "multi-dsprites-colour"):
        return make_multi_dsprites(split, num_scenes, coloured_background=config.name == "multi-dsprites-colour")
    # These are slow to import, and only needed here.
    from pyro_compvae.data.solids.config import SolidsConfig
    from pyro_compvae.data.solids.scenes import make_solids

    solids = SolidsConfig(image_size=config.image_size, num_views=config.num_views)
    return make_solids(split, num_scenes, config=solids)


def _clevr_mv(root: Path, name: str, split: str, image_size: int) -> SceneSet:
    scenes = read_clevr_mv(root, name, "test" if split == "test" else "train", image_size)
    if split == "test":
        return scenes
    cut = len(scenes) * 9 // 10
    if cut == 0:
        raise DataError(
            f"{name}_train.json in {root}: expected at least two scenes, one to train on and one to hold out for "
            "validation, got one. Use a larger set."
        )
    part, which = (slice(None, cut), "first") if split == "train" else (slice(cut, None), "last")
    held = scenes.part(part)
    return replace(held, origin=f"the {which} {len(held):,} of {len(scenes):,} scenes of {scenes.origin}")


def _views(scenes: SceneSet) -> SceneSet:
    if scenes.num_views is None or scenes.num_views < 2:
        raise DataError(
            f"expected scenes of at least 2 views, one to observe and one to query, got {scenes.num_views}. MONet and "
            "IODINE do with one."
        )
    return scenes

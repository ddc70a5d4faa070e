"""The scenes that a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from pyro_compvae.config import DataConfig
from pyro_compvae.data.clevr_mv import WHERE_TO_GET, read_clevr_mv
from pyro_compvae.data.scenes import DataError, SceneSet
from pyro_compvae.data.sprites import SpriteConfig, make_sprites

FOLDERS = {"clevr-mv": "clevr_mv", "dolphin": "clevr_aug"}


def load_scenes(config: DataConfig, split: str, *, multi_view: bool = False) -> SceneSet:
    """One split: "train", "validation" (for a look during training) or "test" (unseen until the end).

    Data on disk have no validation split; the last tenth of their training scenes is held out for it.

    Args:
        config: which scenes.
        split: which of them.
        multi_view: whether to keep the views of a scene together; otherwise every view is a scene of its own.

    Raises:
        DataError: if data on disk are missing or malformed, or views are asked of data that have none or only one.
        ValueError: for an unknown split.
    """
    if config.name == "sprites":
        if multi_view:
            raise DataError("sprites have no cameras; MulMON wants --dataset solids, clevr-mv or dolphin")
        sprites = SpriteConfig(image_size=config.image_size)
        size = config.num_train if split == "train" else config.num_test
        return make_sprites(split, size, config=sprites)
    if config.name == "solids":
        from pyro_compvae.data.solids import SolidsConfig, make_solids  # slow to import, and only needed here

        solids = SolidsConfig(image_size=config.image_size, num_views=config.num_views)
        scenes = make_solids(split, config.num_train if split == "train" else config.num_test, config=solids)
        return _views(scenes) if multi_view else scenes.as_images()
    if config.root is None:
        raise DataError(
            f"--data-root: expected the folder that holds {FOLDERS[config.name]}/, got nothing. {WHERE_TO_GET}"
        )
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split: expected train, validation or test, got {split!r}")
    name = FOLDERS[config.name]
    scenes = read_clevr_mv(Path(config.root), name, "test" if split == "test" else "train", config.image_size)
    if split != "test":
        cut = len(scenes) * 9 // 10
        if cut == 0:
            raise DataError(
                f"{name}_train.json in {config.root}: expected at least two scenes, one to train on and one to hold "
                "out for validation, got one. Use a larger set."
            )
        scenes = scenes.part(slice(None, cut) if split == "train" else slice(cut, None))
    return _views(scenes) if multi_view else scenes.as_images()


def _views(scenes: SceneSet) -> SceneSet:
    if scenes.num_views is None or scenes.num_views < 2:
        raise DataError(
            f"expected scenes of at least 2 views, one to observe and one to query, got {scenes.num_views}. MONet and "
            "IODINE do with one."
        )
    return scenes

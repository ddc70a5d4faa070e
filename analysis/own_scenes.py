"""Training on a user's own images."""

from __future__ import annotations

from numpy.typing import NDArray
from torch import Tensor

from pyro_compvae.data import SceneSet, write_scenes
from pyro_compvae.data.scenes import SPLITS
from pyro_compvae.errors import ArgumentError
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.training.distributed import Workers


def own_scenes(
    scenes: SceneSet | Tensor | NDArray | None, viewpoints: Tensor | NDArray | None, resumed: bool
) -> SceneSet | None:
    """The scenes that `train` was given as a set, or None if it was given none.

    Raises:
        ArgumentError: for arrays that are no images, viewpoints without images or beside a set, and scenes for a
            resumed run.
    """
    if scenes is None:
        if viewpoints is not None:
            raise ArgumentError("viewpoints: expected images beside them, got none")
        return None
    if resumed:
        raise ArgumentError("scenes: expected none for a run that is resumed, whose scenes are in its folder")
    if isinstance(scenes, SceneSet):
        if viewpoints is not None:
            raise ArgumentError("viewpoints: expected none beside a SceneSet, which has its own")
        return scenes
    return SceneSet.from_arrays(scenes, viewpoints)


def with_own_scenes(folder: RunFolder, config: RunConfig, scenes: SceneSet) -> RunConfig:
    """The configuration of a run on a user's own scenes, which `keep_scenes` writes into its folder.

    Raises:
        ArgumentError: for scenes that are too few, not square, or have one view where the guide needs several.
    """
    height, width = scenes.image_size
    if height != width:
        raise ArgumentError(f"scenes: expected square images, got {height}×{width} pixels")
    if len(scenes) < len(SPLITS):
        raise ArgumentError(f"scenes: expected at least {len(SPLITS)}, one for each split, got {len(scenes)}")
    if config.multi_view and (scenes.num_views or 1) < 2:
        raise ArgumentError(f"scenes: expected several views of each for {config.guide}, got {scenes.num_views or 1}")
    data = {"name": "file", "root": str(folder.scenes.resolve()), "image_size": height}
    return config.replace({f"data.{name}": value for name, value in data.items()})


def keep_scenes(folder: RunFolder, scenes: SceneSet, workers: Workers) -> None:
    """Write the scenes into the run folder: eight tenths for training, one for validation, the last for the test."""
    if workers.is_first:
        folder.path.mkdir(parents=True, exist_ok=True)
        tenth = max(len(scenes) // 10, 1)
        cuts = {"train": slice(None, -2 * tenth), "validation": slice(-2 * tenth, -tenth), "test": slice(-tenth, None)}
        origin = scenes.origin or "own scenes"
        parts = {split: (f"{split} part of {origin}", scenes.part(cut).stored()) for split, cut in cuts.items()}
        write_scenes(folder.scenes, origin, parts, {})
    workers.wait()

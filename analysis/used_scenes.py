"""What training says about the scenes that it uses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from pyro_compvae.analysis.metrics.evaluation import MASK_METRICS
from pyro_compvae.data import SceneSet
from pyro_compvae.runs.config import RunConfig, flatten


def about_scenes(config: RunConfig, splits: Mapping[str, SceneSet]) -> Iterator[str]:
    """Lines on scenes that are read from disk, that are resized, or that have no masks; warns of too few slots."""
    scenes = splits["train"]
    if config.data.root is not None:
        numbers = ", ".join(f"{len(part):,} for {split}" for split, part in splits.items())
        yield f"{'images' if scenes.num_views is None else 'scenes'} of {config.data.root}: {numbers}"
    if others := set(scenes.stored_sizes) - {scenes.image_size}:
        found = ", ".join(f"{height} x {width}" for height, width in sorted(others))
        height, width = scenes.image_size
        yield f"images of {found} pixels are resized to {height} x {width}; --set data.image_size=N sets another size"
    if scenes.max_objects is None:
        yield f"no masks in {scenes.origin}: {', '.join(MASK_METRICS)} are left out"
    elif config.num_slots < scenes.max_objects + 1:
        warnings.warn(
            f"num_slots: expected at least {scenes.max_objects + 1} for scenes of up to {scenes.max_objects} objects "
            f"and their background, got {config.num_slots}; some slots will have to share.",
            stacklevel=2,
        )


def facts_of(config: RunConfig, sets: Mapping[str, SceneSet]) -> dict[str, Any]:
    """What workers have to agree in, named for messages. Data may have another place on each machine."""
    facts = {name: value for name, value in flatten(config).items() if name not in ("data.root", "frozen_model")}
    for name, scenes in sets.items():
        facts |= {f"the digest of {field} of {name}": digest for field, digest in scenes.digests.items()}
    return facts

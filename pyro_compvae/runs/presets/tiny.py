"""Presets that run for seconds and learn nothing, to see that everything runs."""

from __future__ import annotations

from typing import Any

from pyro_compvae.architectures import DecoderConfig
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.sections import (
    SIDES,
    AttentionConfig,
    DataConfig,
    DatasetName,
    GuideName,
    RefinementConfig,
    TrainingConfig,
    ViewsConfig,
)

FEW_OBJECTS = ("sprites", "tetrominoes", "solids")
"""Data sets of which no scene has more than three objects."""


def iodine(dataset: DatasetName) -> RunConfig:
    """IODINE with two iterations of a refinement network of four channels."""
    return _tiny("iodine", dataset, refinement=_REFINEMENT)


def monet(dataset: DatasetName) -> RunConfig:
    """MONet with three blocks of attention and two layers of encoder, four channels each."""
    attention = AttentionConfig(channels=(4, 4, 4), bottleneck=8, encoder_channels=(4, 4), encoder_hidden=8)
    return _tiny("monet", dataset, attention=attention)


def mulmon(dataset: DatasetName) -> RunConfig:
    """MulMON with IODINE's refinement, and small networks for the viewpoints."""
    views = ViewsConfig(view_hidden=4, projector_hidden=8)
    return _tiny("mulmon", dataset, refinement=_REFINEMENT, views=views)


_REFINEMENT = RefinementConfig(num_iterations=2, channels=(4, 4), mlp=(8,), hidden=8, layer_norm="joint")


def _tiny(guide: GuideName, dataset: DatasetName, **sections: Any) -> RunConfig:
    """The common part of the guides' tiny presets."""
    scenes: dict[str, Any] = (
        {"num_train": 8, "num_test": 4} if dataset == "solids" else {"num_train": 64, "num_test": 16}
    )
    return RunConfig(
        guide=guide,
        preset="tiny",
        num_slots=4 if dataset in FEW_OBJECTS else 7,
        latent_dim=4,
        data=DataConfig(dataset, image_size=SIDES.get(dataset, 16), **scenes),
        decoder=DecoderConfig(channels=(4, 4)),
        training=TrainingConfig(steps=4, batch_size=4, log_every=1, evaluate_every=2, checkpoint_every=2),
        **sections,
    )

"""Default presets for Tetrominoes, 35×35 pixels: a slot for each of the three pieces, and one for the background."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyro_compvae.architectures import DecoderConfig
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets.data_sets import data_section
from pyro_compvae.runs.presets.parts import SMALL_REFINEMENT, training
from pyro_compvae.runs.sections import AttentionConfig, DatasetName, GuideName, LnmsConfig, TrainingConfig, ViewsConfig


def iodine(dataset: DatasetName) -> RunConfig:
    """IODINE, with the departures that it has for small scenes, and cells of 5×5 pixels that start with equal ones."""
    return _tetrominoes("iodine", dataset, LnmsConfig(strength=0.3), training(6_000), refinement=SMALL_REFINEMENT)


def monet(dataset: DatasetName) -> RunConfig:
    """MONet, with the departures that it has for renders, on the grid of the image."""
    attention = AttentionConfig(
        channels=(16, 32, 32, 32),
        bottleneck=64,
        encoder_channels=(32, 32, 64),
        encoder_hidden=256,
        gain=1.0,
        gated=True,
        initial_scale=0.05,
    )
    schedule = training(6_000, kl_weight=0.5, kl_warmup_steps=0)
    config = _tetrominoes("monet", dataset, LnmsConfig(strength=0.15), schedule, attention=attention)
    return replace(config, decoder=DecoderConfig(channels=(32, 32, 32), num_frequencies=3))


def mulmon(dataset: DatasetName) -> RunConfig:
    """MulMON with IODINE's networks, which nothing can be trained with: these scenes have no cameras."""
    views = ViewsConfig(refine_with_viewpoint=True)
    return _tetrominoes("mulmon", dataset, LnmsConfig(), training(6_000), refinement=SMALL_REFINEMENT, views=views)


def _tetrominoes(
    guide: GuideName, dataset: DatasetName, lnms_prior: LnmsConfig, schedule: TrainingConfig, **sections: Any
) -> RunConfig:
    return RunConfig(
        guide=guide,
        preset="default",
        num_slots=4,
        latent_dim=16,
        data=data_section(dataset, 35),
        decoder=DecoderConfig(channels=(64, 64, 64), num_frequencies=6, upsample=5, icnr=True),
        lnms_prior=lnms_prior,
        training=schedule,
        **sections,
    )

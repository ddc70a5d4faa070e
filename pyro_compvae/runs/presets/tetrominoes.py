"""Default presets for Tetrominoes, 35×35 pixels: a slot for each of the three pieces, and one for the background."""

from __future__ import annotations

from pyro_compvae.architectures import DecoderConfig
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets.parts import GATED_ATTENTION, SMALL_REFINEMENT, Kind, training
from pyro_compvae.runs.sections import DatasetName, ViewsConfig

_TETROMINOES = Kind(
    image_size=35,
    num_slots=4,
    latent_dim=16,
    decoder=DecoderConfig(channels=(64, 64, 64), num_frequencies=6, upsample=5, icnr=True),
)


def iodine(dataset: DatasetName) -> RunConfig:
    """IODINE, with the departures that it has for small scenes, and cells of 5×5 pixels that start with equal ones."""
    return _TETROMINOES.preset("iodine", dataset, 0.3, training(6_000), refinement=SMALL_REFINEMENT)


def monet(dataset: DatasetName) -> RunConfig:
    """MONet, with the departures that it has for renders, on the grid of the image."""
    schedule = training(6_000, kl_weight=0.5, kl_warmup_steps=0)
    decoder = DecoderConfig(channels=(32, 32, 32), num_frequencies=3)
    return _TETROMINOES.preset("monet", dataset, 0.15, schedule, decoder, attention=GATED_ATTENTION)


def mulmon(dataset: DatasetName) -> RunConfig:
    """MulMON with IODINE's networks, which nothing can be trained with: these scenes have no cameras."""
    views = ViewsConfig(refine_with_viewpoint=True)
    return _TETROMINOES.preset("mulmon", dataset, 1.0, training(6_000), refinement=SMALL_REFINEMENT, views=views)

"""Default presets for sprites and solids, 24×24 pixels, which take minutes."""

from __future__ import annotations

from dataclasses import replace

from pyro_compvae.architectures import DecoderConfig
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets.parts import SMALL_REFINEMENT, Kind, training
from pyro_compvae.runs.sections import AttentionConfig, DatasetName, ViewsConfig

_SMALL = Kind(
    image_size=24,
    num_slots=5,
    latent_dim=8,
    decoder=DecoderConfig(channels=(32, 32, 32), num_frequencies=3, upsample=3),
)


def iodine(dataset: DatasetName) -> RunConfig:
    """IODINE. Besides the refinement network (`parts`), these differ from the paper: a coarse decoder grid with
    sub-pixel output and Fourier features of the coordinates, and a KL warm-up. L-NMS has the paper's strength per
    pixel: 1 at 64×64 is 0.15 at 24×24.
    """
    return _SMALL.preset("iodine", dataset, 0.15, training(3_000), refinement=SMALL_REFINEMENT)


def monet(dataset: DatasetName) -> RunConfig:
    """MONet. Besides the sizes, Adam and a warm-up of β and γ differ from the paper. The decoder's grid is that of the
    image, because with sub-pixel output attention learns to colour pixels from a palette in every cell.
    """
    attention = AttentionConfig(
        channels=(16, 32, 32, 32),
        bottleneck=64,
        encoder_channels=(32, 32),
        encoder_hidden=128,
        mask_warmup_steps=2_000,
    )
    schedule = training(3_000, kl_weight=0.5, kl_warmup_steps=2_000)
    decoder = DecoderConfig(channels=(16, 16, 16))
    return _SMALL.preset("monet", dataset, 0.075, schedule, decoder, attention=attention)


def mulmon(dataset: DatasetName) -> RunConfig:
    """MulMON, with IODINE's departures.

    The refinement network sees the viewpoint. Through the gradients alone, as published, it had not learned after 1,300
    steps how places in an image correspond to places in the scene. L-NMS at IODINE's strength delays this learning.
    """
    return _SMALL.preset(
        "mulmon",
        dataset,
        0.05,
        # Without the KL from view to view, λ feeds back on itself and may run away.
        training(5_000, batch_size=8, kl_warmup_steps=300),
        replace(_SMALL.decoder, icnr=True),
        # Each step of every view contracts the posterior, so each must contract it little.
        refinement=replace(SMALL_REFINEMENT, num_iterations=4, contraction=0.2),
        views=ViewsConfig(max_observed=3, refine_with_viewpoint=True),
    )

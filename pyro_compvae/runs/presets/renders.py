"""Default presets for renders and other images with the paper's 64×64 pixels, which take hours."""

from __future__ import annotations

from dataclasses import replace

from pyro_compvae.architectures import DecoderConfig
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets.parts import GATED_ATTENTION, SMALL_REFINEMENT, Kind, training
from pyro_compvae.runs.sections import DatasetName, ViewsConfig

_RENDERS = Kind(
    image_size=64,
    num_slots=7,
    latent_dim=16,
    # Cells start with equal pixels, since slots take alternate pixels of a cell otherwise and become stripes.
    decoder=DecoderConfig(channels=(32, 32, 32), num_frequencies=3, upsample=2, icnr=True),
)


def iodine(dataset: DatasetName) -> RunConfig:
    """IODINE, with the departures that it has for small scenes, a longer KL warm-up, in which slots find objects before
    the KL divergence counts in full, and a decoder whose cells start with equal pixels.
    """
    schedule = training(6_000, batch_size=8, kl_warmup_steps=2_000)
    return _RENDERS.preset("iodine", dataset, 1.0, schedule, refinement=SMALL_REFINEMENT)


def monet(dataset: DatasetName) -> RunConfig:
    """MONet, with more changes than for small scenes (`parts.GATED_ATTENTION`).

    Attention runs on a grid as coarse as the decoder's, so that slots cannot take alternate pixels of a cell; β and γ
    have no warm-up.
    """
    schedule = training(20_000, batch_size=8, kl_weight=0.5, kl_warmup_steps=0)
    attention = replace(GATED_ATTENTION, downsample=2)
    return _RENDERS.preset("monet", dataset, 0.5, schedule, attention=attention)


def mulmon(dataset: DatasetName) -> RunConfig:
    """MulMON, with latents that turn with the camera.

    With a learned projector every slot became one colour of the average over all views. Queries weigh little at first,
    since as long as they are predicted in wrong places they keep objects from being found, and views come one by one.
    The refinement network sees averages over 2×2 pixels, and the decoder's cells have 4×4.
    """
    views = ViewsConfig(
        turntable=True,
        max_observed=4,
        observed_warmup_steps=1_000,
        max_queried=2,
        query_warmup_steps=1_000,
        analytic_kl=True,
    )
    schedule = training(8_000, batch_size=8, kl_warmup_steps=2_000)
    refinement = replace(SMALL_REFINEMENT, pooled_inputs=2)
    decoder = DecoderConfig(channels=(64, 64, 64), num_frequencies=6, upsample=4, icnr=True)
    return _RENDERS.preset("mulmon", dataset, 1.0, schedule, decoder, refinement=refinement, views=views)

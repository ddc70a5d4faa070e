"""Default presets for renders and other images with the paper's 64×64 pixels, which take hours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyro_compvae.architectures import DecoderConfig
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets.data_sets import data_section
from pyro_compvae.runs.presets.parts import SMALL_REFINEMENT, training
from pyro_compvae.runs.sections import (
    AttentionConfig,
    DatasetName,
    GuideName,
    LnmsConfig,
    TrainingConfig,
    ViewsConfig,
)


def iodine(dataset: DatasetName) -> RunConfig:
    """IODINE, with the departures that it has for small scenes, a longer KL warm-up, in which slots find objects before
    the KL divergence counts in full, and a decoder whose cells start with equal pixels.
    """
    schedule = training(6_000, batch_size=8, kl_warmup_steps=2_000)
    return _renders("iodine", dataset, LnmsConfig(), schedule, refinement=SMALL_REFINEMENT)


def monet(dataset: DatasetName) -> RunConfig:
    """MONet, with more changes than for small scenes.

    A component's encoder sees nothing but its component, since posteriors collapse otherwise, even with the true masks.
    Posteriors start narrow, so that positions can be decoded. Attention starts soft and runs on a grid as coarse as the
    decoder's, so that slots cannot take alternate pixels of a cell; β and γ have no warm-up.
    """
    attention = AttentionConfig(
        channels=(16, 32, 32, 32),
        bottleneck=64,
        encoder_channels=(32, 32, 64),
        encoder_hidden=256,
        downsample=2,
        gain=1.0,
        gated=True,
        initial_scale=0.05,
    )
    schedule = training(20_000, batch_size=8, kl_weight=0.5, kl_warmup_steps=0)
    return _renders("monet", dataset, LnmsConfig(strength=0.5), schedule, attention=attention)


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
    config = _renders("mulmon", dataset, LnmsConfig(), schedule, refinement=refinement, views=views)
    return replace(config, decoder=DecoderConfig(channels=(64, 64, 64), num_frequencies=6, upsample=4, icnr=True))


def _renders(
    guide: GuideName, dataset: DatasetName, lnms_prior: LnmsConfig, schedule: TrainingConfig, **sections: Any
) -> RunConfig:
    return RunConfig(
        guide=guide,
        preset="default",
        num_slots=7,
        latent_dim=16,
        data=data_section(dataset, 64),
        # Cells start with equal pixels, since slots take alternate pixels of a cell otherwise and become stripes.
        decoder=DecoderConfig(channels=(32, 32, 32), num_frequencies=3, upsample=2, icnr=True),
        lnms_prior=lnms_prior,
        training=schedule,
        **sections,
    )

"""Presets for two CPU cores, which take minutes on scenes that are made on the spot, and hours on data on disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyro_compvae.architectures import DecoderConfig
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets.data_sets import data_section
from pyro_compvae.runs.sections import (
    MADE,
    AttentionConfig,
    DatasetName,
    GuideName,
    LnmsConfig,
    RefinementConfig,
    TrainingConfig,
    ViewsConfig,
)


def iodine(dataset: DatasetName) -> RunConfig:
    """IODINE: less than half an hour on two CPU cores, and an hour or two on data on disk; see docs/results.md.

    Besides the sizes, these differ from the paper: a coarse decoder grid with sub-pixel output, Fourier features of the
    coordinates, refinement features that keep their positions, no LSTM, separate normalisation of the gradients of
    means and scales, posteriors that start wide and contract, and a KL warm-up. L-NMS has the paper's strength per
    pixel: 1 at 64×64 is 0.15 at 24×24.

    Data on disk have the paper's 64×64 pixels, a longer KL warm-up, in which slots find objects before the KL
    divergence counts in full, and a decoder whose cells start with equal pixels.
    """
    if dataset not in MADE:
        training = replace(_training(6_000, batch_size=8), kl_warmup_steps=2_000)
        return _default("iodine", dataset, LnmsConfig(), training, refinement=_SMALL_REFINEMENT)
    return _default("iodine", dataset, LnmsConfig(strength=0.15), _training(3_000), refinement=_SMALL_REFINEMENT)


def monet(dataset: DatasetName) -> RunConfig:
    """MONet: less than half an hour on two CPU cores, and up to three hours on data on disk; see docs/results.md.

    Besides the sizes, Adam and a warm-up of β and γ differ from the paper. The decoder's grid is that of the image,
    because with sub-pixel output attention learns to colour pixels from a palette in every cell.

    Renders need more changes. A component's encoder sees nothing but its component, since posteriors collapse
    otherwise, even with the true masks. Posteriors start narrow, so that positions can be decoded. Attention starts
    soft and runs on a grid as coarse as the decoder's, so that slots cannot take alternate pixels of a cell; β and γ
    have no warm-up.
    """
    if dataset not in MADE:
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
        training = replace(_training(20_000, batch_size=8, kl_weight=0.5), kl_warmup_steps=0)
        return _default("monet", dataset, LnmsConfig(strength=0.5), training, attention=attention)
    attention = AttentionConfig(
        channels=(16, 32, 32, 32),
        bottleneck=64,
        encoder_channels=(32, 32),
        encoder_hidden=128,
        mask_warmup_steps=2_000,
    )
    training = replace(_training(3_000, kl_weight=0.5), kl_warmup_steps=2_000)
    config = _default("monet", dataset, LnmsConfig(strength=0.075), training, attention=attention)
    return replace(config, decoder=DecoderConfig(channels=(16, 16, 16)))


def mulmon(dataset: DatasetName) -> RunConfig:
    """MulMON: less than half an hour on two CPU cores, and on data on disk two or three, with IODINE's departures.

    The refinement network sees the viewpoint. Through the gradients alone, as published, it had not learned after 1,300
    steps how places in an image correspond to places in the scene. L-NMS at IODINE's strength delays this learning.

    On renders it did not learn this at all: every slot became one colour of the average over all views. There latents
    turn with the camera instead. Queries weigh little at first, since as long as they are predicted in wrong places
    they keep objects from being found, and views come one by one. The refinement network sees averages over 2×2 pixels,
    and the decoder's cells have 4×4.
    """
    if dataset not in MADE:
        training = replace(_training(8_000, batch_size=8), kl_warmup_steps=2_000)
        views = ViewsConfig(
            turntable=True,
            max_observed=4,
            observed_warmup_steps=1_000,
            max_queried=2,
            query_warmup_steps=1_000,
            analytic_kl=True,
        )
        refinement = replace(_SMALL_REFINEMENT, pooled_inputs=2)
        config = _default("mulmon", dataset, LnmsConfig(), training, refinement=refinement, views=views)
        return replace(config, decoder=DecoderConfig(channels=(64, 64, 64), num_frequencies=6, upsample=4, icnr=True))
    config = _default(
        "mulmon",
        dataset,
        LnmsConfig(strength=0.05),
        # Without the KL from view to view, λ feeds back on itself and may run away.
        replace(_training(5_000, batch_size=8), kl_warmup_steps=300),
        # Each step of every view contracts the posterior, so each must contract it little.
        refinement=replace(_SMALL_REFINEMENT, num_iterations=4, contraction=0.2),
        views=ViewsConfig(max_observed=3, refine_with_viewpoint=True),
    )
    return replace(config, decoder=replace(config.decoder, icnr=True))


_RENDERS_DECODER = DecoderConfig(channels=(32, 32, 32), num_frequencies=3, upsample=2, icnr=True)
"""The decoder for renders. Its cells start with equal pixels, since slots take alternate pixels of a cell otherwise and
become stripes instead of objects."""

_SMALL_REFINEMENT = RefinementConfig(
    num_iterations=5,
    contraction=1.0,
    channels=(32, 32),
    mlp=(),
    recurrent=False,
    pooling="flatten",
    num_frequencies=3,
    layer_norm="split",
)


def _default(
    guide: GuideName,
    dataset: DatasetName,
    lnms_prior: LnmsConfig,
    training: TrainingConfig,
    **sections: Any,
) -> RunConfig:
    """The common part of the guides' default presets; data on disk have larger images and want more slots."""
    made = dataset in MADE
    made_decoder = DecoderConfig(channels=(32, 32, 32), num_frequencies=3, upsample=3)
    return RunConfig(
        guide=guide,
        preset="default",
        num_slots=5 if made else 7,
        latent_dim=8 if made else 16,
        data=data_section(dataset, 24 if made else 64),
        decoder=made_decoder if made else _RENDERS_DECODER,
        lnms_prior=lnms_prior,
        training=training,
        **sections,
    )


def _training(steps: int, batch_size: int = 16, kl_weight: float = 1.0) -> TrainingConfig:
    return TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=1e-3,
        beta1=0.95,
        warmup_steps=200,
        decay_steps=steps,
        kl_weight=kl_weight,
        kl_warmup_steps=1_000,
        evaluate_every=250,
        checkpoint_every=250,
    )

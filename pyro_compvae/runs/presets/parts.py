"""Parts that several presets share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyro_compvae.architectures import DecoderConfig
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets.data_sets import data_section
from pyro_compvae.runs.sections import (
    AttentionConfig,
    DatasetName,
    GuideName,
    LnmsConfig,
    RefinementConfig,
    TrainingConfig,
)

SMALL_REFINEMENT = RefinementConfig(
    num_iterations=5,
    contraction=1.0,
    channels=(32, 32),
    mlp=(),
    recurrent=False,
    pooling="flatten",
    num_frequencies=3,
    layer_norm="split",
)
"""A refinement network for two CPU cores. Besides the sizes, it differs from the paper: features keep their positions,
there are Fourier features of the coordinates and no LSTM, gradients of means and scales are normalised one by one, and
posteriors start wide and contract."""

GATED_ATTENTION = AttentionConfig(
    channels=(16, 32, 32, 32),
    bottleneck=64,
    encoder_channels=(32, 32, 64),
    encoder_hidden=256,
    gain=1.0,
    gated=True,
    initial_scale=0.05,
)
"""Networks of MONet with which it finds several objects of one colour. A component's encoder sees nothing but its
component, since posteriors collapse otherwise, even with the true masks. Posteriors start narrow, so that positions can
be decoded, and attention starts soft."""


@dataclass(frozen=True)
class Kind:
    """What the default presets of all guides share for scenes of one kind."""

    image_size: int
    num_slots: int
    latent_dim: int
    decoder: DecoderConfig

    def preset(
        self,
        guide: GuideName,
        dataset: DatasetName,
        strength: float,
        schedule: TrainingConfig,
        decoder: DecoderConfig | None = None,
        **sections: Any,
    ) -> RunConfig:
        """The default preset of a guide, with L-NMS of this strength, perhaps with a decoder of its own."""
        return RunConfig(
            guide=guide,
            preset="default",
            num_slots=self.num_slots,
            latent_dim=self.latent_dim,
            data=data_section(dataset, self.image_size),
            decoder=decoder or self.decoder,
            lnms_prior=LnmsConfig(strength=strength),
            training=schedule,
            **sections,
        )


def training(steps: int, batch_size: int = 16, kl_weight: float = 1.0, kl_warmup_steps: int = 1_000) -> TrainingConfig:
    """Adam with a larger learning rate than the papers', which falls over all steps, and a warm-up of β."""
    return TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=1e-3,
        beta1=0.95,
        warmup_steps=200,
        decay_steps=steps,
        kl_weight=kl_weight,
        kl_warmup_steps=kl_warmup_steps,
        evaluate_every=250,
        checkpoint_every=250,
    )

"""The paper's presets, with the settings of its Tables 2–4, at 64×64 with K = 7, D = 16."""

from __future__ import annotations

from pyro_compvae.architectures import DecoderConfig
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets.data_sets import data_section
from pyro_compvae.runs.sections import (
    AttentionConfig,
    DatasetName,
    LnmsConfig,
    RefinementConfig,
    TrainingConfig,
    ViewsConfig,
)


def iodine(dataset: DatasetName) -> RunConfig:
    """IODINE (Table 3), with the networks of Greff et al. 2019 for CLEVR6, and D = 16 as in the paper."""
    return RunConfig(guide="iodine", data=data_section(dataset, 64), refinement=RefinementConfig(layer_norm="joint"))


def monet(dataset: DatasetName) -> RunConfig:
    """MONet (Table 2), with the networks of Burgess et al. 2019 as re-implemented in object-centric-library."""
    return RunConfig(
        guide="monet",
        data=data_section(dataset, 64),
        decoder=DecoderConfig(channels=(32, 32, 64, 64), padded=False, activation="relu"),
        attention=AttentionConfig(),
        lnms_prior=LnmsConfig(strength=0.5),
        training=TrainingConfig(learning_rate=3e-4, optimiser="rmsprop", decay_steps=None, kl_weight=0.5),
    )


def mulmon(dataset: DatasetName) -> RunConfig:
    """MulMON (Table 4), with the networks of MulMON's published code."""
    return RunConfig(
        guide="mulmon",
        data=data_section(dataset, 64, num_views=10),
        decoder=DecoderConfig(channels=(32, 32, 32, 32), padded=False, activation="relu"),
        refinement=RefinementConfig(
            channels=(32, 32, 64, 64),
            mlp=(256, 128),
            hidden=128,
            pooling="flatten",
            padded=False,
            activation="relu",
            layer_norm="mulmon",
        ),
        views=ViewsConfig(),
    )

"""From a configuration to a model and its guide."""

from __future__ import annotations

import torch

from guides.iodine import IodineGuide
from guides.refinement import RefinementNetwork
from pyro_compvae.config import RunConfig
from pyro_compvae.models import SceneModel
from pyro_compvae.networks import SpatialBroadcastDecoder


def build_guide(config: RunConfig) -> IodineGuide:
    """The guide that a configuration describes, freshly initialised; its model is ``guide.model``.

    Convolutions get the channels-last layout, which is what the CPU's and the GPU's kernels want.
    """
    size = (config.data.image_size, config.data.image_size)
    d, r, training = config.decoder, config.refinement, config.training
    decoder = SpatialBroadcastDecoder(
        config.latent_dim,
        size,
        channels=d.channels,
        num_layers=d.num_layers,
        kernel_size=d.kernel_size,
        num_frequencies=d.num_frequencies,
        upsample=d.upsample,
        precision=training.precision,
    )
    network = RefinementNetwork(
        config.latent_dim,
        size,
        channels=r.channels,
        kernel_size=r.kernel_size,
        mlp=r.mlp,
        hidden=r.hidden,
        recurrent=r.recurrent,
        contraction=r.contraction,
        pooling=r.pooling,
        num_frequencies=r.num_frequencies,
        precision=training.precision,
    )
    guide = IodineGuide(
        SceneModel(decoder, config.num_slots, config.scale),
        network,
        num_iterations=r.num_iterations,
        initial_scale=r.initial_scale,
        lnms_strength=config.lnms_prior.strength if config.lnms else 0.0,
        lnms_scale=config.lnms_prior.scale,
    )
    return guide.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

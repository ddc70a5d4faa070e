"""How a configuration becomes a model and its guide."""

from __future__ import annotations

from pyro_compvae.decoder import SpatialBroadcastDecoder
from pyro_compvae.geco import Geco
from pyro_compvae.guide import SceneGuide
from pyro_compvae.guides.iodine import IodineGuide
from pyro_compvae.guides.monet import MonetGuide
from pyro_compvae.guides.monet_networks import AttentionNetwork, ComponentEncoder
from pyro_compvae.guides.mulmon import MulmonGuide
from pyro_compvae.guides.refinement.network import RefinementNetwork
from pyro_compvae.guides.weight_limit import WeightLimit
from pyro_compvae.images import VIEWPOINT_DIM
from pyro_compvae.models import MultiViewSceneModel, SceneModel
from pyro_compvae.runs.config import RunConfig


def build_guide(config: RunConfig) -> SceneGuide:
    """The guide that a configuration describes, freshly initialised; its model is ``guide.model``.

    Raises:
        ConfigError: if it would have more weights than `weight_limit.MAX_WEIGHTS`.
        ArgumentError: if sizes of networks and images do not fit together.
    """
    make = {"iodine": _iodine, "monet": _monet, "mulmon": _mulmon}[config.guide]
    with WeightLimit():
        guide = make(config)
    guide.lnms_form = config.lnms_prior.form
    training = config.training
    if training.geco_target is not None:
        guide.geco = Geco(training.geco_target, training.geco_rate, training.geco_start)
    return guide


def _iodine(config: RunConfig) -> IodineGuide:
    assert config.refinement is not None
    guide = IodineGuide(
        SceneModel(_decoder(config), config.num_slots, config.scale),
        _refinement_network(config),
        num_iterations=config.refinement.num_iterations,
        initial_scale=config.refinement.initial_scale,
        lnms_strength=_lnms_strength(config),
        lnms_scale=config.lnms_prior.scale,
    )
    guide.attached_inputs = config.refinement.attached_inputs
    return guide


def _monet(config: RunConfig) -> MonetGuide:
    assert config.attention is not None
    size, precision = _image_size(config), config.training.precision
    return MonetGuide(
        SceneModel(_decoder(config), config.num_slots, config.scale),
        AttentionNetwork(size, config.attention, precision),
        ComponentEncoder(config.latent_dim, size, config.attention, precision),
        mask_strength=config.attention.mask_strength,
        lnms_strength=_lnms_strength(config),
        lnms_scale=config.lnms_prior.scale,
    )


def _mulmon(config: RunConfig) -> MulmonGuide:
    v = config.views
    assert v is not None
    assert config.refinement is not None
    model = MultiViewSceneModel(
        _decoder(config),
        config.num_slots,
        config.scale,
        view_dim=v.view_dim,
        view_hidden=v.view_hidden,
        projector_hidden=v.projector_hidden,
        turntable=v.turntable,
    )
    guide = MulmonGuide(
        model,
        _refinement_network(config, VIEWPOINT_DIM if v.refine_with_viewpoint else 0),
        num_iterations=config.refinement.num_iterations,
        max_observed=v.max_observed,
        viewpoint_noise=v.viewpoint_noise,
        lnms_strength=_lnms_strength(config),
        lnms_scale=config.lnms_prior.scale,
    )
    guide.attached_inputs = config.refinement.attached_inputs
    guide.max_queried, guide.analytic_kl = v.max_queried, v.analytic_kl
    return guide


def _decoder(config: RunConfig) -> SpatialBroadcastDecoder:
    return SpatialBroadcastDecoder(config.latent_dim, _image_size(config), config.decoder, config.training.precision)


def _refinement_network(config: RunConfig, context_dim: int = 0) -> RefinementNetwork:
    assert config.refinement is not None
    return RefinementNetwork(
        config.latent_dim, _image_size(config), config.refinement, context_dim, config.training.precision
    )


def _image_size(config: RunConfig) -> tuple[int, int]:
    return config.data.image_size, config.data.image_size


def _lnms_strength(config: RunConfig) -> float:
    return config.lnms_prior.strength if config.lnms else 0.0

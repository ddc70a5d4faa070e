"""Multi-object variational autoencoders with the L-NMS correlation prior, in Pyro."""

from importlib.metadata import PackageNotFoundError, version

from pyro_compvae.architectures import DecoderConfig
from pyro_compvae.decoder import SpatialBroadcastDecoder
from pyro_compvae.errors import CompvaeError
from pyro_compvae.guide import SceneGuide
from pyro_compvae.lnms import lnms_factor, lnms_log_density, slot_correlation
from pyro_compvae.mixture import SpatialGaussianMixture
from pyro_compvae.models import MultiViewSceneModel, SceneModel
from pyro_compvae.permutation import log_permanent
from pyro_compvae.repulsion import RepulsivePrior, repulsive

try:
    __version__ = version("pyro-compvae")
except PackageNotFoundError:  # the package runs from a checkout on the path and was never installed
    __version__ = "unknown"

__all__ = [
    "CompvaeError",
    "DecoderConfig",
    "MultiViewSceneModel",
    "RepulsivePrior",
    "SceneGuide",
    "SceneModel",
    "SpatialBroadcastDecoder",
    "SpatialGaussianMixture",
    "lnms_factor",
    "lnms_log_density",
    "log_permanent",
    "repulsive",
    "slot_correlation",
]

"""What training and analysis ask of every guide."""

from __future__ import annotations

from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.models import SceneModel


class SceneGuide(PyroModule):
    """A Pyro guide of a `SceneModel` that samples "z" from a posterior which factorises over slots.

    In eval mode it is plain Pyro: nothing but the site "z" in the plate "scenes". In train mode the extra terms of its
    published objective are factors.

    Attributes:
        model: the generative model, whose parameters are trained along with the guide's.
        kl_weight: β of the training objective, and of the ELBO whose gradients steer iterative refinement in either
            mode; a training schedule may set it.
        lnms_strength: s in train mode; a training schedule may set it.
    """

    model: SceneModel
    kl_weight: float
    lnms_strength: float

    def __init__(self, model: SceneModel, lnms_strength: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.kl_weight = 1.0
        self.lnms_strength = lnms_strength

    def posterior(self, x: Tensor) -> Normal:
        """q(z | x), batch shape (B, K, D), of images x (B, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro guide: samples "z" (B, K, D) for images x (B, 3, H, W)."""
        raise NotImplementedError

"""Generative models of scenes, as Pyro programs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_compvae.decoder import SpatialBroadcastDecoder
from pyro_compvae.errors import ArgumentError
from pyro_compvae.images import VIEWPOINT_DIM, check_images, check_viewpoints, check_views
from pyro_compvae.mixture import SpatialGaussianMixture
from pyro_compvae.precision import own_precision
from pyro_compvae.programs import Program
from pyro_compvae.turntable import turn

IMAGES_SCORED = "images_scored"
"""A key in ``infer`` of a guide's site "z", true if the guide's factors hold the likelihood of the images.

Some published training objectives do not score images as the model does. A model that is replayed against the trace of
such a guide leaves out the site "x", or masks it if it is to be simulated; otherwise the images would count twice.
"""


PriorFactory = Callable[[Tensor], dist.TorchDistribution]
"""A function of zeros (K, D) that makes p(z) of one scene, event (K, D), on their device and in their precision."""


def standard_normal(zeros: Tensor) -> dist.TorchDistribution:
    """N(0, I), event (K, D)."""
    return dist.Normal(zeros, torch.ones_like(zeros)).to_event(2)


class SlotModel(Program):
    """K exchangeable slots with a standard normal prior, decoded one by one and composed pixel by pixel.

    `SceneModel` and `MultiViewSceneModel` extend it. σ is the same for all slots, so the joint is invariant under
    permutations of the slots. The model has no factors, in train or in eval mode, and works with every Pyro inference
    algorithm. The site "x" is left out only where the model is replayed against a guide in train mode whose objective
    scores the images itself (`IMAGES_SCORED`). ``num_slots`` may be changed at any time: no weight depends on it.

    ``make_prior`` makes p(z). It is the standard normal unless it is replaced, as `pyro_compvae.repulsion.repulsive`
    does.

    Args:
        decoder: maps z (..., K, D) to means (..., K, 3, H, W) and mask logits (..., K, 1, H, W).
        num_slots: K.
        scale: σ, the standard deviation of a colour channel.
    """

    decoder: SpatialBroadcastDecoder

    def __init__(self, decoder: SpatialBroadcastDecoder, num_slots: int, scale: float = 0.1) -> None:
        super().__init__()
        self.decoder = decoder
        self.num_slots = num_slots
        self.latent_dim = decoder.latent_dim
        self.image_size = decoder.image_size
        self.scale = scale
        self.make_prior: PriorFactory = standard_normal

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights, and of the images that the model takes."""
        return next(self.parameters()).dtype

    def prior(self) -> dist.TorchDistribution:
        """p(z) of one scene, event (K, D)."""
        return self.make_prior(next(self.parameters()).new_zeros(self.num_slots, self.latent_dim))

    def compose(self, z: Tensor) -> SpatialGaussianMixture:
        """The image that slots (..., K, D) decode to, of batch shape (...)."""
        means, mask_logits = self.decoder(z)
        return SpatialGaussianMixture(means, mask_logits, self.scale)

    def likelihood(self, z: Tensor, *viewpoint: Tensor) -> SpatialGaussianMixture:
        """p(x | z) of one image, for slots (..., K, D), and for viewpoints (..., 3) if the model has any."""
        raise NotImplementedError

    def _sample_slots(self) -> tuple[Tensor, bool]:
        """The site "z", and whether the guide that has drawn it scores the images itself.

        An ELBO replays the model against the guide's trace, which carries what the guide has noted at its site.
        """
        with poutine.trace() as recorded:
            z = pyro.sample("z", self.prior())
        site: Any = recorded.trace.nodes["z"]
        return z, site["infer"].get(IMAGES_SCORED, False)


class SceneModel(SlotModel):
    r"""A single image of a scene.

        z_bk ~ N(0, I_D)                         k = 1..K         site "z", event (K, D)
        (μ_bk, a_bk) = decoder(z_bk)                               means in [0, 1], mask logits
        x_bi ~ Σ_k softmax_k(a_bi)_k N(μ_bki, σ² I_3)             site "x", event (3, H, W)   (paper, Eq. 1)

    Scenes lie in the plate "scenes", dimension -1; further sample dimensions (particles) go to the left of it.
    """

    @own_precision
    def likelihood(self, z: Tensor) -> SpatialGaussianMixture:  # type: ignore[override]
        """p(x | z): slots (..., K, D) → images of batch shape (...)."""
        return self.compose(z)

    def forward(self, x: Tensor | None = None, num_scenes: int | None = None) -> Tensor:
        """Run the program on images x (B, 3, H, W), or, with x = None, simulate ``num_scenes`` of them.

        Raises:
            ValueError: if x is not a batch of images of the model's size.
        """
        if x is not None:
            check_images(x, self)
            num_scenes = len(x)
        if num_scenes is None:
            raise ArgumentError("expected images x, or num_scenes to simulate without them; got neither")
        with pyro.plate("scenes", num_scenes, dim=-1):
            z, images_scored = self._sample_slots()
            if x is not None and images_scored:
                return x
            with poutine.mask(mask=False) if images_scored else nullcontext():
                return pyro.sample("x", self.likelihood(z), obs=x)


class MultiViewSceneModel(SlotModel):
    r"""Images of one scene from several viewpoints (MulMON: Li et al. 2020).

        z_bk ~ N(0, I_D)                                             site "z", event (K, D): the scene, not a view of it
        z'_bvk = projector(z_bk, view_encoder(viewpoint_bv)), or, on a turntable, R(viewpoint_bv) z_bk
        x_bv ~ mixture that z'_bv decodes to                          site "x", event (3, H, W)

    Scenes lie in the plate "scenes", dimension -1, views in the plate "views", dimension -2, so the site "x" has batch
    shape (V, B) although images are given as (B, V, ...). Particles go to the left of both. MulMON's code puts a
    learned λ₀ in place of the prior; this keeps the paper's N(0, I).

    Args:
        decoder, num_slots, scale: as in `SlotModel`.
        view_dim: width of a viewpoint's code.
        view_hidden, projector_hidden: hidden widths of view encoder and projector.
        turntable: whether latents turn with the camera (`pyro_compvae.turntable`), in place of view encoder and
            projector.

    Raises:
        ArgumentError: for too few latents to turn.
    """

    def __init__(
        self,
        decoder: SpatialBroadcastDecoder,
        num_slots: int,
        scale: float = 0.1,
        view_dim: int = 3,
        view_hidden: int = 128,
        projector_hidden: int = 512,
        turntable: bool = False,
    ) -> None:
        super().__init__(decoder, num_slots, scale)
        self.turntable = turntable
        if turntable:
            if self.latent_dim < 4:
                raise ArgumentError(f"latent_dim: expected at least 4 for latents that turn, got {self.latent_dim}")
            return
        self.view_encoder = nn.Sequential(
            nn.Linear(VIEWPOINT_DIM, view_hidden), nn.ReLU(), nn.Linear(view_hidden, view_dim)
        )
        self.projector = nn.Sequential(
            nn.Linear(self.latent_dim + view_dim, projector_hidden),
            nn.ReLU(),
            nn.Linear(projector_hidden, self.latent_dim),
        )
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Keep the variance of z and of viewpoints from layer to layer; torch's default would lose most of it."""
        for module in (*self.view_encoder, *self.projector):
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                module.bias.zero_()

    @own_precision
    def likelihood(self, z: Tensor, viewpoint: Tensor) -> SpatialGaussianMixture:  # type: ignore[override]
        """p(x | z, viewpoint): slots (..., K, D) and viewpoints (..., 3), whose batch shapes broadcast."""
        if self.turntable:
            return self.compose(turn(z, viewpoint))
        code = self.view_encoder(viewpoint).unsqueeze(-2)  # (..., 1, view_dim)
        shape = torch.broadcast_shapes(z.shape[:-1], code.shape[:-1])
        both = torch.cat((z.expand(*shape, -1), code.expand(*shape, -1)), dim=-1)
        return self.compose(self.projector(both))

    def forward(self, x: Tensor | None, viewpoints: Tensor) -> Tensor:
        """Run the program on images x (B, V, 3, H, W) from viewpoints (B, V, 3), or simulate them with x = None.

        Returns:
            The images (..., B, V, 3, H, W).

        Raises:
            ValueError: if x is not a batch of views of the model's size, or viewpoints do not belong to it.
        """
        if x is not None:
            check_views(x, viewpoints, self)
            x = x.transpose(0, 1)
        else:
            check_viewpoints(viewpoints, self)
        with pyro.plate("scenes", viewpoints.shape[0], dim=-1):
            z, images_scored = self._sample_slots()
            if x is not None and images_scored:
                return x.transpose(0, 1)
            if z.dim() > 3 and z.shape[-4] != 1:
                # With `Predictive(parallel=True)` the draws come from a guide, which has no axis of views.
                z = z.unsqueeze(-4)
            unscored = poutine.mask(mask=False) if images_scored else nullcontext()
            with pyro.plate("views", viewpoints.shape[1], dim=-2), unscored:
                images = pyro.sample("x", self.likelihood(z, viewpoints.transpose(0, 1)), obs=x)
        return images.transpose(-5, -4)

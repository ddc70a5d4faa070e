"""IODINE: iterative amortised inference as a Pyro guide."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from pyro_compvae.factors import add_term
from pyro_compvae.guide import prior_kl
from pyro_compvae.guides.gaussian import Gaussian, inverse_softplus
from pyro_compvae.guides.refinement.guide import Refinement, RefinementGuide
from pyro_compvae.guides.refinement.network import RefinementNetwork
from pyro_compvae.images import check_images
from pyro_compvae.models import SceneModel
from pyro_compvae.precision import own_precision


class IodineGuide(RefinementGuide):
    r"""Amortised inference by iterative refinement (Greff et al. 2019, arXiv 1903.00450).

        λ_0 is learned and the same for all slots
        z_t ~ q(z | λ_t) = Π_k N(z_k; mean_tk, diag softplus(raw_tk)²)
        λ_{t+1} = λ_t + f(x, decoder outputs and gradients at z_t, λ_t; LSTM state)        t = 0..T-1

    The guide samples site "z" from q(z | λ_T). In train mode the published objective

        Σ_{t=1..T} (t/T) [ E log p(x | z_t) − β KL(q_t ‖ p) + s L_NMS(z_t) ]

    is the Pyro ELBO, which is the term t = T, plus the factors "iteration_1" .. "iteration_{T-1}", "lnms" and, where
    β ≠ 1, "kl_weight". In eval mode there are no factors, and the ELBO is a bound on log p(x); posteriors still depend
    on torch's random numbers, because the refinement looks at a sample of each λ_t, as in the paper.

    These are the departures from DeepMind's code. Loss, λ and gradients agree with it once they are undone:

    * inputs in image space are detached (`RefinementGuide`);
    * pixels are Gaussian, as in the paper (the code: logistic, scale 0.03), and their means go through a sigmoid;
    * softplus gives the standard deviation of a latent (the code: its variance);
    * layer normalisation has no learned scale and shift, and in the presets for two CPU cores takes the halves of λ's
      gradient one by one (`LayerNorm`);
    * gradients shown to f are those of each scene's ELBO (the code: of the mean loss of the batch, of the other sign
      and B times smaller, which layer normalisation undoes, except for its epsilon);
    * the mask posterior is exact (the code adds 1e-6 to its denominator), and constants that the code calls legacy are
      left out: an input of 5 beside z, two of 0.5 beside those of f;
    * the LSTM's forget gate starts at torch's bias (Sonnet adds 1), and weights start as torch's and
      `SpatialBroadcastDecoder`'s do (Sonnet: truncated normal).

    Args:
        model: the generative model, whose decoder is trained along with the guide.
        network: the refinement network f.
        num_iterations: T, the number of refinement steps.
        initial_scale: the scale of q(z | λ_0) at the start of training.
        lnms_strength, lnms_scale: s and σ_c of L-NMS.
    """

    title = "IODINE"
    model: SceneModel

    def __init__(
        self,
        model: SceneModel,
        network: RefinementNetwork,
        num_iterations: int = 5,
        initial_scale: float = 1.0,
        lnms_strength: float = 0.0,
        lnms_scale: float = 0.1,
    ) -> None:
        super().__init__(model, network, num_iterations, lnms_strength, lnms_scale)
        self.initial_mean = nn.Parameter(torch.zeros(model.latent_dim))
        raw_scale = inverse_softplus(torch.tensor(initial_scale))
        self.initial_raw_scale = nn.Parameter(raw_scale.repeat(model.latent_dim))

    @own_precision
    def posterior(self, x: Tensor) -> Normal:  # type: ignore[override]
        """q(z | x), batch shape (B, K, D), of images x (B, 3, H, W) in [0, 1]."""
        return self._infer(x).parameters.distribution()

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Sample "z" (B, K, D) for images x (B, 3, H, W)."""
        refinement = self._infer(x)
        q = refinement.parameters.distribution()
        with pyro.plate("scenes", len(x), dim=-1):
            z = self._sample(q)
            if self.training:
                for t, term in enumerate(refinement.terms, start=1):
                    add_term(f"iteration_{t}", term)
                self._add_regularisers(q, z)
        return z

    def _infer(self, x: Tensor) -> Refinement:
        check_images(x, self.model)
        T = self.num_iterations
        shape = (len(x), self.model.num_slots, self.model.latent_dim)
        start = Gaussian(self.initial_mean.expand(shape), self.initial_raw_scale.expand(shape))
        weights = [t / T for t in range(T)]
        return self._refine(self.model.likelihood, x, start, lambda q, z, t: prior_kl(q), weights, T)

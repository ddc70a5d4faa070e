"""IODINE: iterative amortised inference as a Pyro guide."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import torch
from pyro.distributions import Normal as PyroNormal
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from guides.refinement import Gaussian, RefinementNetwork, evaluate
from pyro_compvae.guide import SceneGuide
from pyro_compvae.lnms import lnms_factor, lnms_log_density
from pyro_compvae.models import SceneModel, check_images


class Refinement(NamedTuple):
    """The outcome of T refinement steps: the final λ, and the weighted terms t = 1..T-1 of the objective, (B,) each."""

    parameters: Gaussian
    terms: list[Tensor]


class IodineGuide(SceneGuide):
    r"""Amortised inference by iterative refinement (Greff et al. 2019, arXiv 1903.00450).

        λ_0 learned, the same for all slots
        z_t ~ q(z | λ_t) = Π_k N(z_k; mean_tk, diag softplus(raw_tk)²)
        λ_{t+1} = λ_t + f(x, decoder outputs and gradients at z_t, λ_t; LSTM state)        t = 0..T-1

    The guide samples site "z" from q(z | λ_T). In train mode the published objective

        Σ_{t=1..T} (t/T) [ E log p(x | z_t) − β KL(q_t ‖ p) + s L_NMS(z_t) ]

    is the Pyro ELBO, which is the term t = T, plus the factors "iteration_1" .. "iteration_{T-1}", "lnms" and, where
    β ≠ 1, "kl_weight". In eval mode there are no factors, and the ELBO is a bound on log p(x); posteriors still depend
    on torch's random numbers, because the refinement looks at a sample of each λ_t, as in the paper.

    Gradients flow through λ and the LSTM across iterations. What the refinement network sees of the images and of the
    gradients is detached. L-NMS never enters the gradients that the refinement network sees.

    Args:
        model: the generative model; its decoder is trained along.
        network: f.
        num_iterations: T.
        initial_scale: scale of q(z | λ_0) at the start of training.
        lnms_strength: s; 0 switches L-NMS off.
        lnms_scale: σ_c of L-NMS.
    """

    network: RefinementNetwork

    def __init__(
        self,
        model: SceneModel,
        network: RefinementNetwork,
        num_iterations: int = 5,
        initial_scale: float = 1.0,
        lnms_strength: float = 0.0,
        lnms_scale: float = 0.1,
    ) -> None:
        super().__init__(model, lnms_strength)
        self.network = network
        self.num_iterations = num_iterations
        self.lnms_scale = lnms_scale
        self.initial_mean = nn.Parameter(torch.zeros(model.latent_dim))
        raw_scale = torch.tensor(initial_scale).expm1().log()  # inverse of softplus
        self.initial_raw_scale = nn.Parameter(raw_scale.repeat(model.latent_dim))

    def posterior(self, x: Tensor) -> Normal:
        """q(z | x), batch shape (B, K, D), of images x (B, 3, H, W) in [0, 1]."""
        return self._refine(x).parameters.distribution()

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro guide: samples "z" (B, K, D) for images x (B, 3, H, W)."""
        refinement = self._refine(x)
        q = refinement.parameters.distribution()
        with pyro.plate("scenes", len(x), dim=-1):
            z = pyro.sample("z", PyroNormal(q.loc, q.scale).to_event(2))
            if self.training:
                # A guide's factor lowers the ELBO by its value, hence the minus signs.
                for t, term in enumerate(refinement.terms, start=1):
                    pyro.factor(f"iteration_{t}", -term, has_rsample=True)
                if self.lnms_strength != 0:
                    lnms_factor(z, self.lnms_strength, self.lnms_scale)
                if self.kl_weight != 1:
                    excess = (self.kl_weight - 1) * self._kl(q)
                    pyro.factor("kl_weight", excess, has_rsample=True)
        return z

    def _refine(self, x: Tensor) -> Refinement:
        check_images(x, self.model.image_size)
        shape = (len(x), self.model.num_slots, self.model.latent_dim)
        parameters = Gaussian(self.initial_mean.expand(shape), self.initial_raw_scale.expand(shape))
        state = None
        terms = []
        decoder_weights = tuple(p for p in self.model.parameters() if p.requires_grad)
        for t in range(self.num_iterations):
            q = parameters.distribution()
            noise = torch.randn_like(q.loc)
            z = q.loc + q.scale * noise
            is_term = self.training and t > 0
            evaluation = evaluate(self.model.likelihood, x, z, decoder_weights if is_term else ())
            if is_term:
                term = evaluation.log_likelihood - self.kl_weight * self._kl(q)
                if self.lnms_strength != 0:
                    term = term + self.lnms_strength * lnms_log_density(z, self.lnms_scale)
                terms.append(t / self.num_iterations * term)
            gradient = self._elbo_gradient(parameters, noise, evaluation.gradient)
            parameters, state = self.network(evaluation, parameters, gradient, state)
        return Refinement(parameters, terms)

    def _kl(self, q: Normal) -> Tensor:
        """KL(q ‖ N(0, I)) in nats, (B,)."""
        prior = Normal(torch.zeros_like(q.loc), torch.ones_like(q.scale))
        return kl_divergence(q, prior).sum((-2, -1))

    def _elbo_gradient(self, parameters: Gaussian, noise: Tensor, z_gradient: Tensor) -> Gaussian:
        """d[log p(x | z) − β KL]/dλ at z = mean + scale · noise, from d log p(x | z)/dz; detached."""
        with torch.enable_grad():
            leaf = Gaussian(*(parameter.detach().requires_grad_() for parameter in parameters))
            q = leaf.distribution()
            surrogate = (z_gradient * (q.loc + q.scale * noise)).sum() - self.kl_weight * self._kl(q).sum()
            return Gaussian(*torch.autograd.grad(surrogate, leaf))

"""The base class of guides with iterative refinement, which IODINE and MulMON share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.guide import SceneGuide, may_differ
from pyro_compvae.guides.gaussian import Gaussian
from pyro_compvae.guides.refinement.evaluation import (
    Evaluation,
    RefinementInputs,
    evaluate,
    evaluate_attached,
    refinement_inputs,
)
from pyro_compvae.guides.refinement.network import RefinementNetwork
from pyro_compvae.lnms import lnms_log_density
from pyro_compvae.mixture import SpatialGaussianMixture
from pyro_compvae.models import SlotModel

State = tuple[Tensor, Tensor] | None
"""The state of the LSTM, if there is one."""

Update = Callable[[RefinementInputs, Gaussian, Gaussian, State], tuple[Gaussian, State]]
"""What f makes of its inputs in image space, λ, dL/dλ and its state: the new λ and state."""

Divergence = Callable[[Normal, Tensor, int], Tensor]
"""The term that an ELBO subtracts, (B,) in nats, as a function of q, the sample z ~ q (B, K, D) and the iteration t."""


class Refinement(NamedTuple):
    """The outcome of some refinement steps: the final λ, and the weighted terms of the objective, (B,) each."""

    parameters: Gaussian
    terms: list[Tensor]


class RefinementGuide(SceneGuide):
    """A guide that looks at an image several times and lets a network update the posterior each time.

    Gradients flow through λ and the LSTM across iterations. L-NMS is never part of the gradients that the refinement
    network sees.

    *Departure from the published codes:* all that the refinement network sees in image space is detached. DeepMind's
    IODINE and MulMON detach layer-normalised inputs, and leave means, mask logits, masks and mask posterior attached,
    so that their training gradient also runs from an update of λ back through the decoder. Losses and λ are the same.
    What is left out of the gradient hardly agrees between batches, and the single pass of `evaluate` rests on leaving
    it out; "Mathematics" in the documentation has the measurement. ``attached_inputs`` puts it back. That takes a
    quarter more time at 64×64 pixels, and four to six times the memory, which then grows with T.

    Args:
        model: the generative model, whose decoder is trained along with the guide.
        network: the refinement network f.
        num_iterations: T, the number of refinement steps.
        lnms_strength, lnms_scale: s and σ_c of L-NMS.

    Attributes:
        attached_inputs: whether the training gradient is the published one, which also runs through the inputs that are
            not normalised. It may be set at any time.
    """

    network: RefinementNetwork
    attached_inputs: bool = False

    def __init__(
        self,
        model: SlotModel,
        network: RefinementNetwork,
        num_iterations: int = 5,
        lnms_strength: float = 0.0,
        lnms_scale: float = 0.1,
    ) -> None:
        super().__init__(model, lnms_strength, lnms_scale)
        self.network = network
        self.num_iterations = num_iterations

    @contextmanager
    def planned(self, *arguments: Tensor, generator: torch.Generator | None = None) -> Iterator[Hashable]:
        """T is decided, whether it is scheduled or not."""
        yield self.num_iterations

    def _refine(
        self,
        likelihood: Callable[[Tensor], SpatialGaussianMixture],
        x: Tensor,
        parameters: Gaussian,
        divergence: Divergence,
        weights: Sequence[float],
        num_updates: int,
        update: Update | None = None,
    ) -> Refinement:
        """Evaluate λ_0, λ_1, ... on images x (B, 3, H, W): one evaluation per weight, with updates in between.

            L_t = log p(x | z_t) − β divergence_t,   z_t ~ q(z | λ_t)
            λ_{t+1} = λ_t + f(x, decoder outputs and gradients at z_t, λ_t, dL_t/dλ_t; LSTM state)

        In train mode the terms of the objective are weights[t] (L_t + s L_NMS(z_t)), where the weight is not 0.

        Args:
            likelihood: z → p(x | z).
            x: the images.
            parameters: λ_0.
            divergence: the divergence of q(z | λ_t) from its prior.
            weights: the weight of each evaluation in the objective.
            num_updates: the number of updates, which is that of the evaluations, or one less.
            update: f as it is called, by default with these inputs and no others.
        """
        update = update or self.network
        trained = tuple(p for p in self.model.parameters() if p.requires_grad)
        state: State = None
        terms = []
        for t, weight in enumerate(weights):
            q = parameters.distribution()
            noise = torch.randn_like(q.loc)
            z = q.loc + q.scale * noise
            is_term = self.training and weight != 0
            if self.training and self.attached_inputs:
                evaluation = evaluate_attached(likelihood, x, z)
            else:
                evaluation = evaluate(likelihood, x, z, trained if is_term else ())
            if is_term:
                term = evaluation.log_likelihood - self.beta * divergence(q, z, t)
                if may_differ(self.lnms_strength, 0):
                    repulsion = lnms_log_density(z, self.lnms_scale, self.lnms_form, self._presence(q))
                    term = term + self.lnms_strength * repulsion
                terms.append(weight * term)
            if t < num_updates:
                gradient = self._elbo_gradient(parameters, noise, evaluation, divergence, t)
                inputs = refinement_inputs(evaluation, x, self.network.layer_norm)
                parameters, state = update(inputs, parameters, gradient, state)
        return Refinement(parameters, terms)

    def _elbo_gradient(
        self, parameters: Gaussian, noise: Tensor, evaluation: Evaluation, divergence: Divergence, t: int
    ) -> Gaussian:
        """dL_t/dλ_t at z = mean + scale · noise, from d log p(x | z)/dz; detached."""
        with torch.enable_grad():
            leaf = Gaussian(*(parameter.detach().requires_grad_() for parameter in parameters))
            q = leaf.distribution()
            z = q.loc + q.scale * noise
            surrogate = (evaluation.gradient * z).sum() - self.beta * divergence(q, z, t).sum()
            return Gaussian(*torch.autograd.grad(surrogate, leaf))

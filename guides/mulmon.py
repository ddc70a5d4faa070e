"""MulMON: iterative inference that carries a scene's posterior from view to view."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pyro
import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pyro_compvae.errors import ArgumentError
from pyro_compvae.factors import add_term
from pyro_compvae.guide import Weight, prior_kl
from pyro_compvae.guides.gaussian import Gaussian, inverse_softplus
from pyro_compvae.guides.refinement.evaluation import RefinementInputs, evaluate
from pyro_compvae.guides.refinement.guide import Divergence, RefinementGuide, State, Update
from pyro_compvae.guides.refinement.network import RefinementNetwork
from pyro_compvae.images import check_views
from pyro_compvae.models import MultiViewSceneModel
from pyro_compvae.precision import own_precision
from pyro_compvae.turntable import turn, turn_variances

if TYPE_CHECKING:  # data sets need libraries that guides do without
    from pyro_compvae.data.records import Scene

UNIT_RAW_SCALE = float(inverse_softplus(torch.tensor(1.0, dtype=torch.float64)))
"""The raw scale of q_0, which is the prior: softplus maps it to 1."""


class Observations(NamedTuple):
    """The posterior after some views, and the weighted terms of the objective, (B,) for each view."""

    parameters: Gaussian
    terms: list[Tensor]


class MulmonGuide(RefinementGuide):
    r"""Streaming variational Bayes over views (Li et al. 2020), with IODINE's refinement for each of them.

        q_0 = p(z) = N(0, I)
        view v:  λ_0 = that of q_{v−1}, T evaluations and T − 1 updates by IODINE's rule, LSTM state starting at zero
                 L_t = log p(x_v | z_t, viewpoint_v) − β [ log q(z_t | λ_t) − log q_{v−1}(z_t) ],   z_t ~ q(z | λ_t)
                 q_v = q(z | λ_{T−1})

    ``posterior(x, viewpoints)`` takes in all the views given, in their order. In train mode the views of each batch are
    shuffled, n ~ U{1..max_observed} of them are observed, and the rest are queries; the published objective is

        2/(n+1) Σ_v (v/n) · 2/(T+1) Σ_t (t/T) [ L_t + s L_NMS(z_t) ]  +  mean_q log p(x_q | z_q, viewpoint_q)

    where q runs over the queries and z_q ~ q_n. It scores every view at a separate sample, whereas the model scores all
    views at one z. The model therefore leaves out the site "x" when an ELBO replays it against this guide, and all
    terms are factors: "view_1" .. "view_n", "queries", and "prior_kl", which takes away the KL(q_n ‖ p) that the site
    "z" contributes. In eval mode there are no factors, and the ELBO is a bound on log p(x_{1:V} | viewpoints) of the
    views given.

    These are the departures from the published code. Loss, λ and gradients agree with it once they are undone:

    * inputs in image space are detached (`RefinementGuide`);
    * the likelihood of a pixel is joint over its channels (the code: a mixture for each channel), its masks are exact
      (the code adds 1e-6 to them), and means go through a sigmoid;
    * q_0 is the prior N(0, I), as in the paper (the code learns it), and λ holds a raw scale for softplus (the code: a
      log-variance);
    * f sees the pixel's log-likelihood (the code: its likelihood), the gradient of mask logits (the code: of masks),
      and for the counterfactual the log ratio of the likelihoods with and without a slot (the code: the likelihood
      without it, its masks renormalised with 1e-5 added);
    * gradients shown to f are those of each scene's ELBO (the code: of the mean loss of the batch, of the other sign
      and B times smaller, which layer normalisation undoes, except for its epsilon);
    * view encoder, projector and decoder start with weights that keep variances (the code: torch's default);
    * with a model whose latents turn with the camera, f sees λ and its gradient in the frame of the camera, and its
      steps are turned back.

    Args:
        model: the generative model, whose decoder, projector and view encoder are trained along with the guide.
        network: the refinement network f.
        num_iterations: T, the number of evaluations per view.
        max_observed: the largest number of views observed in training; at least one view is left as a query.
        viewpoint_noise: standard deviation of the noise on viewpoints in training.
        lnms_strength, lnms_scale: s and σ_c of L-NMS.

    Attributes:
        num_observed: n in train mode; with None it is drawn anew in each call.
        max_queried: the largest number of queries in train mode; with None they are all views that are not observed.
        query_weight: the weight of the queries in the objective, 1 as published.
        analytic_kl: whether L_t has KL(q_t ‖ q_{v−1}) itself, and not, as published, the log ratio at z_t.
    """

    title = "MulMON"
    metrics_note = "The first half of the views is observed; `query_*` is of the others, which are predicted."
    known_limit = "Cameras on other paths than those of the data set have not been tried."
    model: MultiViewSceneModel
    num_observed: int | None = None
    max_queried: int | None = None
    query_weight: Weight = 1.0
    analytic_kl: bool = False

    def __init__(
        self,
        model: MultiViewSceneModel,
        network: RefinementNetwork,
        num_iterations: int = 5,
        max_observed: int = 6,
        viewpoint_noise: float = 0.015,
        lnms_strength: float = 0.0,
        lnms_scale: float = 0.1,
    ) -> None:
        super().__init__(model, network, num_iterations, lnms_strength, lnms_scale)
        self.max_observed = max_observed
        self.viewpoint_noise = viewpoint_noise

    def arguments(self, scene: Scene) -> tuple[Tensor, ...]:
        """The arguments of model and guide: views (B, V, 3, H, W) and viewpoints (B, V, 3)."""
        if scene.viewpoint is None:
            raise ArgumentError("scene: expected viewpoints, got none; MulMON cannot do without cameras")
        return scene.image, scene.viewpoint

    @own_precision
    def posterior(self, x: Tensor, viewpoints: Tensor) -> Normal:  # type: ignore[override]
        """q(z | x), batch shape (B, K, D), of views x (B, V, 3, H, W) in [0, 1] from viewpoints (B, V, 3)."""
        return self._observe(x, viewpoints).parameters.distribution()

    def forward(self, x: Tensor, viewpoints: Tensor) -> Tensor:  # type: ignore[override]
        """Sample "z" (B, K, D) for views x (B, V, 3, H, W) from viewpoints (B, V, 3)."""
        if not self.training:
            q = self.posterior(x, viewpoints)
            with pyro.plate("scenes", len(x), dim=-1):
                return self._sample(q)
        check_views(x, viewpoints, self.model)
        viewpoints, order, n = self.draw_views(viewpoints)
        observed, queried = order[:n], order[n:][: self.max_queried]
        observations = self._observe(x[:, observed], viewpoints[:, observed])
        q = observations.parameters.distribution()
        with pyro.plate("scenes", len(x), dim=-1):
            z = self._sample(q, images_scored=True)
            for v, term in enumerate(observations.terms, start=1):
                add_term(f"view_{v}", term)
            scored = self._query(q, x[:, queried], viewpoints[:, queried])
            add_term("queries", self.query_weight * scored, log_likelihood=scored)
            add_term("prior_kl", prior_kl(q))
        return z

    def log_likelihood(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        """The mean over queries of log p(x_q | z_q, viewpoint_q) in a training step, (B,) in nats."""
        about: Any = guide_trace.nodes["queries"]["infer"]
        return about["log_likelihood"]

    @contextmanager
    def planned(  # type: ignore[override]
        self, x: Tensor, viewpoints: Tensor, *, generator: torch.Generator | None = None
    ) -> Iterator[Hashable]:
        """Draw n beforehand, for all calls in this context; T is no random number and only part of the plan."""
        before = self.num_observed
        self.num_observed = self._draw_number(x.shape[1], generator)
        try:
            yield self.num_iterations, self.num_observed
        finally:
            self.num_observed = before

    def draw_views(self, viewpoints: Tensor) -> tuple[Tensor, Tensor, int]:
        """Draw what a training step needs first: noisy viewpoints (B, V, 3), the order of the views (V,), and n."""
        num_views = viewpoints.shape[1]
        noisy = viewpoints + self.viewpoint_noise * torch.randn_like(viewpoints)
        n = self._draw_number(num_views)
        return noisy, torch.randperm(num_views, device=viewpoints.device), n

    def _draw_number(self, num_views: int, generator: torch.Generator | None = None) -> int:
        if num_views < 2:
            raise ArgumentError(
                f"x: expected at least 2 views to train on, one observed and one queried; got {num_views}"
            )
        if self.num_observed is None:
            return int(torch.randint(1, min(self.max_observed, num_views - 1) + 1, (), generator=generator))
        if not 1 <= self.num_observed < num_views:
            raise ArgumentError(
                f"num_observed: expected 1 to {num_views - 1} of {num_views} views, got {self.num_observed}"
            )
        return self.num_observed

    def _observe(self, x: Tensor, viewpoints: Tensor) -> Observations:
        """Take in views one after the other."""
        check_views(x, viewpoints, self.model)
        T, (B, n) = self.num_iterations, x.shape[:2]
        mean = x.new_zeros(B, self.model.num_slots, self.model.latent_dim)
        parameters = Gaussian(mean, torch.full_like(mean, UNIT_RAW_SCALE))
        terms = []
        for v in range(n):
            likelihood = partial(self.model.likelihood, viewpoint=viewpoints[:, v])
            outer = 2 / (n + 1) * (v + 1) / n
            # In eval mode the last evaluation would have no effect and is left out.
            weights = [outer * 2 / (T + 1) * (t + 1) / T for t in range(T if self.training else T - 1)]
            parameters, view_terms = self._refine(
                likelihood,
                x[:, v],
                parameters,
                _divergence_from(parameters.distribution(), self.analytic_kl),
                weights,
                T - 1,
                self._update_from(viewpoints[:, v]),
            )
            if view_terms:
                terms.append(torch.stack(view_terms).sum(0))
        return Observations(parameters, terms)

    def _update_from(self, viewpoint: Tensor) -> Update:
        """f as it sees a view: beside its viewpoint, if it is to see that, and with latents that turn turned to it."""
        context = viewpoint if self.network.context_dim else None

        def update(
            inputs: RefinementInputs, parameters: Gaussian, gradient: Gaussian, state: State
        ) -> tuple[Gaussian, State]:
            if not self.model.turntable:
                return self.network(inputs, parameters, gradient, state, context)
            seen, seen_gradient = (
                Gaussian(turn(mean, viewpoint), turn_variances(raw_scale, viewpoint))
                for mean, raw_scale in (parameters, gradient)
            )
            updated, state = self.network(inputs, seen, seen_gradient, state, context)
            raw_step = turn_variances(updated.raw_scale - seen.raw_scale, viewpoint)
            return Gaussian(turn(updated.mean, viewpoint, back=True), parameters.raw_scale + raw_step), state

        return update

    def _query(self, q: Normal, x: Tensor, viewpoints: Tensor) -> Tensor:
        """The mean over views of log p(x_q | z_q, viewpoint_q) with z_q ~ q, (B,) in nats."""
        trained = tuple(p for p in self.model.parameters() if p.requires_grad)
        terms = [
            evaluate(partial(self.model.likelihood, viewpoint=viewpoints[:, v]), x[:, v], q.rsample(), trained)
            for v in range(x.shape[1])
        ]
        return torch.stack([term.log_likelihood for term in terms]).mean(0)


def _divergence_from(prior: Normal, analytic: bool) -> Divergence:
    """log q(z) − log prior(z) at the sample, (B,), as in the published code, or its mean over q, which is the KL.

    At t = 0 q is the prior itself.
    """

    def divergence(q: Normal, z: Tensor, t: int) -> Tensor:
        if t == 0:
            return z.new_zeros(len(z))
        if analytic:
            return kl_divergence(q, prior).sum((-2, -1))
        return (q.log_prob(z) - prior.log_prob(z)).sum((-2, -1))

    return divergence

"""The ELBO as a loss that never makes the host wait for a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_compvae.guide import SceneGuide


class SceneElbo(TraceMeanField_ELBO):
    """A `pyro.infer.TraceMeanField_ELBO` with one particle, whose loss stays a tensor on its device.

    Pyro reads its own loss four times per step: to separate value and surrogate, which are the same here, and to warn
    of NaN, which `Trainer` finds when it logs. The guide samples reparameterised sites whose KL divergence has a closed
    form, and adds factors.
    """

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """−ELBO summed over scenes, in nats, with a gradient."""
        model_trace, guide_trace = next(iter(self._get_traces(model, guide, args, kwargs)))
        terms = []
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample":
                continue
            if site["is_observed"]:
                terms.append(-site["log_prob_sum"])
            else:
                q = guide_trace.nodes[name]
                terms.append(scale_and_mask(kl_divergence(q["fn"], site["fn"]), q["scale"], q["mask"]).sum())
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample" and name not in model_trace.nodes:
                terms.append(site["log_prob_sum"])  # factors, which lower the ELBO
        if isinstance(guide, SceneGuide) and guide.training and guide.geco is not None:
            guide.geco.observe(guide.log_likelihood(model_trace, guide_trace), 3 * math.prod(guide.model.image_size))
        return sum(terms[1:], start=terms[0])

"""Terms that guides add to a training objective."""

from __future__ import annotations

import warnings
from typing import Any

import pyro
import torch
from pyro.distributions import Unit
from pyro.distributions.score_parts import ScoreParts
from torch import Tensor

from pyro_compvae.programs import TrainModeWarning, svi_records_parameters


class TrainingTerm(Unit):
    """The distribution of a factor that an ELBO trains on, and that no other number may contain.

    ELBOs ask the sites of a guide for their score parts. A caller that asks for log-probabilities, outside of
    `pyro.infer.SVI`, is about to compute a weight, a density or an evidence, and gets a warning. An algorithm that
    detaches the samples, such as `ReweightedWakeSleep`, needs the guide's density; it would train the objective
    backwards and gets an error.
    """

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """An empty tensor, which is part of the graph as long as nobody detaches it."""
        return self.log_factor.expand(torch.Size(sample_shape) + self.batch_shape)[..., None][..., :0]

    def log_prob(self, value: Tensor) -> Tensor:
        """The factor's logarithm, in nats, with a warning."""
        if not svi_records_parameters():
            warnings.warn(
                "terms of a training objective are in the log-probability of this guide, which makes weights and "
                "evidence by it wrong: the guide is in train mode. Call guide.eval() first.",
                TrainModeWarning,
                stacklevel=2,
            )
        return super().log_prob(value)

    def score_parts(self, x: Tensor, *args: Any, **kwargs: Any) -> ScoreParts:
        """The factor's logarithm in the form that an ELBO expects from a reparameterised site.

        Raises:
            RuntimeError: if the samples of the guide have been detached.
        """
        if self.log_factor.requires_grad and not x.requires_grad:
            raise RuntimeError(
                "terms of a training objective are no density of the guide: expected an ELBO such as Trace_ELBO in "
                "train mode, got an algorithm that detaches samples, as ReweightedWakeSleep does. Call guide.eval() "
                "for it."
            )
        log_prob = super().log_prob(x)
        return ScoreParts(log_prob=log_prob, score_function=0, entropy_term=log_prob)  # type: ignore[arg-type]


def add_term(name: str, term: Tensor, **infer: Any) -> None:
    """Add a term (B,) in nats to the objective, from within a Pyro *guide* and its plate "scenes".

    It is a `pyro.factor` with `TrainingTerm` as its distribution. A guide's factor f *lowers* the ELBO by f, hence the
    minus sign, which stands here and nowhere else. The term must be a differentiable function of reparameterised
    samples. ``infer`` are further entries of the site's dictionary of that name.
    """
    factor = TrainingTerm(-term, has_rsample=True)
    about: Any = {"is_auxiliary": True, **infer}
    pyro.sample(name, factor, obs=factor.sample(), infer=about)

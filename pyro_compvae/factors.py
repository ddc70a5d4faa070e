"""Terms that guides add to a training objective."""

from __future__ import annotations

import pyro
from torch import Tensor


def add_term(name: str, term: Tensor) -> None:
    """Add a term (B,) in nats to the objective, from within a Pyro *guide* and its plate "scenes".

    A guide's factor f *lowers* the ELBO by f, hence the minus sign, here and nowhere else. The term must be a
    differentiable function of reparameterised samples.
    """
    pyro.factor(name, -term, has_rsample=True)

"""Densities and gradients on a GPU: exact products, whatever training allows, and words where there is no room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pytest
import torch
from linear_gaussian import FactorisedGuide, LinearGaussian
from torch import Tensor

from analysis.nuts import nuts_draws
from pyro_compvae.evidence import annealed_log_evidence, fit_gaussian, importance_log_evidence
from pyro_compvae.evidence.flow import fit_flow
from pyro_compvae.evidence.traces import LogJoint
from pyro_compvae.precision import allow_tf32, exact_products

K, D = 2, 2


def allowed() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def _as_in_training() -> Iterator[None]:
    before = allowed()
    allow_tf32(True)
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Watching(LinearGaussian):
    """Notes what is allowed whenever it runs, and whenever a gradient passes."""

    def __init__(self) -> None:
        super().__init__(K, D)
        self.forward: set[tuple[bool, bool]] = set()
        self.backward: set[tuple[bool, bool]] = set()

    def __call__(self, x: Tensor) -> None:
        self.forward.add(allowed())
        with pyro.plate("scenes", len(x), dim=-1):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(K, D).double(), 1.0).to_event(2))
            z = 1 * z
            if z.requires_grad:
                z.register_hook(lambda gradient: self.backward.add(allowed()))
            pyro.sample("x", pyro.distributions.Normal(z.sum(-2) @ self.weight.T, 1.0).to_event(1), obs=x)


def estimate(model: Watching, guide: FactorisedGuide, x: Tensor) -> Any:
    return importance_log_evidence(model, guide, x, num_samples=4)


def anneal(model: Watching, guide: FactorisedGuide, x: Tensor) -> Any:
    return annealed_log_evidence(model, guide, x, num_chains=2, num_temperatures=3, pilot_chains=2)


def fit(model: Watching, guide: FactorisedGuide, x: Tensor) -> Any:
    log_joint = LogJoint(model, x)
    return fit_flow(log_joint, fit_gaussian(log_joint, guide.posterior(x), "full", steps=2), steps=2, num_samples=2)


def sample(model: Watching, guide: FactorisedGuide, x: Tensor) -> Any:
    return nuts_draws(LogJoint(model, x[:1]), guide.posterior(x[:1]), num_draws=4, num_chains=1, warmup_steps=2)


@pytest.mark.parametrize("compute", [estimate, anneal, fit, sample])
def test_densities_and_gradients_are_exact(compute: Callable[..., Any]) -> None:
    model = Watching()
    x = model.simulate(2)
    guide = FactorisedGuide(model)
    compute(model, guide, x)
    assert model.forward == {(False, False)}
    if compute is not estimate:
        assert model.backward == {(False, False)}
    assert allowed() == (True, True), "what training has allowed is as before"


class Full(LinearGaussian):
    """A model for which there is room once, as for the look that `LogJoint` takes at it, and no more."""

    runs = 0

    def __call__(self, x: Tensor) -> None:
        self.runs += 1
        if self.runs > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 56.00 GiB.\nMore of it.")
        super().__call__(x)


@pytest.mark.parametrize("compute", [estimate, anneal, fit])
def test_a_full_gpu_is_told_what_to_do(compute: Callable[..., Any]) -> None:
    model = Full(K, D)
    x = model.simulate(2)
    message = r"no room for \d+ draws of 2 scenes at a time: lower chunk_size \(--chunk-size.*56.00 GiB\.$"
    with pytest.raises(torch.OutOfMemoryError, match=message):
        compute(model, FactorisedGuide(model), x)


def test_what_was_allowed_comes_back_after_an_error() -> None:
    @exact_products()
    def fail() -> None:
        assert allowed() == (False, False)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert allowed() == (True, True)

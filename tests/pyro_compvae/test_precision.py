"""Densities and gradients on a GPU: exact products, whatever training allows, and a message if memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pytest
import torch
from helpers.slot_models import FactorisedGuide, LinearGaussian
from torch import Tensor

from pyro_compvae.analysis.posterior.nuts import NutsConfig, nuts_draws
from pyro_compvae.evidence import (
    AnnealingConfig,
    FitConfig,
    FlowConfig,
    LogJoint,
    annealed_log_evidence,
    fit_flow,
    fit_gaussian,
    importance_log_evidence,
    proposal_log_evidence,
)
from pyro_compvae.evidence.fitting.flow import Coupling
from pyro_compvae.precision import _settings, allow_tf32, exact_products, rounded_products

K, D, PILOT_CHAINS = 2, 2, 2


def allowed() -> set[object]:
    """Torch's precisions of products on CPU and GPU."""
    return {getattr(owner, name) for owner, name, _, _ in _settings()}


EXACT = {exact for _, _, _, exact in _settings()}


@pytest.fixture(autouse=True, params=["allow_tf32", "medium", "backends"])
def _as_in_training(request: pytest.FixtureRequest) -> Iterator[None]:
    """Allow rounded products in all ways that a program may use."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _, _ in _settings()]
    if request.param == "allow_tf32":
        allow_tf32(True)
    elif request.param == "medium":
        torch.set_float32_matmul_precision("medium")
    elif hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = "tf32"
    yield
    for owner, name, value in before:
        setattr(owner, name, value)
    if hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = "none"


class Watching(LinearGaussian):
    """A program that records the allowed precision whenever it runs, and whenever a gradient passes."""

    def __init__(self) -> None:
        super().__init__(K, D)
        self.forward: set[object] = set()
        self.backward: set[object] = set()

    def __call__(self, x: Tensor) -> None:
        self.forward |= allowed()
        with pyro.plate("scenes", len(x), dim=-1):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(K, D).double(), 1.0).to_event(2))
            z = 1 * z
            if z.requires_grad:
                z.register_hook(lambda gradient: self.backward.update(allowed()))
            pyro.sample("x", pyro.distributions.Normal(z.sum(-2) @ self.weight.T, 1.0).to_event(1), obs=x)


def estimate(model: Watching, guide: FactorisedGuide, x: Tensor) -> Any:
    return importance_log_evidence(model, guide, x, num_samples=4)


def anneal(model: Watching, guide: FactorisedGuide, x: Tensor) -> Any:
    config = AnnealingConfig(num_chains=6, num_temperatures=3, pilot_chains=PILOT_CHAINS)
    return annealed_log_evidence(model, guide, x, config=config)


def fit(model: Watching, guide: FactorisedGuide, x: Tensor) -> Any:
    log_joint = LogJoint(model, x)
    full = fit_gaussian(log_joint, guide.posterior(x), "full", FitConfig(steps=2))
    flow = fit_flow(log_joint, full, FlowConfig(steps=2, num_samples=2))
    return proposal_log_evidence(log_joint, flow.proposal(), num_samples=4)


def sample(model: Watching, guide: FactorisedGuide, x: Tensor) -> Any:
    config = NutsConfig(num_draws=4, num_chains=1, warmup_steps=2)
    return nuts_draws(LogJoint(model, x[:1]), guide.posterior(x[:1]), config)


@pytest.mark.parametrize("compute", [estimate, anneal, fit, sample])
def test_densities_and_gradients_are_exact(compute: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, of_flows, before = Watching(), set[object](), allowed()
    layer = Coupling._shift_and_log_scale

    def watched(coupling: Coupling, number: int, u: Tensor) -> tuple[Tensor, Tensor]:
        of_flows.update(allowed())
        return layer(coupling, number, u)

    monkeypatch.setattr(Coupling, "_shift_and_log_scale", watched)
    assert before != EXACT, "the premise: products may be rounded"
    x = model.simulate(2)
    compute(model, FactorisedGuide(model), x)
    assert model.forward == EXACT
    assert model.backward == (set() if compute is estimate else EXACT)
    assert of_flows == (EXACT if compute is fit else set())
    assert allowed() == before, "what was allowed is as before"


class Full(LinearGaussian):
    """A model for which there is room five times, for the checks of `LogJoint`."""

    runs = 0

    def __call__(self, x: Tensor) -> None:
        self.runs += 1
        if self.runs > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 56.00 GiB.\nMore of it.")
        super().__call__(x)


@pytest.mark.parametrize("compute", [estimate, anneal, fit])
def test_a_full_gpu_is_told_what_to_do(compute: Callable[..., Any]) -> None:
    model = Full(K, D)
    x = model.simulate(2)
    message = r"no room for \d+ draws of 2 scenes at a time: lower chunk_size \(--chunk-size.*56.00 GiB\.$"
    with pytest.raises(torch.OutOfMemoryError, match=message):
        compute(model, FactorisedGuide(model), x)


@pytest.mark.parametrize("compute", [estimate, fit, anneal])
def test_a_gpu_gets_as_many_draws_at_a_time_as_it_has_room_for(
    compute: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draw takes a hundredth of the free memory, half of which may be used, so fifty are evaluated at a time."""
    at_once = []
    evaluate = LogJoint._evaluate

    def watch(self: LogJoint, z: Tensor) -> Tensor:
        at_once.append(len(z))
        return evaluate(self, z)

    def memory_of(function: Callable[[], object], device: torch.device) -> tuple[int, int]:
        function()
        return 10, 1000

    monkeypatch.setattr(LogJoint, "_evaluate", watch)
    monkeypatch.setattr("pyro_compvae.evidence.density.memory_of", memory_of)
    model = LinearGaussian(K, D)
    x = model.simulate(2)
    torch.manual_seed(3)
    whole = compute(model, FactorisedGuide(model), x)
    few = max(at_once)
    log_joint = LogJoint(model, x)
    assert log_joint.draws_that_fit(10_000) == 50
    assert log_joint.draws_that_fit(10) == 10
    monkeypatch.setattr(
        "pyro_compvae.evidence.density.memory_of", lambda function, device: (function(), (500, 1000))[1]
    )
    at_once.clear()
    torch.manual_seed(3)
    parts = compute(model, FactorisedGuide(model), x)
    assert few > max(at_once) == 1
    torch.testing.assert_close(parts.log_evidence, whole.log_evidence, msg="memory does not decide random numbers")
    monkeypatch.undo()
    assert LogJoint(model, x).draws_that_fit(10_000) == 10_000, "a CPU takes what it is given"


def test_what_was_allowed_comes_back_after_an_error() -> None:
    @exact_products()
    def fail() -> None:
        assert allowed() == EXACT
        raise ZeroDivisionError

    before = allowed()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert allowed() == before


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("context", [exact_products, rounded_products])
def test_denormals_count_as_zero_inside_and_as_before_outside(context: Callable[[], Any], flushed: bool) -> None:
    tiny = torch.tensor(1e-39, requires_grad=True)

    def counts_as_zero() -> tuple[bool, bool]:
        (gradient,) = torch.autograd.grad(tiny * tiny.detach(), tiny)
        return bool(tiny.detach() * 1 == 0), bool(gradient * 1 == 0)

    torch.set_flush_denormal(flushed)
    try:
        with context():
            with context():
                assert counts_as_zero() == (True, True)
            assert counts_as_zero() == (True, True)
        assert counts_as_zero() == (flushed, flushed)
        with pytest.raises(ZeroDivisionError), context():
            raise ZeroDivisionError
        assert counts_as_zero() == (flushed, flushed)
    finally:
        torch.set_flush_denormal(False)

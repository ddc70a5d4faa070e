"""The table of docs/pyro.md: three guides, in train and in eval mode, used by Pyro's algorithms."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import (
    HMC,
    MCMC,
    NUTS,
    SVI,
    Importance,
    JitTrace_ELBO,
    Predictive,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    WeighedPredictive,
)
from pyro.infer.autoguide import AutoGaussian, AutoNormal
from torch import Tensor

from pyro_compvae.guide import SceneGuide
from pyro_compvae.guides import build_guide
from pyro_compvae.programs import TrainModeWarning
from pyro_compvae.runs.presets import preset

PAGE = Path(__file__).parents[2] / "docs" / "pyro.md"
B, V = 3, 4
REFUSALS = (
    "expected scenes of equal weight: .* RenyiELBO|expected an ELBO without Jit|expected an ELBO such as Trace_ELBO"
)

Arguments = tuple[Tensor, ...]
Algorithm = Callable[[SceneGuide, Arguments], Any]


def adam() -> Any:
    return pyro.optim.Adam({"lr": 1e-3})


def mean_gradient(elbo: Any, guide: SceneGuide, arguments: Arguments) -> Tensor:
    """The mean gradient of the loss with respect to all weights over a few draws, as in `SVI`."""
    guide.zero_grad()
    for seed in range(2):
        torch.manual_seed(seed)
        with pyro.poutine.trace(param_only=True):
            elbo.loss_and_grads(guide.model, guide, *arguments)
    return torch.cat([parameter.grad.flatten() for parameter in guide.parameters() if parameter.grad is not None])


_expected: dict[tuple[type[SceneGuide], bool], Tensor] = {}
"""The gradient of `Trace_ELBO` for every guide and mode; all tests have the same weights and images."""


def expected_gradient(guide: SceneGuide, arguments: Arguments) -> Tensor:
    case = type(guide), guide.training
    if case not in _expected:
        _expected[case] = mean_gradient(Trace_ELBO(), guide, arguments)
    return _expected[case]


def svi(elbo: Any, is_elbo: bool = True) -> Algorithm:
    """Two steps of SVI move every parameter, and an ELBO's gradient has the direction of `Trace_ELBO`'s."""

    def run(guide: SceneGuide, arguments: Arguments) -> Any:
        if is_elbo:
            gradient, expected = mean_gradient(elbo(), guide, arguments), expected_gradient(guide, arguments)
            assert torch.nn.functional.cosine_similarity(gradient, expected, dim=0) > 0.3
        before = {name: parameter.detach().clone() for name, parameter in guide.named_parameters()}
        inference = SVI(guide.model, guide, adam(), elbo())
        losses = [inference.step(*arguments) for _ in range(2)]
        assert not [name for name, parameter in guide.named_parameters() if torch.equal(parameter, before[name])]
        return losses

    return run


def elbo_module(guide: SceneGuide, arguments: Arguments) -> Any:
    elbo = Trace_ELBO()(guide.model, guide)
    loss = elbo(*arguments)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in guide.parameters())
    return loss


def autoguide(make: Any) -> Algorithm:
    """SVI moves all of the model's parameters, and none of the guide's."""

    def run(guide: SceneGuide, arguments: Arguments) -> Any:
        before = {name: parameter.detach().clone() for name, parameter in guide.named_parameters()}
        loss = SVI(guide.model, make(guide.model), adam(), Trace_ELBO()).step(*arguments)
        for name, parameter in guide.named_parameters():
            assert torch.equal(parameter, before[name]) != name.startswith("model."), name
        return loss

    return run


def of_prior(guide: SceneGuide, arguments: Arguments) -> Any:
    number = {} if len(arguments) > 1 else {"num_scenes": B}
    images = Predictive(guide.model, num_samples=3)(None, *arguments[1:], **number)["x"]
    assert images.numel() == 3 * arguments[0].numel()
    return images


def of_posterior(parallel: bool) -> Algorithm:
    def run(guide: SceneGuide, arguments: Arguments) -> Any:
        keywords: dict[str, Any] = {"num_samples": 3, "parallel": parallel}
        z = Predictive(guide.model, guide=guide, **keywords)(*arguments)["z"]
        assert z.numel() == 3 * B * guide.model.num_slots * guide.model.latent_dim
        # Draws differ, and so do the images decoded from them.
        draws = z.reshape(3, B, guide.model.num_slots, guide.model.latent_dim)
        assert not torch.equal(draws[0], draws[1])
        viewpoints = tuple(argument[:, 0] for argument in arguments[1:])
        images = [guide.model.likelihood(draw, *viewpoints).mean for draw in draws]
        assert not torch.equal(images[0], images[1])
        return z

    return run


def mcmc(kernel: Any, **keywords: Any) -> Algorithm:
    def run(guide: SceneGuide, arguments: Arguments) -> Any:
        chain = MCMC(kernel(guide.model, **keywords), num_samples=2, warmup_steps=1, disable_progbar=True)
        chain.run(*arguments)
        return chain.get_samples()["z"]

    return run


VECTORISED = {"num_particles": 3, "vectorize_particles": True}

ALGORITHMS: dict[str, Algorithm] = {
    "`Trace_ELBO`": svi(Trace_ELBO),
    "`Trace_ELBO`, vectorised": svi(lambda: Trace_ELBO(**VECTORISED)),
    "`TraceMeanField_ELBO`": svi(TraceMeanField_ELBO),
    "`TraceMeanField_ELBO`, vectorised": svi(lambda: TraceMeanField_ELBO(**VECTORISED)),
    "`TraceGraph_ELBO`": svi(TraceGraph_ELBO),
    "`TraceEnum_ELBO`": svi(lambda: TraceEnum_ELBO(max_plate_nesting=2)),
    "`RenyiELBO`, one particle": svi(lambda: RenyiELBO(num_particles=1)),
    "`RenyiELBO`, three particles": svi(lambda: RenyiELBO(num_particles=3)),
    "`JitTrace_ELBO`": svi(JitTrace_ELBO),
    "`ReweightedWakeSleep`": svi(
        lambda: ReweightedWakeSleep(num_particles=3, vectorize_particles=False), is_elbo=False
    ),
    "`ELBOModule` and `torch.optim`": elbo_module,
    "`SVI.evaluate_loss`": lambda guide, x: SVI(guide.model, guide, adam(), Trace_ELBO()).evaluate_loss(*x),
    "`Importance`": lambda guide, x: Importance(guide.model, guide, num_samples=3).run(*x).get_log_normalizer(),
    "`Predictive` of the posterior": of_posterior(parallel=False),
    "`Predictive`, parallel": of_posterior(parallel=True),
    "`Predictive` of the prior": of_prior,
    "`WeighedPredictive`": lambda guide, x: (
        WeighedPredictive(guide.model, guide=guide, num_samples=3)(*x, model_guide=guide.model).log_weights
    ),
    "`NUTS`": mcmc(NUTS, max_tree_depth=2),
    "`HMC`": mcmc(HMC, num_steps=2),
    "`AutoNormal` on the model": autoguide(AutoNormal),
    "`AutoGaussian` on the model": autoguide(AutoGaussian),
}


def table() -> list[tuple[str, str, str, str]]:
    """The table in the page: algorithm, guide, mode and outcome of every cell."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines() if "|" in line]
    header, _, *body = rows
    columns = [column.lower().split(", ") for column in header[1:]]
    return [
        (row[0], guide, mode, outcome) for row in body for (guide, mode), outcome in zip(columns, row[1:], strict=True)
    ]


def test_the_page_has_all_algorithms() -> None:
    cells = table()
    assert list(dict.fromkeys(cell[0] for cell in cells)) == list(ALGORITHMS)
    assert {cell[1:3] for cell in cells} == {(g, m) for g in ("iodine", "monet", "mulmon") for m in ("train", "eval")}
    assert {cell[3] for cell in cells} == {"works", "warned", "refused"}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("algorithm", "name", "mode", "outcome"), table())
def test_outcome_is_what_the_page_says(algorithm: str, name: Any, mode: str, outcome: str) -> None:
    # With two evaluations only, an LSTM that starts at zero for each view never uses its state.
    changes = {} if name == "monet" else {"refinement.num_iterations": 3}
    guide = build_guide(preset("tiny", name).replace(changes)).train(mode == "train")
    size = guide.model.image_size
    arguments: Arguments = (torch.rand(B, 3, *size),)
    if name == "mulmon":
        arguments = (torch.rand(B, V, 3, *size), torch.rand(B, V, 3))
    if outcome == "refused":
        with pytest.raises(RuntimeError, match=REFUSALS):
            ALGORITHMS[algorithm](guide, arguments)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        numbers = ALGORITHMS[algorithm](guide, arguments)
    assert torch.isfinite(torch.as_tensor(numbers)).all()
    warned = any(issubclass(warning.category, TrainModeWarning) for warning in caught)
    assert outcome == ("warned" if warned else "works")

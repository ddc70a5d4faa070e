"""GECO: its multiplier against the formula, its place in the objective, and training with it."""

from __future__ import annotations

import copy
import csv
import math
import re
from pathlib import Path
from typing import get_args

import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor

from pyro_compvae.analysis import TrainOptions, export_run, load_run, train
from pyro_compvae.errors import ArgumentError, ConfigError
from pyro_compvae.geco import DECAY, Geco
from pyro_compvae.guide import SceneGuide
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.training.elbo import SceneElbo
from pyro_compvae.training.step import TrainingStep, make_optimiser

GUIDES = get_args(GuideName)


def with_geco(name: GuideName, target: float = 1.0, **changes: object) -> RunConfig:
    geco = {"training.geco_target": target, "training.kl_warmup_steps": 0, "training.geco_rate": 0.05}
    return preset("tiny", name).replace(geco | {f"training.{field}": value for field, value in changes.items()})


def test_the_multiplier_by_hand() -> None:
    geco = Geco(target=1.0, rate=0.1, start=2.0)
    average, multiplier = None, 2.0
    for value in (-1.0, 0.0, 3.0, 200.0, 50.0, -9.0):
        geco.observe(torch.tensor([value - 6, value + 6]), num_values=2)
        constraint = 1.0 - value / 4
        average = constraint if average is None else DECAY * average + (1 - DECAY) * constraint
        multiplier = max(1.0, multiplier * math.exp(0.1 * average))
        geco.update(lambda observed: observed / 2)  # as if another worker had observed 0
        geco.update()  # nothing has been observed since
        assert float(geco.constraint) == pytest.approx(average, rel=1e-5)
        assert float(geco.multiplier) == pytest.approx(multiplier, rel=1e-5)
    assert multiplier > 1
    geco.observe(torch.tensor([1e6]), num_values=1)
    geco.update()
    assert geco.multiplier == 1


def loss_of(guide: SceneGuide, arguments: tuple[Tensor, ...]) -> Tensor:
    torch.manual_seed(5)
    guide.train()
    return SceneElbo()(guide.model, guide)(*arguments)


def arguments_of(guide: SceneGuide) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    size = guide.model.image_size
    if hasattr(guide, "max_observed"):
        return torch.rand(3, 4, 3, *size), torch.randn(3, 4, 3)
    return (torch.rand(3, 3, *size),)


@pytest.mark.filterwarnings("ignore:.* was not registered in the param store")
@pytest.mark.parametrize("name", GUIDES)
def test_the_objective_has_beta_over_the_multiplier(name: GuideName) -> None:
    torch.manual_seed(0)
    guide = build_guide(with_geco(name, geco_start=4.0))
    arguments = arguments_of(guide)
    loss = loss_of(guide, arguments)
    guide.geco, guide.kl_weight = None, 0.25
    torch.testing.assert_close(loss_of(guide, arguments), loss)
    guide.kl_weight = 1.0
    assert loss_of(guide, arguments) != loss


@pytest.mark.parametrize("name", GUIDES)
def test_what_is_observed_is_the_likelihood_of_the_images(name: GuideName) -> None:
    """As the model scores them at the draw z; MONet's with the masks of its attention, MulMON's that of its queries."""
    torch.manual_seed(0)
    guide = build_guide(with_geco(name))
    x, *_ = arguments = arguments_of(guide)
    if name == "mulmon":
        guide.query_weight = 0.5
    loss_of(guide, arguments)
    torch.manual_seed(5)
    sites = poutine.trace(guide).get_trace(*arguments).nodes
    z = sites["z"]["value"]
    if name == "iodine":
        expected = guide.model.likelihood(z).log_prob(x)
    elif name == "monet":
        joint = guide.attend(x) + guide.model.likelihood(z).component_log_prob(x)
        expected = joint.logsumexp(1).sum((1, 2))
    else:
        expected = -sites["queries"]["fn"].log_factor / guide.query_weight
    torch.testing.assert_close(guide.geco.observed, expected.mean().detach() / (3 * math.prod(x.shape[-2:])))


@pytest.mark.parametrize("name", GUIDES)
def test_a_step_moves_the_multiplier_once_and_evaluation_never(name: GuideName) -> None:
    config = with_geco(name, target=1.3)
    guide = build_guide(config)
    arguments = arguments_of(guide)
    optimiser = make_optimiser(config.training, list(guide.parameters()))
    step = TrainingStep(guide.train(), SceneElbo()(guide.model, guide), optimiser, 5.0)
    step(*arguments)
    geco = guide.geco
    assert geco.multiplier > 1
    assert float(geco.multiplier) == pytest.approx(math.exp(0.05 * float(geco.constraint)), rel=1e-4)
    copy.deepcopy(guide)
    guide.eval()
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(SceneElbo()(guide.model, guide)(*arguments))
        assert geco.observed is None
        guide.kl_weight, guide.geco = float(guide.beta), None
    torch.testing.assert_close(*losses)  # a plain ELBO, of a refinement that β steers


def test_runs_log_it_resume_bitwise_and_are_loaded_with_it(tmp_path: Path) -> None:
    config = with_geco("iodine", target=1.3, steps=6, checkpoint_every=3)
    train(config.replace({"training.steps": 3}), tmp_path / "parts")
    train(config, tmp_path / "parts", options=TrainOptions(resume=True))
    whole = train(config, tmp_path / "whole")
    parts = load_run(tmp_path / "parts")
    for one, other in zip(whole.guide.state_dict().values(), parts.guide.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    with (tmp_path / "whole/metrics.csv").open() as file:
        logged = [float(row["geco_multiplier"]) for row in csv.DictReader(file)]
    assert len(logged) == 6
    assert 1 < logged[0] < logged[-1]
    assert float(whole.guide.beta) == pytest.approx(1 / logged[-1], rel=1e-5)
    assert 0 < float(whole.guide.beta) < 1


def test_exports_have_the_multiplier_and_cards_say_so(tmp_path: Path) -> None:
    run = train(with_geco("monet", target=1.3, steps=2), tmp_path / "run")
    export_run(run.path, tmp_path / "export")
    exported = load_run(tmp_path / "export")
    assert torch.equal(exported.guide.geco.multiplier, run.guide.geco.multiplier)
    assert 0 < float(exported.guide.beta) < 0.5
    card = (tmp_path / "export/README.md").read_text()
    found = re.search(r"\| GECO \| target 1\.3 nats per pixel and channel, λ (\S+) \|", card)
    assert found is not None
    assert float(found[1]) == pytest.approx(float(run.guide.geco.multiplier), rel=0.01)


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="geco_target: expected a finite target and no warm-up of β"):
        preset("default", "iodine").replace({"training.geco_target": 1.0})
    with pytest.raises(ConfigError, match=r"geco_start: expected at least 1, got 0\.5"):
        with_geco("iodine", geco_start=0.5)
    with pytest.raises(ArgumentError, match="rate: expected a positive number, got 0"):
        Geco(1.0, rate=0.0)
    with pytest.raises(ArgumentError, match="start: expected at least 1, got nan"):
        Geco(1.0, start=math.nan)
    with pytest.warns(UserWarning, match=r"geco_target: expected at most 1\.384 nats, .* σ = 0\.1, got 2"):
        train(with_geco("iodine", target=2.0, steps=1), tmp_path / "run")

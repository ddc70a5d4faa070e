"""Every guide, new or loaded, is trained by `pyro.infer.SVI` exactly as by the project's own training."""

from __future__ import annotations

import copy
import csv
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyro_compvae.analysis import load_run
from pyro_compvae.data import SceneSet
from pyro_compvae.evidence import AnnealingConfig, annealed_log_evidence, importance_log_evidence, simulate
from pyro_compvae.guide import SceneGuide
from pyro_compvae.guides import build_guide
from pyro_compvae.programs import ParameterStoreError, TrainModeWarning
from pyro_compvae.runs.config import RunConfig, to_yaml
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.runs.weights import save_weights
from pyro_compvae.training.minibatches import minibatch
from pyro_compvae.training.trainer import Trainer

GUIDES = get_args(GuideName)
CPU = torch.device("cpu")
N, V, STEPS = 8, 4, 5


def make_config(name: Any) -> RunConfig:
    """Constant schedules and no clipping, as in a plain loop; T = 3, since with 2 no LSTM sees its state."""
    changes = {"training.steps": STEPS, "training.clip_norm": 1e9, "training.decay_steps": None}
    if name != "monet":
        changes["refinement.num_iterations"] = 3
    return preset("tiny", name).replace(changes | {"training.optimiser": "adam", "training.learning_rate": 1e-3})


def make_scenes(config: RunConfig) -> SceneSet:
    views = (V,) if config.guide == "mulmon" else ()
    size = config.data.image_size
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (N, *views, 3, size, size), dtype=torch.uint8, generator=generator)
    return SceneSet(images, viewpoints=torch.rand(N, V, 3, generator=generator) if views else None)


def new_guide(config: RunConfig) -> SceneGuide:
    torch.manual_seed(config.seed)
    return build_guide(config)


def loaded(config: RunConfig, folder: Path) -> SceneGuide:
    return load_run(saved(config, folder)).guide


def exported(config: RunConfig, folder: Path) -> SceneGuide:
    (folder / "config.yaml").write_text(to_yaml(config))
    save_weights(folder / "model.safetensors", to_yaml(config), 0, new_guide(config).state_dict())
    return load_run(folder).guide


def saved(config: RunConfig, folder: Path) -> Path:
    """A run folder of an untrained guide, which has the weights of `new_guide`."""
    path = folder / "run"
    path.mkdir()
    (path / "config.yaml").write_text(to_yaml(config))
    trainer = Trainer(new_guide(config), config, make_scenes(config), RunFolder(path))
    trainer.save()
    return path


WAYS: dict[str, Callable[[RunConfig, Path], SceneGuide]] = {
    "build_guide": lambda config, folder: new_guide(config),
    "load_run": loaded,
    "load_run of an export": exported,
    "a deep copy": lambda config, folder: copy.deepcopy(new_guide(config)),
    "pickled": lambda config, folder: pickle.loads(pickle.dumps(new_guide(config))),
    "once evaluated": lambda config, folder: evaluated(new_guide(config), config),
    "moved to a type and back": lambda config, folder: new_guide(config).double().float(),
}


def evaluated(guide: SceneGuide, config: RunConfig) -> SceneGuide:
    with torch.random.fork_rng():
        importance_log_evidence(guide.model.eval(), guide.eval(), *batches(guide, config)[0], num_samples=2)
    return guide


def batches(guide: SceneGuide, config: RunConfig) -> list[tuple[Tensor, ...]]:
    scenes, size = make_scenes(config), config.training.batch_size
    return [guide.arguments(scenes[minibatch(N, size, config.seed, step)]) for step in range(STEPS)]


def prepare(guide: SceneGuide, config: RunConfig) -> None:
    guide.train()
    guide.kl_weight = config.training.kl_weight
    torch.manual_seed(1)


def svi_losses(guide: SceneGuide, config: RunConfig, elbo: Any) -> list[float]:
    """Train by SVI; returns the losses per scene."""
    prepare(guide, config)
    svi = SVI(guide.model, guide, pyro.optim.Adam({"lr": 1e-3, "betas": (config.training.beta1, 0.999)}), elbo)
    return [svi.step(*arguments) / len(arguments[0]) for arguments in batches(guide, config)]


def assert_all_move(guide: SceneGuide, start: SceneGuide) -> None:
    before = dict(start.named_parameters())
    assert not [name for name, parameter in guide.named_parameters() if torch.equal(parameter, before[name])]


@pytest.mark.parametrize(
    ("way", "name"),
    [(way, "iodine") for way in WAYS]
    + [("build_guide", "monet"), ("build_guide", "mulmon")]
    + [pytest.param(w, name, marks=pytest.mark.slow) for w in list(WAYS)[1:] for name in GUIDES if name != "iodine"],
)
def test_svi_equals_the_projects_own_training(name: str, way: str, tmp_path: Path) -> None:
    config = make_config(name)
    own = new_guide(config)
    trainer = Trainer(own, config, make_scenes(config), RunFolder(tmp_path))
    torch.manual_seed(1)
    assert trainer.run()
    with (tmp_path / "metrics.csv").open() as file:
        expected = [float(row["loss"]) for row in csv.DictReader(file)]

    (tmp_path / "way").mkdir()
    guide = WAYS[way](config, tmp_path / "way")
    losses = svi_losses(guide, config, TraceMeanField_ELBO())
    assert len(losses) == STEPS
    assert losses == pytest.approx(expected, rel=1e-5)
    assert abs(losses[-1] - losses[0]) > 1e-3 * abs(losses[0]), "nothing was learned, so equality proves nothing"
    assert_all_move(guide, new_guide(config))


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("elbo", [Trace_ELBO(), RenyiELBO(num_particles=1)], ids=lambda elbo: type(elbo).__name__)
def test_svi_equals_a_plain_loop_over_the_elbo(name: str, elbo: Any) -> None:
    """With one particle RenyiELBO is Trace_ELBO."""
    config = make_config(name)
    own = new_guide(config)
    prepare(own, config)
    module = Trace_ELBO()(own.model, own)
    optimiser = torch.optim.Adam(module.parameters(), 1e-3, betas=(config.training.beta1, 0.999))
    expected = []
    for arguments in batches(own, config):
        loss = module(*arguments)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        expected.append(float(loss.detach()) / len(arguments[0]))
    pyro.clear_param_store()
    guide = new_guide(config)
    assert svi_losses(guide, config, elbo) == pytest.approx(expected, rel=1e-5)
    assert_all_move(guide, new_guide(config))


@pytest.mark.parametrize("name", GUIDES)
def test_looking_at_a_guide_changes_nothing(name: str) -> None:
    """After any attribute is read, all weights are registered and trained as before."""
    config = make_config(name)
    guide = new_guide(config)
    for attribute in dir(guide):
        getattr(guide, attribute, None)
    svi_losses(guide, config, TraceMeanField_ELBO())
    assert_all_move(guide, new_guide(config))


@pytest.mark.parametrize("name", GUIDES)
def test_weights_that_the_store_would_copy_are_refused_and_not_trained_in_vain(name: str) -> None:
    config = make_config(name)
    guide = new_guide(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with pytest.raises(ParameterStoreError, match=r"not contiguous\. Call \.to\(memory_format="):
        svi_losses(guide, config, TraceMeanField_ELBO())
    guide.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    svi_losses(guide, config, TraceMeanField_ELBO())
    assert_all_move(guide, new_guide(config))


def test_an_elbo_module_trains_weights_of_any_layout() -> None:
    config = make_config("iodine")
    guide = new_guide(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    prepare(guide, config)
    TraceMeanField_ELBO()(guide.model, guide)(*batches(guide, config)[0]).backward()
    assert all(parameter.grad is not None for parameter in guide.parameters())


def test_a_second_guide_is_not_trained_in_vain() -> None:
    config = make_config("monet")
    first, second = new_guide(config), new_guide(config)
    svi_losses(first, config, TraceMeanField_ELBO())
    with pytest.raises(ParameterStoreError, match=r"MonetGuide: expected .* others under .* in vain"):
        svi_losses(second, config, TraceMeanField_ELBO())
    pyro.clear_param_store()
    svi_losses(second, config, TraceMeanField_ELBO())
    assert_all_move(second, new_guide(config))


def test_a_model_of_other_weights_is_not_trained_in_vain() -> None:
    """With a guide that Pyro makes, the model itself checks the store."""
    config = make_config("iodine")
    for number in range(2):
        guide = new_guide(config).train()
        auto = pyro.infer.autoguide.AutoDelta(guide.model)
        svi = SVI(guide.model, auto, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
        if number == 0:
            svi.step(*batches(guide, config)[0])
        else:
            with pytest.raises(ParameterStoreError, match="SceneModel: expected"):
                svi.step(*batches(guide, config)[0])


@pytest.mark.parametrize("name", GUIDES)
def test_eval_mode_trains_all_weights_or_says_that_it_cannot(name: str) -> None:
    """In eval mode SVI trains the bound, and a run uses fewer weights."""
    config = make_config(name)
    arguments = batches(new_guide(config), config)[0]

    def train(guide: SceneGuide) -> None:
        svi = SVI(guide.model, guide.eval(), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
        for _ in range(3):
            svi.step(*arguments)

    first, second = new_guide(config), new_guide(config)
    train(first)
    assert_all_move(first, new_guide(config))
    with pytest.raises(ParameterStoreError, match="others under their names"):
        train(second)
    pyro.clear_param_store()
    second.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with pytest.raises(ParameterStoreError, match="not contiguous"):
        train(second)


@pytest.mark.parametrize("name", GUIDES)
def test_guides_that_share_a_model_train_all_of_it(name: str) -> None:
    """In Pyro a model belongs to the last guide that was made from it."""
    config = make_config(name)
    first, second = new_guide(config), new_guide(config)
    second.model = first.model
    svi_losses(first, config, TraceMeanField_ELBO())
    assert_all_move(first, new_guide(config))


@pytest.mark.parametrize("name", GUIDES)
def test_frozen_weights_stay_as_they_are(name: str) -> None:
    config = make_config(name)
    groups = [part for part, _ in new_guide(config).named_children()]
    groups += [part for part, _ in new_guide(config).named_parameters(recurse=False)]
    for group in groups:
        pyro.clear_param_store()
        guide = new_guide(config)
        getattr(guide, group).requires_grad_(False)
        frozen = {key for key, parameter in guide.named_parameters() if not parameter.requires_grad}
        assert frozen
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not registered in the param store because requires_grad=False")
            svi_losses(guide, config, TraceMeanField_ELBO())
        before = dict(new_guide(config).named_parameters())
        same = {key for key, parameter in guide.named_parameters() if torch.equal(parameter, before[key])}
        assert same == frozen == {key for key, parameter in guide.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("name", GUIDES)
def test_observing_by_condition_is_observing(name: str) -> None:
    """The training loss is the same whether images are given to the program or replace simulated ones."""
    config = make_config(name)
    guide = new_guide(config)
    x, *viewpoints = batches(guide, config)[0]
    number = {} if viewpoints else {"num_scenes": len(x)}
    site = x.transpose(0, 1) if viewpoints else x

    def conditioned(*arguments: Tensor) -> Any:
        return pyro.poutine.condition(guide.model, {"x": site})(None, *viewpoints, **number)

    losses = []
    for model in (guide.model, conditioned):
        prepare(guide, config)
        losses.append(Trace_ELBO().loss(model, guide, x, *viewpoints))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_guide_may_have_parameters_of_pyros_own() -> None:
    class Wide(SceneGuide):
        def posterior(self, x: Tensor) -> torch.distributions.Normal:  # type: ignore[override]
            loc = x.new_zeros(len(x), self.model.num_slots, self.model.latent_dim)
            scale = pyro.param("scale", torch.tensor(0.5), constraint=torch.distributions.constraints.positive)
            return torch.distributions.Normal(loc, scale * torch.ones_like(loc))

    config = make_config("iodine")
    guide = Wide(new_guide(config).model)
    svi = SVI(guide.model, guide.train(), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    svi.step(*batches(new_guide(config), config)[0])
    assert float(pyro.param("scale")) == pytest.approx(0.5, abs=2e-3)
    assert float(pyro.param("scale")) != 0.5


@pytest.mark.parametrize("name", GUIDES)
def test_evidence_and_simulation_leave_the_store_as_it_was(name: str) -> None:
    config = make_config(name)
    guide = new_guide(config).eval()
    arguments = batches(guide, config)[0]
    mine = pyro.param("mine", torch.ones(2))
    importance_log_evidence(guide.model, guide, *arguments, num_samples=2, symmetrise=False)
    importance_log_evidence(guide.model, guide, *arguments, num_samples=2)
    few = AnnealingConfig(num_chains=2, num_temperatures=2, leapfrog_steps=1, pilot_chains=2)
    annealed_log_evidence(guide.model, guide, *arguments, config=few)
    simulate(guide.model, *arguments[1:], num_scenes=None if arguments[1:] else 2)
    store = pyro.get_param_store()
    assert list(store.keys()) == ["mine"]
    assert pyro.param("mine") is mine


def test_evidence_reads_the_parameters_of_plain_programs() -> None:
    """A guide that is a function keeps its parameters in the store, where evidence must find them."""

    def model(x: Tensor) -> None:
        with pyro.plate("scenes", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
            pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        weight = pyro.param("weight", torch.tensor(-3.0))
        with pyro.plate("scenes", len(x)):
            pyro.sample("z", pyro.distributions.Normal(weight * x, 0.5**0.5))

    x = torch.tensor([1.0, -2.0])
    pyro.param("weight", torch.tensor(-3.0))
    pyro.get_param_store()["weight"] = torch.tensor(0.5)  # with the posterior all weights are p(x)
    estimate = importance_log_evidence(model, guide, x, num_samples=8, symmetrise=False)
    expected = torch.distributions.Normal(0.0, 2**0.5).log_prob(x).double()
    torch.testing.assert_close(estimate.log_weights, expected.expand(8, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GUIDES)
def test_weights_survive_pyros_parameter_store(name: str, tmp_path: Path) -> None:
    """Weights can be saved and restored as docs/pyro.md says."""
    config = make_config(name)
    guide = new_guide(config)
    svi_losses(guide, config, TraceMeanField_ELBO())
    store = pyro.get_param_store()
    store.save(str(tmp_path / "store"))
    store.clear()
    store.load(str(tmp_path / "store"))
    torch.manual_seed(9)
    other = build_guide(config)
    other.load_state_dict({key.replace("$$$", "."): value for key, value in store.items()})
    store.clear()
    predictions = []
    for each in (guide.eval(), other.eval()):
        store.clear()
        torch.manual_seed(2)
        arguments = batches(guide, config)[0]
        predictions.append(Predictive(each.model, guide=each, num_samples=2, return_sites=("z",))(*arguments)["z"])
    assert torch.equal(*predictions)
    store.clear()
    svi_losses(other, config, TraceMeanField_ELBO())


@pytest.mark.parametrize("name", GUIDES)
def test_train_mode_outside_of_training_is_loud(name: str) -> None:
    config = make_config(name)
    guide = new_guide(config)
    prepare(guide, config)
    arguments = batches(guide, config)[0]
    message = r"Guide runs in train mode .* Call eval\(\) first"
    with torch.no_grad(), pytest.warns(TrainModeWarning, match=message) as caught:
        guide(*arguments)
    assert [warning.filename for warning in caught if warning.category is TrainModeWarning] == [__file__]
    trace = pyro.poutine.trace(guide).get_trace(*arguments)
    if name == "iodine":  # MONet and MulMON have a factor at every setting
        assert "iteration_1" in trace.nodes
    with pytest.warns(TrainModeWarning, match=r"makes weights and evidence by it wrong.*guide.eval\(\)"):
        trace.log_prob_sum()

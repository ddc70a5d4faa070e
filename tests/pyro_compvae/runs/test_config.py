"""Configurations and presets."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from pyro_compvae.analysis.batches import Batches
from pyro_compvae.data.solids.scenes import solid_scenes
from pyro_compvae.data.sprites import make_sprites
from pyro_compvae.errors import ArgumentError, ConfigError
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.config import SECTIONS, flatten, from_yaml, to_yaml
from pyro_compvae.runs.files import write_text
from pyro_compvae.runs.folder import run_name
from pyro_compvae.runs.presets import PRESETS, preset
from pyro_compvae.runs.sections import DatasetName, GuideName
from pyro_compvae.training.minibatches import minibatch
from pyro_compvae.training.schedules import learning_rate
from pyro_compvae.training.step import make_optimiser
from pyro_compvae.training.threads import threads_for


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("guide", get_args(GuideName))
@pytest.mark.parametrize("dataset", get_args(DatasetName))
def test_yaml_round_trip(name: str, guide: GuideName, dataset: DatasetName) -> None:
    config = preset(name, guide, dataset)
    assert (config.preset, config.guide, config.data.name) == (name, guide, dataset)
    assert from_yaml(to_yaml(config)) == config
    changed = config.replace({"decoder.channels": [3, 5], "data.num_views": 4})
    assert from_yaml(to_yaml(changed)) == changed != config


@pytest.mark.parametrize("name", PRESETS)
def test_without_a_data_set_mulmon_takes_the_one_with_views(name: str) -> None:
    datasets = {guide: preset(name, guide).data.name for guide in get_args(GuideName)}
    assert datasets == {"iodine": "sprites", "monet": "sprites", "mulmon": "solids"}


@pytest.mark.parametrize("guide", get_args(GuideName))
def test_paper_presets_have_what_all_tables_share(guide: GuideName) -> None:
    config = preset("paper", guide)
    training = config.training
    assert (training.batch_size, training.steps, training.clip_norm) == (8, 600_000, 5.0)
    assert (training.warmup_steps, training.kl_warmup_steps, config.lnms_prior.warmup_steps) == (0, 0, 0)
    assert training.precision == "float32"
    assert (config.num_slots, config.latent_dim, config.data.image_size, config.scale) == (7, 16, 64, 0.1)
    assert config.lnms_prior.scale == 0.1


def test_paper_preset_of_monet_is_table_2() -> None:
    config = preset("paper", "monet")
    training = config.training
    assert (training.optimiser, training.learning_rate) == ("rmsprop", 3e-4)
    assert [learning_rate(training, step) for step in (0, 300_000, 600_000)] == [3e-4] * 3  # "N/A"
    assert training.kl_weight == 0.5
    assert config.attention is not None
    assert config.attention.mask_strength == 0.5  # the attention prior's
    assert config.lnms_prior.strength == 0.5


@pytest.mark.parametrize("guide", ["iodine", "mulmon"])
def test_paper_presets_of_iodine_and_mulmon_are_tables_3_and_4(guide: GuideName) -> None:
    config = preset("paper", guide)
    training = config.training
    assert (training.optimiser, training.learning_rate, training.decay_steps) == ("adam", 2e-4, 1_000_000)
    for step in (0, 300_000, 600_000, 2_000_000):
        assert learning_rate(training, step) == pytest.approx(max(2e-5 + 1.8e-4 * (1 - step / 1e6), 2e-5), rel=1e-12)
    assert config.refinement is not None
    assert (config.refinement.num_iterations, training.kl_weight, config.lnms_prior.strength) == (5, 1.0, 1.0)


def test_mulmon_observes_as_its_code_does() -> None:
    config = preset("paper", "mulmon")
    assert config.views is not None
    assert (config.views.max_observed, config.views.viewpoint_noise, config.data.num_views) == (6, 0.015, 10)


@pytest.mark.parametrize(
    ("guide", "optimiser"),
    [("iodine", torch.optim.Adam), ("monet", torch.optim.RMSprop), ("mulmon", torch.optim.Adam)],
)
def test_the_optimiser_is_the_one_that_is_named(guide: GuideName, optimiser: type) -> None:
    training = preset("paper", guide).training
    made = make_optimiser(training, [nn.Parameter(torch.zeros(1))])
    assert type(made) is optimiser
    assert made.param_groups[0]["lr"] == training.learning_rate


@pytest.mark.parametrize("guide", get_args(GuideName))
@pytest.mark.parametrize("section", ["refinement", "attention", "views"])
def test_sections_that_do_not_belong_to_the_guide_are_refused(guide: GuideName, section: str) -> None:
    """A missing section is refused too, if the guide needs it."""
    config = preset("tiny", guide)
    belongs = section in SECTIONS[guide]
    donor = next(other for other, sections in SECTIONS.items() if section in sections)
    given = None if belongs else getattr(preset("tiny", donor), section)  # type: ignore[arg-type]
    expected, got = ("a section", "none") if belongs else ("none", "one")
    with pytest.raises(ConfigError, match=f"RunConfig.{section}: expected {expected} with guide {guide}, got {got}"):
        dataclasses.replace(config, **{section: given})
    with pytest.raises(ConfigError, match=f"RunConfig.{section}: expected {expected} with guide {guide}, got {got}"):
        config.replace({section: None if given is None else dataclasses.asdict(given)})


def test_fields_of_another_guides_section_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"expected one of the fields .*; got 'attention.bottleneck'"):
        preset("tiny", "iodine").replace({"attention.bottleneck": 3})
    assert preset("tiny", "monet").replace({"attention.bottleneck": 3}).attention.bottleneck == 3


def test_replace_changes_fields_of_sections() -> None:
    config = preset("tiny").replace({"seed": 3, "training.learning_rate": 0.5, "refinement.mlp": [4, 5]})
    assert config.seed == 3
    assert config.training.learning_rate == 0.5
    assert config.refinement.mlp == (4, 5)
    assert flatten(config)["refinement.mlp"] == (4, 5)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("expected one of the fields .*training.steps.*; got 'training.step'", {"training.step": 3}),
        ("expected one of the fields .*; got 'nothing.here'", {"nothing.here": 3}),
        ("expected one of the fields .*; got 'latent_dim.a.b'", {"latent_dim.a.b": 3}),
        ('wrong value type for field "training.steps"', {"training.steps": "many"}),
        ("TrainingConfig.steps: expected a positive number, got 0", {"training.steps": 0}),
        ("TrainingConfig.beta1: expected a number in", {"training.beta1": 1.0}),
        ("precision", {"training.precision": "float16"}),
        ("RunConfig.num_slots: expected at least 2, got 1", {"num_slots": 1}),
        ("TrainingConfig.kl_warmup_steps: expected zero or more, got -1", {"training.kl_warmup_steps": -1}),
        ("RefinementConfig.kernel_size: expected an odd number, got 4", {"refinement.kernel_size": 4}),
        ("RefinementConfig.channels: expected one or more positive widths", {"refinement.channels": []}),
    ],
)
def test_bad_fields_are_named(message: str, changes: dict) -> None:
    with pytest.raises(ConfigError, match=message):
        preset("tiny").replace(changes)


@pytest.mark.parametrize(
    ("message", "guide", "changes"),
    [
        ("AttentionConfig.channels: expected one or more positive", "monet", {"attention.channels": [4, 0]}),
        ("AttentionConfig.encoder_channels: expected one or more", "monet", {"attention.encoder_channels": []}),
        ("AttentionConfig.mask_strength: expected zero or more, got -1.0", "monet", {"attention.mask_strength": -1.0}),
        ("AttentionConfig.bottleneck: expected a positive number, got -8", "monet", {"attention.bottleneck": -8}),
        ("num_iterations: expected at least 2 with guide mulmon.*got 1", "mulmon", {"refinement.num_iterations": 1}),
        ("ViewsConfig.max_observed: expected a positive number, got 0", "mulmon", {"views.max_observed": 0}),
        ("ViewsConfig.viewpoint_noise: expected zero or more, got -0.1", "mulmon", {"views.viewpoint_noise": -0.1}),
        ("DataConfig.num_views: expected a positive number, got 0", "mulmon", {"data.num_views": 0}),
        ("optimiser", "monet", {"training.optimiser": "sgd"}),
        ("decoder.activation", "monet", {"decoder.activation": "tanh"}),
    ],
)
def test_bad_fields_of_monet_and_mulmon_are_named(message: str, guide: GuideName, changes: dict) -> None:
    with pytest.raises(ConfigError, match=message):
        preset("tiny", guide).replace(changes)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="preset: expected one of default, paper, tiny; got 'huge'"):
        preset("huge")
    with pytest.raises(ConfigError, match="guide: expected one of iodine, monet, mulmon; got 'slots'"):
        preset("tiny", "slots")
    with pytest.raises(ConfigError, match='can not match "colour"'):
        from_yaml(to_yaml(preset("tiny")) + "colour: red\n")
    with pytest.raises(ConfigError, match="expected a mapping of fields, got list"):
        from_yaml("- 1\n")
    with pytest.raises(ConfigError, match="expected YAML, got"):
        from_yaml("a: [1")


@pytest.mark.parametrize("value", ["null", "3", "{a: 1}", "[[]]", "[null]"])
def test_widths_that_are_no_list_of_numbers(value: str) -> None:
    """These values were found by coverage-guided fuzzing."""
    text = re.sub(r"channels:\n( *- \d+\n)+", f"channels: {value}\n", to_yaml(preset("tiny")), count=1)
    assert value in text
    with pytest.raises(ConfigError, match=r"^configuration: "):
        from_yaml(text)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("training.steps", True, "TrainingConfig.steps: expected a number, got True"),
        ("scale", True, "RunConfig.scale: expected a number, got True"),
        ("decoder.channels", [8, True], r"DecoderConfig.channels: expected a number, got \(8, True\)"),
        ("training.decay_steps", False, "TrainingConfig.decay_steps: expected"),
        ("seed", 10**13, "seed: expected a whole number from 0 to 4294967295, got 10000000000000"),
        ("seed", -1, "seed: expected a whole number from 0 to 4294967295, got -1"),
    ],
)
def test_values_that_python_would_take_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preset("tiny").replace({field: value})


def test_the_largest_seed_gives_every_stream(tmp_path: Path) -> None:
    """Seeds are multiplied and added to by steps, scenes and workers."""
    seed = (1 << 32) - 1
    config = preset("tiny").replace({"seed": seed})
    minibatch(4, 3, config.seed, 1_000_000)
    assert Batches(1, seed=seed).seed == seed
    with pytest.raises(ArgumentError, match="seed: expected a whole number from 0"):
        Batches(1, seed=seed + 1)
    make_sprites("test", 2, seed)
    for make in (make_sprites, solid_scenes):
        with pytest.raises(ArgumentError, match="seed: expected a whole number from 0"):
            make("test", 2, -1)


def test_long_names_leave_room(tmp_path: Path) -> None:
    """File systems take names of 255 bytes."""
    name = "ü" * 125
    path = tmp_path / f"{name}.txt"
    write_text(path, "yes")
    assert path.read_text() == "yes"
    config = preset("tiny", "monet", "file").replace({"data.root": f"/{name}.h5", "frozen_model": f"/{name}"})
    assert run_name(config) == f"monet-{'ü' * 40}-lnms-seed0-on-{'ü' * 40}"


@pytest.mark.parametrize(("name", "threads"), [("tiny", 1), ("default", 1), ("paper", 2)])
@pytest.mark.parametrize("guide", get_args(GuideName))
def test_small_steps_take_one_thread(name: str, threads: int, guide: GuideName) -> None:
    torch.set_num_threads(2)
    assert threads_for(preset(name, guide)) == threads


NUMBERS = [
    (guide, name)
    for guide in get_args(GuideName)
    for name, value in flatten(preset("tiny", guide).replace({"training.decay_steps": 9})).items()
    if type(value) in (int, float, tuple)
]


@pytest.mark.parametrize(("guide", "name"), NUMBERS)
def test_every_number_has_a_limit(guide: GuideName, name: str) -> None:
    """Limits are checked before anything is built; so is a value that cannot be written in decimal digits."""
    config = preset("tiny", guide)
    value = flatten(config)[name]
    huge = [10**19, 1 << 20_000] if isinstance(value, int | tuple) else [1e19, math.inf, math.nan]
    for number in huge:
        with pytest.raises(ConfigError, match=r"^configuration: "):
            config.replace({name: (number,) if isinstance(value, tuple) else number})
    if isinstance(value, tuple):
        with pytest.raises(ConfigError, match=f"{name.rpartition('.')[2]}: expected at most 64 widths"):
            config.replace({name: [1] * 10_000})


@pytest.mark.parametrize("name", ["refinement.early_iterations", "training.decay_steps"])
def test_numbers_that_may_be_missing_have_limits(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name.partition('.')[2]}: expected at most"):
        preset("tiny").replace({name: 10**13})


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("expected a decoder with at most", {"num_slots": 256, "data.image_size": 256, "decoder.channels": [32]}),
        ("expected sprites of 64 GiB and 256 × 256 pixels at most", {"data.image_size": 320}),
        ("expected sprites of 64 GiB", {"data.num_test": 10**9}),
        ("RunConfig.num_slots: expected at most 256 in magnitude, got 1000000000", {"num_slots": 1_000_000_000}),
        ("DataConfig.image_size: expected at most 1,024 in magnitude", {"data.image_size": 1_000_000}),
    ],
)
def test_numbers_that_are_too_large_together(message: str, changes: dict) -> None:
    with pytest.raises(ConfigError, match=message):
        preset("tiny").replace(changes)


@pytest.mark.parametrize(
    ("guide", "changes"),
    [
        ("iodine", {"decoder.channels": [32768, 32768]}),
        ("iodine", {"refinement.mlp": [65536, 65536]}),
        ("monet", {"attention.channels": [40_000, 40_000]}),
        ("mulmon", {"views.view_hidden": 65536, "views.view_dim": 60_000}),
    ],
)
def test_networks_that_would_fill_the_memory_are_not_built(guide: GuideName, changes: dict) -> None:
    config = preset("tiny", guide).replace(changes | {"data.image_size": 16})
    with pytest.raises(ConfigError, match="expected networks of at most 268,435,456 weights, got one with a layer of"):
        build_guide(config)

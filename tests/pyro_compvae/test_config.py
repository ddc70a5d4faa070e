"""Configurations and presets."""

from __future__ import annotations

import pytest

from pyro_compvae.config import ConfigError, flatten, from_yaml, to_yaml
from pyro_compvae.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dataset", ["sprites", "solids", "clevr-mv", "dolphin"])
def test_yaml_round_trip(name: str, dataset: str) -> None:
    config = preset(name, "iodine", dataset)  # type: ignore[arg-type]
    assert from_yaml(to_yaml(config)) == config


def test_paper_preset_is_table_3() -> None:
    config = preset("paper")
    training = config.training
    assert (training.learning_rate, training.batch_size, training.steps) == (2e-4, 8, 600_000)
    assert (training.clip_norm, training.decay_steps) == (5.0, 1_000_000)
    assert (config.refinement.num_iterations, config.lnms_prior.strength, config.lnms_prior.scale) == (5, 1.0, 0.1)
    assert (config.num_slots, config.latent_dim, config.data.image_size, config.scale) == (7, 16, 64, 0.1)


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


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="--preset: expected one of default, paper, tiny; got 'huge'"):
        preset("huge")
    with pytest.raises(ConfigError, match="--guide: expected one of iodine, monet, mulmon; got 'slots'"):
        preset("tiny", "slots")
    with pytest.raises(ConfigError, match='can not match "colour"'):
        from_yaml(to_yaml(preset("tiny")) + "colour: red\n")
    with pytest.raises(ConfigError, match="expected a mapping of fields, got list"):
        from_yaml("- 1\n")
    with pytest.raises(ConfigError, match="expected YAML, got"):
        from_yaml("a: [1")

"""The configurations of networks refuse impossible values by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pyro_compvae.architectures import (
    AttentionNetworkConfig,
    ComponentEncoderConfig,
    DecoderConfig,
    RefinementNetworkConfig,
)
from pyro_compvae.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "field", "value", "expected"),
    [
        (DecoderConfig, "channels", (), "one or more positive widths"),
        (DecoderConfig, "upsample", 0, "a positive number"),
        (DecoderConfig, "num_frequencies", -1, "zero or more"),
        (DecoderConfig, "activation", "tanh", "one of elu, relu"),
        (RefinementNetworkConfig, "kernel_size", 4, "an odd number"),
        (RefinementNetworkConfig, "hidden", 0, "a positive number"),
        (RefinementNetworkConfig, "activation", "tanh", "one of elu, relu"),
        (RefinementNetworkConfig, "pooling", "max", "one of average, flatten"),
        (RefinementNetworkConfig, "layer_norm", "none", "one of joint, mulmon, split"),
        (AttentionNetworkConfig, "channels", (4, 0), "one or more positive widths"),
        (AttentionNetworkConfig, "gain", 0.0, "a positive number"),
        (ComponentEncoderConfig, "encoder_channels", (-1,), "one or more positive widths"),
        (ComponentEncoderConfig, "initial_scale", 0.0, "a positive number"),
    ],
)
def test_bad_fields_are_named(kind: type, field: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{kind.__name__}\.{field}: expected {expected}, got "):
        kind(**{field: value})


@pytest.mark.parametrize(
    "kind", [DecoderConfig, RefinementNetworkConfig, AttentionNetworkConfig, ComponentEncoderConfig]
)
def test_they_stay_as_they_are(kind: type) -> None:
    config = kind()
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, (1,))

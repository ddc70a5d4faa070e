"""Everything that defines a run, as frozen dataclasses that validate themselves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

import dacite
import yaml

from pyro_compvae.architectures import DecoderConfig
from pyro_compvae.checks import at_most, check_seed, positive, require
from pyro_compvae.errors import ConfigError
from pyro_compvae.runs.bounded_yaml import load_yaml
from pyro_compvae.runs.sections import (
    AttentionConfig,
    DataConfig,
    GuideName,
    LnmsConfig,
    RefinementConfig,
    TrainingConfig,
    ViewsConfig,
)

MAY_DIFFER = ("training.steps", "data.root")
"""Fields in which a resumed run may differ from the stored one."""

MODEL_FIELDS = (
    *("num_slots", "latent_dim", "scale", "decoder", "data.image_size"),
    *("views.view_dim", "views.view_hidden", "views.projector_hidden", "views.turntable"),
)
"""Fields and sections that define the generative model."""


MAX_SLOTS, MAX_LATENT = 256, 4096
"""The largest K and D."""

MAX_FEATURES = 1 << 28
"""The most numbers in a layer of the decoder for one scene, 1 GiB in float32; the paper's have two million."""

SECTIONS = {"iodine": ("refinement",), "monet": ("attention",), "mulmon": ("refinement", "views")}
"""The sections of a configuration that describe each guide."""


@dataclass(frozen=True)
class RunConfig:
    """The configuration of one run."""

    guide: GuideName
    """The name of the guide, which also decides the model."""

    preset: str = "paper"
    """The name of the preset from which the configuration was made."""

    lnms: bool = True
    """Whether L-NMS is part of the objective."""

    seed: int = 0
    """The seed of initialisation, minibatches and noise; the data have a separate seed."""

    frozen_model: str | None = None
    """A run folder whose generative model this run takes over unchanged; only the guide is trained."""

    num_slots: int = 7
    """K, the number of slots of a scene."""

    latent_dim: int = 16
    """D, the number of latent dimensions of a slot."""

    scale: float = 0.1
    """σ, the standard deviation of a colour channel."""

    data: DataConfig = field(default_factory=DataConfig)
    """The scenes of the run."""

    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder, which every model has."""

    refinement: RefinementConfig | None = None
    """The refinement of IODINE and MulMON."""

    attention: AttentionConfig | None = None
    """The attention and the encoder of MONet."""

    views: ViewsConfig | None = None
    """The views of MulMON."""

    lnms_prior: LnmsConfig = field(default_factory=LnmsConfig)
    """The strength and scale of L-NMS, if it is part of the objective."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The optimiser, its schedule, and how often to log, evaluate and save."""

    def __post_init__(self) -> None:
        positive(self, "latent_dim", most=MAX_LATENT)
        positive(self, "scale")
        check_seed(self.seed)
        require(self.num_slots >= 2, f"RunConfig.num_slots: expected at least 2, got {self.num_slots}")
        at_most(self, MAX_SLOTS, "num_slots")
        self._check_features()
        needed = SECTIONS[self.guide]
        for name in ("refinement", "attention", "views"):
            there = getattr(self, name) is not None
            require(
                there == (name in needed),
                f"RunConfig.{name}: expected {'a section' if name in needed else 'none'} with guide {self.guide}, "
                f"got {'one' if there else 'none'}",
            )
        if self.multi_view and self.refinement is not None:
            for name in ("num_iterations", "early_iterations"):
                given = getattr(self.refinement, name)
                require(
                    given is None or given >= 2,
                    f"RefinementConfig.{name}: expected at least 2 with guide {self.guide}, where updates lie between "
                    f"evaluations, got {given}",
                )

    def _check_features(self) -> None:
        """Refuse a decoder whose layers would fill the memory."""
        decoder = self.decoder
        border = 0 if decoder.padded else len(decoder.channels) * (decoder.kernel_size - 1)
        width = max(*decoder.channels, 2 + 4 * decoder.num_frequencies)
        features = self.num_slots * (self.data.image_size // decoder.upsample + border) ** 2 * width
        require(
            features <= MAX_FEATURES,
            f"RunConfig: expected a decoder with at most {MAX_FEATURES:,} numbers in a layer, got {features:,}: lower "
            "data.image_size, num_slots or decoder.channels",
        )

    @property
    def multi_view(self) -> bool:
        """Whether the run uses several views of a scene."""
        return self.views is not None

    def replace(self, changes: Mapping[str, Any]) -> RunConfig:
        """A copy with some fields changed; a field of a section is named ``section.field``.

        Raises:
            ConfigError: for an unknown field, a wrong type or an impossible value.

        >>> from pyro_compvae.runs.presets import preset
        >>> preset("default").replace({"lnms_prior.strength": 0.5, "num_slots": 7}).num_slots
        7
        >>> preset("default").replace({"num_slots": 1})
        Traceback (most recent call last):
        pyro_compvae.errors.ConfigError: configuration: RunConfig.num_slots: expected at least 2, got 1
        """
        content = dataclasses.asdict(self)
        for name, value in changes.items():
            *path, last = name.split(".")
            section: Any = content
            for part in path:
                section = section.get(part) if isinstance(section, dict) else None
            if not isinstance(section, dict) or last not in section:
                known = ", ".join(sorted(flatten(self)))
                raise ConfigError(f"configuration: expected one of the fields {known}; got {name!r}")
            section[last] = value
        return from_dict(content)


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Fields by name from FIELD=VALUE, where the value is JSON (1e-3, true, [32, 32], null), or else a plain text.

    Raises:
        ConfigError: for anything else.
    """
    named = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set: expected FIELD=VALUE, got {assignment!r}")
        try:
            named[name] = json.loads(text)
        except json.JSONDecodeError:
            named[name] = text
    return named


def flatten(config: RunConfig) -> dict[str, Any]:
    """All fields by name, those of a section as ``section.field``."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[name] = value
    return flat


def differences(found: RunConfig, asked: RunConfig, fields: tuple[str, ...] = ()) -> list[str]:
    """The differences of two configurations, as one phrase per field, in the given fields and sections, or in all
    fields that a resumed run may not change."""
    there, here = flatten(found), flatten(asked)
    return [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in there | here
        if there.get(name) != here.get(name)
        and (any(f"{name}.".startswith(f"{field}.") for field in fields) if fields else name not in MAY_DIFFER)
    ]


def from_dict(content: dict[str, Any]) -> RunConfig:
    """Build a configuration from nested dictionaries, as in ``config.yaml``.

    Raises:
        ConfigError: for an unknown field, a wrong type or an impossible value.
    """
    try:
        config = dacite.from_dict(RunConfig, content, dacite.Config(strict=True, cast=[tuple]))
        _check_no_truth_values(config)
        return config
    except (dacite.DaciteError, ValueError, TypeError) as error:
        raise ConfigError(f"configuration: {without_middle(str(error))}") from error


def without_middle(text: str, most: int = 1000) -> str:
    """A text of which the middle is left out if it is long, because it quotes a value of any length."""
    return text if len(text) <= most else f"{text[: most // 2]} [...] {text[-most // 2 :]}"


def _check_no_truth_values(config: Any) -> None:
    """Refuse true and false in place of numbers, for which Python takes them."""
    types = get_type_hints(type(config))
    for name in types:
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            _check_no_truth_values(value)
        elif bool not in (types[name], *get_args(types[name])):
            found = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, bool)]
            require(not found, f"{type(config).__name__}.{name}: expected a number, got {value}")


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML text, which `from_yaml` reads back."""
    return yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config))), sort_keys=False)


def from_yaml(text: str) -> RunConfig:
    """Read a configuration back.

    Raises:
        ConfigError: if the text is no YAML mapping, or no configuration, or has aliases.
    """
    content = load_yaml(text)
    if not isinstance(content, dict):
        raise ConfigError(f"configuration: expected a mapping of fields, got {type(content).__name__}")
    return from_dict(content)

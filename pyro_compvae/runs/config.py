"""Everything that defines a run, as frozen dataclasses that validate themselves."""

from __future__ import annotations

from pyro_compvae.errors import ConfigError, DiskFullError

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import dacite
import yaml

GuideName = Literal["iodine", "monet", "mulmon"]
DatasetName = Literal["sprites", "solids", "clevr-mv", "dolphin", "file"]


MAY_DIFFER = ("training.steps", "data.root")
"""Fields in which a resumed run may differ from the run before."""

MODEL_FIELDS = (
    *("num_slots", "latent_dim", "scale", "decoder", "data.image_size"),
    *("views.view_dim", "views.view_hidden", "views.projector_hidden"),
)
"""Fields and sections that define the generative model."""


SECTIONS = {"iodine": ("refinement",), "monet": ("attention",), "mulmon": ("refinement", "views")}
"""The sections of a configuration that describe each guide."""


@dataclass(frozen=True)
class DataConfig:
    """Which scenes.

    name: "sprites" or "solids" (made on the spot), "clevr-mv", "dolphin" or "file" (read from ``root``).
    root: folder that holds the data on disk, or the file of scenes.
    image_size: side of the square images in pixels; data on disk are brought to it.
    num_train: sprite or solid scenes to train on.
    num_test: unseen sprite or solid scenes for the final evaluation, and as many for validation.
    num_views: views of each solid scene.
    """

    name: DatasetName = "sprites"
    root: str | None = None
    image_size: int = 24
    num_train: int = 20_000
    num_test: int = 320
    num_views: int = 6

    def __post_init__(self) -> None:
        _positive(self, "image_size", "num_train", "num_test", "num_views")
        _require(
            self.root is None or self.name not in ("sprites", "solids"),
            f"DataConfig.root: expected none with {self.name}, which are made on the spot, got {self.root}. To read "
            "data, give --dataset clevr-mv, dolphin or file.",
        )


@dataclass(frozen=True)
class DecoderConfig:
    """The arguments of `SpatialBroadcastDecoder`."""

    channels: tuple[int, ...] = (64, 64, 64, 64)
    kernel_size: int = 3
    num_frequencies: int = 0
    upsample: int = 1
    icnr: bool = False
    padded: bool = True
    activation: Literal["elu", "relu"] = "elu"

    def __post_init__(self) -> None:
        _positive(self, "kernel_size", "upsample")
        _widths(self, "channels")


@dataclass(frozen=True)
class RefinementConfig:
    """T, the scale of q(z | λ_0), whether inputs stay attached (`RefinementGuide`), and the arguments of
    `RefinementNetwork`.

    T counts updates in IODINE, and evaluations per view, one more than updates, in MulMON, as their papers do. MulMON
    starts from the prior and has no use for the scale.
    """

    num_iterations: int = 5
    initial_scale: float = 1.0
    channels: tuple[int, ...] = (64, 64, 64, 64)
    kernel_size: int = 3
    mlp: tuple[int, ...] = (256, 256)
    hidden: int = 256
    recurrent: bool = True
    contraction: float = 0.0
    pooling: Literal["average", "flatten"] = "average"
    num_frequencies: int = 0
    padded: bool = True
    activation: Literal["elu", "relu"] = "elu"
    layer_norm: Literal["joint", "mulmon", "split"] = field(kw_only=True)
    attached_inputs: bool = False

    def __post_init__(self) -> None:
        _positive(self, "num_iterations", "initial_scale", "kernel_size", "hidden")
        _require(
            self.kernel_size % 2 == 1, f"RefinementConfig.kernel_size: expected an odd number, got {self.kernel_size}"
        )
        _widths(self, "channels")


@dataclass(frozen=True)
class AttentionConfig:
    """MONet: the arguments of `AttentionNetwork` and of `ComponentEncoder`, and γ of the mask KL, with a
    linear warm-up."""

    channels: tuple[int, ...] = (32, 32, 64, 64, 64)
    bottleneck: int = 128
    encoder_channels: tuple[int, ...] = (32, 32, 64, 64)
    encoder_hidden: int = 256
    mask_strength: float = 0.5
    mask_warmup_steps: int = 0

    def __post_init__(self) -> None:
        _positive(self, "bottleneck", "encoder_hidden")
        _not_negative(self, "mask_strength", "mask_warmup_steps")
        _widths(self, "channels", "encoder_channels")


@dataclass(frozen=True)
class ViewsConfig:
    """MulMON: view encoder and projector of `MultiViewSceneModel`, and the views seen in training.

    max_observed: most views observed in a training step; those left are queries.
    viewpoint_noise: standard deviation of the noise on viewpoints in training.
    refine_with_viewpoint: whether the refinement network sees the viewpoint of the image before it. In the published
        code it learns of cameras through the gradients alone.
    """

    view_dim: int = 3
    view_hidden: int = 128
    projector_hidden: int = 512
    max_observed: int = 6
    viewpoint_noise: float = 0.015
    refine_with_viewpoint: bool = False

    def __post_init__(self) -> None:
        _positive(self, "view_dim", "view_hidden", "projector_hidden", "max_observed")
        _not_negative(self, "viewpoint_noise")


@dataclass(frozen=True)
class LnmsConfig:
    """L-NMS in the objective: strength s, scale σ_c, and a linear warm-up of s over ``warmup_steps``."""

    strength: float = 1.0
    scale: float = 0.1
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _positive(self, "strength", "scale")
        _not_negative(self, "warmup_steps")


@dataclass(frozen=True)
class TrainingConfig:
    """The optimiser, its schedule, and how often to look.

    The learning rate rises linearly over ``warmup_steps``, then follows the paper's Table 3,
    max{0.1 η + 0.9 η (1 − s / decay_steps), 0.1 η} at step s, or stays constant with ``decay_steps`` null. The KL
    weight β rises linearly to ``kl_weight`` over ``kl_warmup_steps``. ``beta1`` is Adam's.
    """

    steps: int = 600_000
    batch_size: int = 8
    learning_rate: float = 2e-4
    optimiser: Literal["adam", "rmsprop"] = "adam"
    beta1: float = 0.9
    clip_norm: float = 5.0
    warmup_steps: int = 0
    decay_steps: int | None = 1_000_000
    kl_weight: float = 1.0
    kl_warmup_steps: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    log_every: int = 50
    evaluate_every: int = 5_000
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        _positive(self, "steps", "batch_size", "learning_rate", "clip_norm", "kl_weight")
        if self.decay_steps is not None:
            _positive(self, "decay_steps")
        _positive(self, "log_every", "evaluate_every", "checkpoint_every")
        _not_negative(self, "warmup_steps", "kl_warmup_steps")
        _require(0 <= self.beta1 < 1, f"TrainingConfig.beta1: expected a number in [0, 1), got {self.beta1}")


@dataclass(frozen=True)
class RunConfig:
    """One run.

    guide: which model and guide.
    preset: the name of the preset that the run started from.
    lnms: whether L-NMS is in the objective.
    seed: of initialisation, minibatches and noise; the data have a seed of their own.
    frozen_model: run folder whose generative model this run takes over and leaves as it is; only the guide is trained.
    num_slots, latent_dim: K, D.
    scale: σ, standard deviation of a colour channel.
    refinement: IODINE and MulMON.
    attention: MONet.
    views: MulMON.
    """

    guide: GuideName
    preset: str = "paper"
    lnms: bool = True
    seed: int = 0
    frozen_model: str | None = None
    num_slots: int = 7
    latent_dim: int = 16
    scale: float = 0.1
    data: DataConfig = field(default_factory=DataConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    refinement: RefinementConfig | None = None
    attention: AttentionConfig | None = None
    views: ViewsConfig | None = None
    lnms_prior: LnmsConfig = field(default_factory=LnmsConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        _positive(self, "latent_dim", "scale")
        _require(self.num_slots >= 2, f"RunConfig.num_slots: expected at least 2, got {self.num_slots}")
        needed = SECTIONS[self.guide]
        for name in ("refinement", "attention", "views"):
            there = getattr(self, name) is not None
            _require(
                there == (name in needed),
                f"RunConfig.{name}: expected {'a section' if name in needed else 'none'} with guide {self.guide}, "
                f"got {'one' if there else 'none'}",
            )
        if self.multi_view and self.refinement is not None:
            _require(
                self.refinement.num_iterations >= 2,
                f"RefinementConfig.num_iterations: expected at least 2 with guide {self.guide}, where updates lie between "
                f"evaluations, got {self.refinement.num_iterations}",
            )

    @property
    def multi_view(self) -> bool:
        """Whether the run is on several views of a scene."""
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
    """Fields by name from FIELD=VALUE, values as JSON has them (1e-3, true, [32, 32], null), or else the text itself.

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
    """How two configurations differ, a phrase per field, in some fields and sections or in all that a resumed run may
    not change."""
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
        return dacite.from_dict(RunConfig, content, dacite.Config(strict=True, cast=[tuple]))
    except (dacite.DaciteError, ValueError, TypeError) as error:
        raise ConfigError(f"configuration: {error}") from error


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML text, which `from_yaml` reads back."""
    return yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config))), sort_keys=False)


def from_yaml(text: str) -> RunConfig:
    """Read a configuration back.

    Raises:
        ConfigError: if the text is no YAML mapping, or not of a configuration.
    """
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"configuration: expected YAML, got {text[:40]!r} ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"configuration: expected a mapping of fields, got {type(content).__name__}")
    return from_dict(content)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _widths(config: Any, *names: str) -> None:
    for name in names:
        widths = getattr(config, name)
        _require(
            len(widths) > 0 and min(widths) > 0,
            f"{type(config).__name__}.{name}: expected one or more positive widths, got {widths}",
        )


def _not_negative(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= 0, f"{type(config).__name__}.{name}: expected zero or more, got {value}")


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{type(config).__name__}.{name}: expected a positive number, got {value}")

"""The sections of a configuration, as frozen dataclasses that validate themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pyro_compvae.errors import ConfigError

GuideName = Literal["iodine", "monet", "mulmon"]


DatasetName = Literal["sprites", "solids", "clevr-mv", "dolphin", "file"]


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
        positive(self, "image_size", "num_train", "num_test", "num_views")
        require(
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
        positive(self, "kernel_size", "upsample")
        widths(self, "channels")


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
        positive(self, "num_iterations", "initial_scale", "kernel_size", "hidden")
        require(
            self.kernel_size % 2 == 1, f"RefinementConfig.kernel_size: expected an odd number, got {self.kernel_size}"
        )
        widths(self, "channels")


@dataclass(frozen=True)
class AttentionConfig:
    """MONet: the arguments of `AttentionNetwork` and of `ComponentEncoder`, and γ of the mask KL, with a
    linear warm-up. The defaults are the published networks, but for the gain."""

    channels: tuple[int, ...] = (32, 32, 64, 64, 64)
    bottleneck: int = 128
    encoder_channels: tuple[int, ...] = (32, 32, 64, 64)
    encoder_hidden: int = 256
    downsample: int = 1
    gain: float = 10.0
    gated: bool = False
    initial_scale: float | None = None
    mask_strength: float = 0.5
    mask_warmup_steps: int = 0

    def __post_init__(self) -> None:
        positive(self, "bottleneck", "encoder_hidden", "downsample", "gain")
        if self.initial_scale is not None:
            positive(self, "initial_scale")
        not_negative(self, "mask_strength", "mask_warmup_steps")
        widths(self, "channels", "encoder_channels")


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
        positive(self, "view_dim", "view_hidden", "projector_hidden", "max_observed")
        not_negative(self, "viewpoint_noise")


@dataclass(frozen=True)
class LnmsConfig:
    """L-NMS in the objective: strength s, scale σ_c, and a linear warm-up of s over ``warmup_steps``."""

    strength: float = 1.0
    scale: float = 0.1
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        positive(self, "strength", "scale")
        not_negative(self, "warmup_steps")


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
        positive(self, "steps", "batch_size", "learning_rate", "clip_norm", "kl_weight")
        if self.decay_steps is not None:
            positive(self, "decay_steps")
        positive(self, "log_every", "evaluate_every", "checkpoint_every")
        not_negative(self, "warmup_steps", "kl_warmup_steps")
        require(0 <= self.beta1 < 1, f"TrainingConfig.beta1: expected a number in [0, 1), got {self.beta1}")


def require(condition: bool, message: str) -> None:
    """Refuse a configuration with a message."""
    if not condition:
        raise ConfigError(message)


def widths(config: Any, *names: str) -> None:
    """Refuse fields that are no list of positive widths."""
    for name in names:
        given = getattr(config, name)
        require(
            len(given) > 0 and min(given) > 0,
            f"{type(config).__name__}.{name}: expected one or more positive widths, got {given}",
        )


def not_negative(config: Any, *names: str) -> None:
    """Refuse fields below zero."""
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{type(config).__name__}.{name}: expected zero or more, got {value}")


def positive(config: Any, *names: str) -> None:
    """Refuse fields that are not above zero."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{type(config).__name__}.{name}: expected a positive number, got {value}")

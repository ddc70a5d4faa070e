"""The sections of a configuration, as frozen dataclasses that validate themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pyro_compvae.architectures import (
    MAX_SIDE,
    AttentionNetworkConfig,
    ComponentEncoderConfig,
    LayerNorm,
    RefinementNetworkConfig,
)
from pyro_compvae.checks import MAX_WIDTH, not_negative, one_of, positive, require
from pyro_compvae.lnms import LnmsForm

GuideName = Literal["iodine", "monet", "mulmon"]


DatasetName = Literal[
    "sprites", "tetrominoes", "multi-dsprites", "multi-dsprites-colour", "solids", "clevr-mv", "dolphin", "file"
]

MAX_VIEWS, MAX_ITERATIONS = 1000, 1000
"""The most views of a scene, and the most iterations of refinement."""

MADE = ("sprites", "tetrominoes", "multi-dsprites", "multi-dsprites-colour", "solids")
MAX_MADE, MAX_MADE_SIDE = 64 << 30, 256
"""The data sets that are made on the spot, their largest size in bytes, and the largest side of their images."""

SIDES = {"tetrominoes": 35, "multi-dsprites": 64, "multi-dsprites-colour": 64}
"""The sides of the images of benchmarks, which have one size only."""


@dataclass(frozen=True)
class DataConfig:
    """The scenes of a run."""

    name: DatasetName = "sprites"
    """The data set. "clevr-mv", "dolphin" and "file" are read from ``root``; the others are made on the spot."""

    root: str | None = None
    """Folder that holds the data on disk, or the file of scenes."""

    image_size: int = 24
    """Side of the square images in pixels; data on disk are resized to it."""

    num_train: int = 20_000
    """Number of scenes to train on, where they are made on the spot."""

    num_test: int = 320
    """Number of unseen scenes for the final evaluation, where they are made on the spot; there are as many for
    validation."""

    num_views: int = 6
    """Number of views of each solid scene."""

    def __post_init__(self) -> None:
        positive(self, "image_size", most=MAX_SIDE)
        positive(self, "num_train", "num_test")
        positive(self, "num_views", most=MAX_VIEWS)
        side = SIDES.get(self.name, self.image_size)
        require(
            self.image_size == side,
            f"DataConfig.image_size: expected {side} for {self.name}, whose published images have this size, got "
            f"{self.image_size}",
        )
        made = max(self.num_train, self.num_test) * (self.num_views if self.name == "solids" else 1)
        require(
            self.name not in MADE or (self.image_size <= MAX_MADE_SIDE and made * 4 * self.image_size**2 <= MAX_MADE),
            f"DataConfig: expected {self.name} of {MAX_MADE >> 30} GiB and {MAX_MADE_SIDE} × {MAX_MADE_SIDE} pixels at "
            f"most, got {made} images of {self.image_size} × {self.image_size} pixels. Lower num_train, num_test or "
            "image_size.",
        )
        require(
            self.root is None or self.name not in MADE,
            f"DataConfig.root: expected none with {self.name}, which are made on the spot, got {self.root}. To read "
            "data, give --dataset clevr-mv, dolphin or file.",
        )


@dataclass(frozen=True)
class RefinementConfig(RefinementNetworkConfig):
    """IODINE and MulMON: the refinement network, and how the guide uses it."""

    num_iterations: int = 5
    """T, counted as in the papers: the number of updates in IODINE; in MulMON the number of evaluations per view, which
    is one more than that of updates."""

    early_iterations: int | None = None
    """T in the first ``early_steps`` steps of training, which makes these cheaper; by default T is always the same."""

    early_steps: int = 0
    """Number of training steps with ``early_iterations``."""

    initial_scale: float = 1.0
    """Scale of q(z | λ_0) at the start of training. MulMON starts from the prior and does not use it."""

    attached_inputs: bool = False
    """Whether the training gradient is the published one, which runs through attached inputs (`RefinementGuide`)."""

    # There is no default, so that configurations from before there was a choice are refused and not misread.
    layer_norm: LayerNorm = field(kw_only=True)
    """How inputs are normalised, as in `RefinementNetworkConfig`; it must be given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_iterations", most=MAX_ITERATIONS)
        positive(self, "initial_scale")
        not_negative(self, "early_steps")
        if self.early_iterations is not None:
            positive(self, "early_iterations", most=MAX_ITERATIONS)


@dataclass(frozen=True)
class AttentionConfig(ComponentEncoderConfig, AttentionNetworkConfig):
    """MONet: the attention network, the encoder of components, and the weight of the mask KL."""

    mask_strength: float = 0.5
    """γ, the weight of the mask KL."""

    mask_warmup_steps: int = 0
    """Steps over which γ rises linearly from zero."""

    def __post_init__(self) -> None:
        AttentionNetworkConfig.__post_init__(self)
        ComponentEncoderConfig.__post_init__(self)
        not_negative(self, "mask_strength", "mask_warmup_steps")


@dataclass(frozen=True)
class ViewsConfig:
    """MulMON: view encoder and projector of `MultiViewSceneModel`, and the views seen in training."""

    view_dim: int = 3
    """Width of a view's code."""

    view_hidden: int = 128
    """Width of the view encoder's hidden layer."""

    projector_hidden: int = 512
    """Width of the projector's hidden layer."""

    max_observed: int = 6
    """The largest number of views observed in a training step; the others are queries."""

    viewpoint_noise: float = 0.015
    """Standard deviation of the noise on viewpoints in training."""

    refine_with_viewpoint: bool = False
    """Whether the refinement network sees the viewpoint of the current image. In the published code it learns about
    cameras through the gradients alone."""

    turntable: bool = False
    """Whether latents turn with the camera, in place of view encoder and projector, and refinement works in the frame
    of the camera (`pyro_compvae.turntable`)."""

    observed_warmup_steps: int = 0
    """Steps over which the largest number of observed views rises from one."""

    analytic_kl: bool = False
    """Whether the KL from view to view is exact. As published it is the log ratio at one sample, whose gradient has
    noise of one over the posterior scale of the view before, as large as the likelihood's gradient."""

    max_queried: int | None = None
    """The largest number of queries in a training step; by default all views that are not observed."""

    query_warmup_steps: int = 0
    """Steps over which the weight of the queries rises linearly from zero."""

    def __post_init__(self) -> None:
        positive(self, "view_dim", "view_hidden", "projector_hidden", most=MAX_WIDTH)
        positive(self, "max_observed", most=MAX_VIEWS)
        not_negative(self, "viewpoint_noise", "observed_warmup_steps", "query_warmup_steps")
        if self.max_queried is not None:
            positive(self, "max_queried", most=MAX_VIEWS)


@dataclass(frozen=True)
class LnmsConfig:
    """The L-NMS factor of the objective."""

    strength: float = 1.0
    """s, the weight of the factor."""

    scale: float = 0.1
    """σ_c, the standard deviation of the correlations."""

    warmup_steps: int = 0
    """Steps over which s rises linearly from zero."""

    form: LnmsForm = "sum"
    """The sum over pairs of slots as in the paper, their mean, or the sum weighted by the presence of both slots."""

    def __post_init__(self) -> None:
        positive(self, "strength", "scale")
        one_of(self, "form", LnmsForm)
        not_negative(self, "warmup_steps")


@dataclass(frozen=True)
class TrainingConfig:
    """The optimiser, its schedule, and how often to log, evaluate and save."""

    steps: int = 600_000
    """Number of training steps."""

    batch_size: int = 8
    """Number of scenes per step, for all workers together."""

    learning_rate: float = 2e-4
    """η, the learning rate after its warm-up."""

    optimiser: Literal["adam", "rmsprop"] = "adam"
    """Which of torch's optimisers is used."""

    beta1: float = 0.9
    """Adam's β₁."""

    clip_norm: float = 5.0
    """The largest norm of the gradient, to which longer gradients are clipped."""

    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly to η."""

    decay_steps: int | None = 1_000_000
    """The step at which the learning rate stops falling. After its warm-up it follows the paper's Table 3, max{0.1 η +
    0.9 η (1 − s / decay_steps), 0.1 η} at step s; null keeps it at η."""

    kl_weight: float = 1.0
    """β, the weight of the KL divergence, after its warm-up."""

    kl_warmup_steps: int = 0
    """Steps over which β rises linearly from zero."""

    geco_target: float | None = None
    """log p(x | z) in nats per pixel and channel, for which GECO lowers β as far as it must (`pyro_compvae.geco`). β is
    kl_weight / λ then, and has no warm-up; null trains without GECO."""

    geco_rate: float = 0.001
    """How much log λ rises in a step for every nat per pixel and channel below the target."""

    geco_start: float = 1.0
    """λ in the first step, at least 1."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """The precision of the convolutions."""

    log_every: int = 50
    """Number of steps from one row of the log to the next."""

    evaluate_every: int = 5_000
    """Number of steps from one evaluation on validation scenes to the next."""

    checkpoint_every: int = 1_000
    """Number of steps from one checkpoint to the next."""

    def __post_init__(self) -> None:
        positive(self, "steps", "batch_size", "learning_rate", "clip_norm", "kl_weight")
        if self.decay_steps is not None:
            positive(self, "decay_steps")
        positive(self, "log_every", "evaluate_every", "checkpoint_every")
        not_negative(self, "warmup_steps", "kl_warmup_steps")
        positive(self, "geco_rate", "geco_start")
        require(self.geco_start >= 1, f"TrainingConfig.geco_start: expected at least 1, got {self.geco_start}")
        require(
            self.geco_target is None or (math.isfinite(self.geco_target) and self.kl_warmup_steps == 0),
            f"TrainingConfig.geco_target: expected a finite target and no warm-up of β, which GECO sets, got "
            f"{self.geco_target} and kl_warmup_steps {self.kl_warmup_steps}. Set training.kl_warmup_steps=0.",
        )
        require(0 <= self.beta1 < 1, f"TrainingConfig.beta1: expected a number in [0, 1), got {self.beta1}")

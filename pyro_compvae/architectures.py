"""The sizes and forms of the networks, as frozen dataclasses that validate themselves.

Each describes one network, which takes it whole. Sections of a configuration are these, or extend them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyro_compvae.checks import not_negative, one_of, positive, require, widths

Activation = Literal["elu", "relu"]
"""IODINE has the first, MONet and MulMON the second."""

Pooling = Literal["average", "flatten"]
"""What is left of the last feature maps: their means over the image, or all of them, positions kept."""

LayerNorm = Literal["joint", "mulmon", "split"]
"""How inputs are brought to zero mean and unit variance; none of them has a learned scale and shift.

"joint": (v − mean) / √(variance + 1e-5), the gradient with respect to λ as one vector of 2 D, as in DeepMind's IODINE
    (Sonnet's layer normalisation).
"mulmon": (v − mean) / (standard deviation + 1e-5), λ's gradient likewise as one vector, by Bessel's formula for the
    standard deviation, as in MulMON's code. Gradients of slots that hold little of the image, whose variance is no
    larger than 1e-5, keep their size; under "joint" they shrink.
"split": as "joint", but the gradients of mean and raw scale each on their own. The presets sized for two CPU cores have
    it, so that λ's two halves are seen alike, whichever is the steeper.
"""


@dataclass(frozen=True)
class DecoderConfig:
    """Of a `SpatialBroadcastDecoder`; the defaults are IODINE's.

    Raises:
        ConfigError: for widths or numbers out of range, and unknown activations.
    """

    channels: tuple[int, ...] = (64, 64, 64, 64)
    """Widths of the hidden layers."""

    kernel_size: int = 3
    """Side of the kernels in pixels, odd."""

    num_frequencies: int = 0
    """Fourier features of the coordinates; 0 in the published models."""

    upsample: int = 1
    """The convolutions run on a grid this many times coarser than the image, and the last one gives every grid cell its
    upsample² pixels (sub-pixel convolution); 1 in the published models."""

    icnr: bool = False
    """Whether, with sub-pixel convolution, all pixels of a grid cell start alike (Aitken et al. 2017), so that slots do
    not share a cell by taking pixels of it each."""

    padded: bool = True
    """Whether convolutions are same-padded, as in IODINE; or, as in MONet and MulMON, unpadded ones on a canvas larger
    than the image by what they eat, and a last one of 1×1."""

    activation: Activation = "elu"
    """After every layer but the last."""

    def __post_init__(self) -> None:
        positive(self, "kernel_size", "upsample")
        not_negative(self, "num_frequencies")
        widths(self, "channels")
        one_of(self, "activation", Activation)


@dataclass(frozen=True)
class RefinementNetworkConfig:
    """Of a `RefinementNetwork`; the defaults are IODINE's.

    Raises:
        ConfigError: for widths or numbers out of range, and unknown names.
    """

    channels: tuple[int, ...] = (64, 64, 64, 64)
    """Width of each stride-2 convolution."""

    kernel_size: int = 3
    """Side of the kernels in pixels, odd."""

    mlp: tuple[int, ...] = (256, 256)
    """Widths of the layers between the convolutions and the hidden layer; there is no activation after the last."""

    hidden: int = 256
    """Width of the hidden layer, which also sees λ and its gradient."""

    recurrent: bool = True
    """Whether the hidden layer is an LSTM cell, as in the paper. Without one (DeepMind's configuration for Tetrominoes
    has none) the network learns several times as fast, and the iterations share λ only."""

    contraction: float = 0.0
    """How far each step lowers the raw scale at the start of training, so that posteriors start wide, where samples
    tell equal slots apart, and end narrow, where positions can be decoded; 0 in the paper."""

    pooling: Pooling = "average"
    """After the convolutions: "average" in IODINE, "flatten" in MulMON."""

    num_frequencies: int = 0
    """Fourier features of the coordinates; 0 in the papers."""

    padded: bool = True
    """Whether convolutions are same-padded, as in IODINE, or unpadded, as in MulMON."""

    activation: Activation = "elu"
    """After every layer but the last of the MLP, and the last of all, which updates λ."""

    layer_norm: LayerNorm = "joint"
    """Of the gradients, the log-likelihood and the counterfactual."""

    def __post_init__(self) -> None:
        positive(self, "kernel_size", "hidden")
        not_negative(self, "num_frequencies")
        require(
            self.kernel_size % 2 == 1,
            f"{type(self).__name__}.kernel_size: expected an odd number, got {self.kernel_size}",
        )
        widths(self, "channels")
        one_of(self, "pooling", Pooling)
        one_of(self, "activation", Activation)
        one_of(self, "layer_norm", LayerNorm)


@dataclass(frozen=True)
class AttentionNetworkConfig:
    """Of MONet's `AttentionNetwork`; the defaults are the published network's, but for the gain.

    Raises:
        ConfigError: for widths or numbers out of range.
    """

    channels: tuple[int, ...] = (32, 32, 64, 64, 64)
    """Width of each block on the way down; mirrored on the way up."""

    bottleneck: int = 128
    """Width of the dense layers."""

    downsample: int = 1
    """The network runs on a grid this many times coarser than the image, on averages of its pixels, and its logits are
    interpolated; 1 in the published model."""

    gain: float = 10.0
    """Factor on the weights of the last layer at the start, with which masks start decisive. With masks that start
    alike for all slots, all encoders see the same, every slot learns to paint the whole image, and attention has
    nothing left to choose between; decisive ones divide the image by colour from the first step."""

    def __post_init__(self) -> None:
        positive(self, "bottleneck", "downsample", "gain")
        widths(self, "channels")


@dataclass(frozen=True)
class ComponentEncoderConfig:
    """Of MONet's `ComponentEncoder`; the defaults are the published network's.

    The names tell its widths from those of the attention network, beside which they stand in `AttentionConfig`.

    Raises:
        ConfigError: for widths or numbers out of range.
    """

    encoder_channels: tuple[int, ...] = (32, 32, 64, 64)
    """Width of each 3×3 convolution."""

    encoder_hidden: int = 256
    """Width of the dense layer."""

    gated: bool = False
    """Whether it sees 4 (x - 1/2) a and 2 a instead of image x and log mask log a: nothing but the component. What
    belongs to the others hides it otherwise, and the posterior collapses even with the true masks."""

    initial_scale: float | None = None
    """Of the posterior at the start, about; null leaves torch's weights, as in the published model: 1/√2 or so."""

    def __post_init__(self) -> None:
        positive(self, "encoder_hidden")
        if self.initial_scale is not None:
            positive(self, "initial_scale")
        widths(self, "encoder_channels")

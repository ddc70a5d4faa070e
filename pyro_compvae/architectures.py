"""The sizes and forms of the networks, as frozen dataclasses that validate themselves.

Each class describes one network, whose constructor takes it as one argument. The sections of a run's configuration are
these classes, or extend them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyro_compvae.checks import LARGEST, MAX_WIDTH, at_most, not_negative, one_of, positive, require, widths

MAX_SIDE, MAX_KERNEL, MAX_FREQUENCIES = 1024, 31, 16
"""The largest side of an image, and of a kernel, in pixels; and the most Fourier features of the coordinates."""

Activation = Literal["elu", "relu"]
"""The activation after a layer: IODINE has "elu", MONet and MulMON have "relu"."""

Pooling = Literal["average", "flatten"]
"""What the next layer gets of the last feature maps: their means over the image, or every pixel at its position."""

LayerNorm = Literal["joint", "mulmon", "split"]
"""How inputs are brought to zero mean and unit variance; none of the forms has a learned scale and shift.

"joint": (v − mean) / √(variance + 1e-5), with λ's gradient taken as one vector of 2 D numbers, as in DeepMind's IODINE
    (Sonnet's layer normalisation).
"mulmon": (v − mean) / (standard deviation + 1e-5), with λ's gradient also one vector and Bessel's correction in its
    standard deviation, as in MulMON's code. The gradients of slots that hold little of the image have a variance no
    larger than 1e-5; they keep their size here, and shrink under "joint".
"split": as "joint", but the gradients of mean and raw scale are normalised one by one. The presets for two CPU cores
    use it, so that the network sees both halves of λ's gradient on the same scale, whichever is the steeper.
"""


@dataclass(frozen=True)
class DecoderConfig:
    """The architecture of a `SpatialBroadcastDecoder`; the defaults are IODINE's.

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
    """Whether, with sub-pixel convolution, all pixels of a grid cell start with the same weights (ICNR, Aitken et al.
    2017). Otherwise several slots may divide the pixels of one cell among them."""

    padded: bool = True
    """Whether convolutions are same-padded, as in IODINE. As in MONet and MulMON, they are unpadded otherwise: they run
    on a canvas that is larger than the image by the border that they remove, and the last one is 1×1."""

    activation: Activation = "elu"
    """The activation after every layer but the last."""

    def __post_init__(self) -> None:
        positive(self, "kernel_size", most=MAX_KERNEL)
        positive(self, "upsample", most=MAX_SIDE)
        not_negative(self, "num_frequencies", most=MAX_FREQUENCIES)
        widths(self, "channels")
        one_of(self, "activation", Activation)


@dataclass(frozen=True)
class RefinementNetworkConfig:
    """The architecture of a `RefinementNetwork`; the defaults are IODINE's.

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
    has none) the network learns several times as fast, and only λ is carried from one iteration to the next."""

    contraction: float = 0.0
    """How far each refinement step lowers the raw scale at the start of training; 0 in the paper. With it posteriors
    start wide, so that samples tell equal slots apart, and end narrow, so that positions can be decoded."""

    pooling: Pooling = "average"
    """What happens to the feature maps after the convolutions: "average" in IODINE, "flatten" in MulMON."""

    pooled_inputs: int = 1
    """Side of the squares of pixels over which all that the convolutions see is averaged first; 1 in the papers."""

    num_frequencies: int = 0
    """Fourier features of the coordinates; 0 in the papers."""

    padded: bool = True
    """Whether convolutions are same-padded, as in IODINE, or unpadded, as in MulMON."""

    activation: Activation = "elu"
    """The activation after every layer but two: the last one of the MLP, and the one that gives the update of λ."""

    layer_norm: LayerNorm = "joint"
    """How the gradients, the log-likelihood and the counterfactual are normalised."""

    def __post_init__(self) -> None:
        positive(self, "kernel_size", most=MAX_KERNEL)
        positive(self, "hidden", most=MAX_WIDTH)
        positive(self, "pooled_inputs", most=MAX_SIDE)
        not_negative(self, "num_frequencies", most=MAX_FREQUENCIES)
        at_most(self, LARGEST, "contraction")
        require(
            self.kernel_size % 2 == 1,
            f"{type(self).__name__}.kernel_size: expected an odd number, got {self.kernel_size}",
        )
        widths(self, "channels")
        widths(self, "mlp", least=0)
        one_of(self, "pooling", Pooling)
        one_of(self, "activation", Activation)
        one_of(self, "layer_norm", LayerNorm)


@dataclass(frozen=True)
class AttentionNetworkConfig:
    """The architecture of MONet's `AttentionNetwork`; the defaults are the published network's, except for the gain.

    Raises:
        ConfigError: for widths or numbers out of range.
    """

    channels: tuple[int, ...] = (32, 32, 64, 64, 64)
    """Width of each block on the way down; the way up has the same widths in reverse."""

    bottleneck: int = 128
    """Width of the dense layers."""

    downsample: int = 1
    """The network runs on a grid this many times coarser than the image, whose cells are averages of pixels, and its
    logits are interpolated; 1 in the published model."""

    gain: float = 10.0
    """Factor on the initial weights of the last layer, which makes the first masks decisive. If all slots start with
    the same mask, every slot sees the same and learns to paint the whole image, and attention has nothing left to
    choose between. Decisive masks divide the image by colour from the first step."""

    def __post_init__(self) -> None:
        positive(self, "bottleneck", most=MAX_WIDTH)
        positive(self, "downsample", most=MAX_SIDE)
        positive(self, "gain")
        widths(self, "channels")


@dataclass(frozen=True)
class ComponentEncoderConfig:
    """The architecture of MONet's `ComponentEncoder`; the defaults are the published network's.

    The prefix of the names tells its widths from those of the attention network: `AttentionConfig` has both.

    Raises:
        ConfigError: for widths or numbers out of range.
    """

    encoder_channels: tuple[int, ...] = (32, 32, 64, 64)
    """Width of each 3×3 convolution."""

    encoder_hidden: int = 256
    """Width of the dense layer."""

    gated: bool = False
    """Whether the encoder sees 4 (x - 1/2) a and 2 a, which show nothing but the component, instead of the image x and
    the log mask log a. The rest of the image hides the component otherwise, and the posterior collapses even with the
    true masks."""

    initial_scale: float | None = None
    """The approximate posterior scale at the start of training; null keeps torch's initial weights, as the published
    model does, which make it about 1/√2."""

    def __post_init__(self) -> None:
        positive(self, "encoder_hidden", most=MAX_WIDTH)
        if self.initial_scale is not None:
            positive(self, "initial_scale")
        widths(self, "encoder_channels")

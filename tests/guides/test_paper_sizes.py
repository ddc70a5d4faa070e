"""The networks of the `paper` presets have the published sizes, by counts of parameters layer by layer."""

from __future__ import annotations

import pytest
from torch import nn

from pyro_compvae.guides import IodineGuide, MonetGuide, MulmonGuide, build_guide
from pyro_compvae.runs.presets import preset

K, D, SIZE = 7, 16, 64


def conv(c_in: int, c_out: int, kernel_size: int = 3) -> int:
    """The number of weights and biases of a convolution."""
    return c_out * (c_in * kernel_size**2) + c_out


def linear(c_in: int, c_out: int) -> int:
    """The number of weights and biases of a dense layer."""
    return c_out * c_in + c_out


def lstm(c_in: int, hidden: int) -> int:
    """The parameters of four gates, with weights and biases for input and state (PyTorch has two vectors of biases)."""
    return 4 * (hidden * c_in + hidden + hidden * hidden + hidden)


def block(c_in: int, c_out: int) -> int:
    """A block of MONet's U-Net: a 3×3 convolution without bias, then instance normalisation with scale and shift."""
    return c_out * c_in * 9 + 2 * c_out


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def monet() -> MonetGuide:
    guide = build_guide(preset("paper", "monet"))
    assert isinstance(guide, MonetGuide)
    return guide


@pytest.fixture(scope="module")
def iodine() -> IodineGuide:
    guide = build_guide(preset("paper", "iodine"))
    assert isinstance(guide, IodineGuide)
    return guide


@pytest.fixture(scope="module")
def mulmon() -> MulmonGuide:
    guide = build_guide(preset("paper", "mulmon"))
    assert isinstance(guide, MulmonGuide)
    return guide


def test_monet_attention(monet: MonetGuide) -> None:
    """U-Net of five blocks from the image and the log scope; 64 pixels become 4 at the bottleneck."""
    down = block(3 + 1, 32) + block(32, 32) + block(32, 64) + block(64, 64) + block(64, 64)
    bottleneck = linear(4 * 4 * 64, 128) + linear(128, 128) + linear(128, 4 * 4 * 64)
    # The input is the output of the block below, and the skip of the opposite block.
    up = (
        block(64 + 64, 64)  # 4×4
        + block(64 + 64, 64)  # 8×8
        + block(64 + 64, 32)  # 16×16
        + block(32 + 32, 32)  # 32×32
        + block(32 + 32, 32)  # 64×64
    )
    logits = conv(32, 2, kernel_size=1)
    attention = monet.attention
    assert size(attention.down) == down
    assert size(attention.bottleneck) == bottleneck
    assert size(attention.up) == up
    assert size(attention.logits) == logits
    assert size(attention) == down + bottleneck + up + logits


def test_monet_encoder(monet: MonetGuide) -> None:
    """Unpadded stride-2 convolutions of the image and the log mask: 64, 31, 15, 7, 3 pixels."""
    convolutions = conv(3 + 1, 32) + conv(32, 32) + conv(32, 64) + conv(64, 64)
    dense = linear(3 * 3 * 64, 256) + linear(256, 2 * D)
    assert size(monet.encoder.convs) == convolutions
    assert size(monet.encoder.mlp) == dense
    assert size(monet.encoder) == convolutions + dense


def test_monet_decoder_and_whole(monet: MonetGuide) -> None:
    """z and two coordinates; three means and a mask logit by a 1×1 convolution."""
    decoder = conv(D + 2, 32) + conv(32, 32) + conv(32, 64) + conv(64, 64) + conv(64, 4, kernel_size=1)
    assert size(monet.model) == decoder
    assert size(monet) == size(monet.attention) + size(monet.encoder) + decoder


def test_iodine_decoder(iodine: IodineGuide) -> None:
    """All convolutions are 3×3, the last one too."""
    decoder = conv(D + 2, 64) + 3 * conv(64, 64) + conv(64, 4)
    assert size(iodine.model) == decoder


def test_iodine_refinement_and_whole(iodine: IodineGuide) -> None:
    """17 input channels, which are 3 of the image and 14 others; average pooling leaves 64 features.

    Image 3, means 3, mask logits, masks, mask posteriors, gradients of means 3 and of mask logits, pixel likelihood,
    counterfactual, coordinates 2.
    """
    channels = 3 + 3 + 1 + 1 + 1 + 3 + 1 + 1 + 1 + 2
    assert channels == 17
    convolutions = conv(channels, 64) + 3 * conv(64, 64)
    mlp = linear(64, 256) + linear(256, 256)
    recurrent = lstm(256 + 4 * D, 256)  # λ and its gradient, 2 D each, beside the features
    update = linear(256, 2 * D)
    network = iodine.network
    assert network.lstm is not None
    assert size(network.lstm) == recurrent
    assert size(network.mlp) == mlp
    assert size(network) == convolutions + mlp + recurrent + update
    assert size(iodine) == size(iodine.model) + size(network) + 2 * D  # λ_0, one for all slots


def test_mulmon_model(mulmon: MulmonGuide) -> None:
    view_encoder = linear(3, 128) + linear(128, 3)
    projector = linear(D + 3, 512) + linear(512, D)
    decoder = conv(D + 2, 32) + 3 * conv(32, 32) + conv(32, 4, kernel_size=1)
    model = mulmon.model
    assert size(model.view_encoder) == view_encoder
    assert size(model.projector) == projector
    assert size(model.decoder) == decoder
    assert size(model) == view_encoder + projector + decoder


def test_mulmon_refinement_and_whole(mulmon: MulmonGuide) -> None:
    """IODINE's 17 channels; 64, 31, 15, 7, 3 pixels, and no pooling."""
    convolutions = conv(17, 32) + conv(32, 32) + conv(32, 64) + conv(64, 64)
    mlp = linear(3 * 3 * 64, 256) + linear(256, 128)
    recurrent = lstm(128 + 4 * D, 128)
    update = linear(128, 2 * D)
    network = mulmon.network
    assert network.lstm is not None
    assert size(network.lstm) == recurrent
    assert size(network.mlp) == mlp
    assert size(network) == convolutions + mlp + recurrent + update
    assert size(mulmon) == size(mulmon.model) + size(network)  # q_0 is the prior, with nothing to learn


def test_iterations_slots_and_strengths_reach_the_guides(
    monet: MonetGuide, iodine: IodineGuide, mulmon: MulmonGuide
) -> None:
    for guide in (monet, iodine, mulmon):
        assert (guide.model.num_slots, guide.model.latent_dim, guide.model.image_size) == (K, D, (SIZE, SIZE))
        assert guide.model.scale == 0.1
    assert (iodine.num_iterations, mulmon.num_iterations, mulmon.max_observed) == (5, 5, 6)
    assert [guide.lnms_strength for guide in (monet, iodine, mulmon)] == [0.5, 1.0, 1.0]
    plain = preset("paper", "monet").replace({"lnms": False})
    assert build_guide(plain).lnms_strength == 0

"""The spatial-broadcast decoder: its cheap first layer is exact."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_compvae import decoder as networks
from pyro_compvae.architectures import DecoderConfig
from pyro_compvae.decoder import BroadcastConv, SpatialBroadcastDecoder, coordinate_grid


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("size", [(5, 9), (16, 12)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_first_layer_equals_the_full_convolution(
    kernel_size: int, size: tuple[int, int], channels_last: bool, padded: bool
) -> None:
    """Value and gradient agree; a 5×5 kernel without padding leaves 1×5 pixels of a 5×9 image."""
    layer = BroadcastConv(6, 7, kernel_size, size, num_frequencies=2, padded=padded).double()
    if channels_last:
        layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    z = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    full_input = torch.cat((z[..., None, None].expand(4, 6, *size), layer.coordinates.expand(4, -1, *size)), dim=1)
    expected, result = layer.conv(full_input), layer(z)
    eaten = 0 if padded else kernel_size - 1
    assert result.shape == (4, 7, size[0] - eaten, size[1] - eaten)
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous(memory_format=torch.channels_last) or not channels_last
    weight = torch.randn_like(result)
    inputs = (z, layer.conv.weight, layer.conv.bias)
    for got, want in zip(
        torch.autograd.grad((result * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_coordinates() -> None:
    grid = coordinate_grid((3, 5), num_frequencies=2)
    assert grid.shape == (2 + 8, 3, 5)
    torch.testing.assert_close(grid[0, :, 0], torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(grid[1, 0], torch.linspace(-1, 1, 5))
    torch.testing.assert_close(grid[2:4, 2, 1], torch.tensor([0.0, -1.0]), atol=1e-6, rtol=0)  # sin π, cos π of y


@pytest.mark.parametrize("upsample", [1, 2])
def test_decoder_shapes_range_and_independence_of_slots(upsample: int) -> None:
    config = DecoderConfig(channels=(6, 6), num_frequencies=1, upsample=upsample)
    decoder = SpatialBroadcastDecoder(4, (8, 12), config)
    z = torch.randn(5, 2, 3, 4)
    means, logits = decoder(z)
    assert means.shape == (5, 2, 3, 3, 8, 12)
    assert logits.shape == (5, 2, 3, 1, 8, 12)
    assert means.min() >= 0
    assert means.max() <= 1
    alone, _ = decoder(z[1, 0, 2:3])
    torch.testing.assert_close(alone[0], means[1, 0, 2])


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("upsample", [1, 2])
def test_unpadded_decoder_equals_a_plain_broadcast_on_a_larger_canvas(kernel_size: int, upsample: int) -> None:
    """z is broadcast over a canvas larger by the layers' borders, then convolved without padding, at last by 1×1."""
    size, latent_dim, channels = (8, 12), 4, (6, 5, 7)
    config = DecoderConfig(channels, kernel_size, upsample=upsample, padded=False, activation="relu")
    decoder = SpatialBroadcastDecoder(latent_dim, size, config).double()
    z = torch.randn(5, 2, 3, latent_dim, dtype=torch.float64)
    means, logits = decoder(z)
    assert means.shape == (5, 2, 3, 3, *size)
    assert logits.shape == (5, 2, 3, 1, *size)

    canvas = tuple(side // upsample + len(channels) * (kernel_size - 1) for side in size)
    flat = z.flatten(0, 2)
    features = torch.cat(
        (flat[..., None, None].expand(-1, -1, *canvas), coordinate_grid(canvas).double().expand(len(flat), -1, -1, -1)),
        dim=1,
    )
    for conv in (decoder.first.conv, *(layer for layer in decoder.hidden if isinstance(layer, nn.Conv2d))):
        features = F.relu(F.conv2d(features, conv.weight, conv.bias))
    assert decoder.last.kernel_size == (1, 1)
    out = F.pixel_shuffle(F.conv2d(features, decoder.last.weight, decoder.last.bias), upsample)
    torch.testing.assert_close(means, torch.sigmoid(out[:, :3]).unflatten(0, (5, 2, 3)))
    torch.testing.assert_close(logits, out[:, 3:].unflatten(0, (5, 2, 3)))


def test_slots_decoded_a_few_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = SpatialBroadcastDecoder(4, (8, 8), DecoderConfig(channels=(5, 6), upsample=2)).double()
    z = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 5, 4, 8, 8, dtype=torch.float64)

    def outcome() -> tuple[int, list[Tensor]]:
        with patch.object(decoder.first, "forward", wraps=decoder.first.forward) as first:
            out = torch.cat(decoder(z), dim=-3)
        return first.call_count, [out, *torch.autograd.grad((weight * out).sum(), [z, *decoder.parameters()])]

    calls, whole = outcome()
    assert calls == 1
    monkeypatch.setattr(networks, "LAYER_BYTES", 4 * 6 * 4 * 4 * 8)  # four slots, 6 channels of 4×4 numbers of 8 bytes
    calls, parts = outcome()
    assert calls == 4
    for part, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, other)


def test_bfloat16_stays_close_and_returns_float32() -> None:
    decoder = SpatialBroadcastDecoder(4, (8, 8), DecoderConfig(channels=(8, 8)))
    z = torch.randn(2, 3, 4)
    precise, _ = decoder(z)
    decoder.precision = "bfloat16"
    rough, _ = decoder(z)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, precise)
    torch.testing.assert_close(rough, precise, rtol=0, atol=0.03)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="kernel_size: expected an odd number of at most 8 pixels, got 4"):
        SpatialBroadcastDecoder(4, (8, 8), DecoderConfig(kernel_size=4))
    with pytest.raises(ValueError, match=r"image_size: expected multiples of upsample = 2, got \(9, 8\)"):
        SpatialBroadcastDecoder(4, (9, 8), DecoderConfig(upsample=2))
    decoder = SpatialBroadcastDecoder(4, (8, 8), precision="float16")
    with pytest.raises(ValueError, match="precision: expected float32 or bfloat16, got 'float16'"):
        decoder(torch.zeros(1, 1, 4))


def test_with_icnr_the_pixels_of_a_grid_cell_start_alike() -> None:
    z = torch.randn(2, 4)
    for icnr in (False, True):
        decoder = SpatialBroadcastDecoder(4, (9, 12), DecoderConfig(channels=(5, 5), upsample=3, icnr=icnr))
        for image in decoder(z):
            cells = image.unflatten(-1, (4, 3)).unflatten(-3, (3, 3))  # (..., row, y, column, x)
            alike = torch.allclose(cells, cells[..., :1, :, :1].expand_as(cells))
            assert alike == icnr
            assert image.std() > 0.01

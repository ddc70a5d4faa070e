"""The spatial-broadcast decoder: its cheap first layer is exact."""

from __future__ import annotations

import pytest
import torch

from pyro_compvae.networks import BroadcastConv, SpatialBroadcastDecoder, coordinate_grid


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("size", [(5, 9), (16, 12)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_first_layer_equals_the_full_convolution(kernel_size: int, size: tuple[int, int], channels_last: bool) -> None:
    layer = BroadcastConv(6, 7, kernel_size, size, num_frequencies=2).double()
    if channels_last:
        layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    z = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    full_input = torch.cat((z[..., None, None].expand(4, 6, *size), layer.coordinates.expand(4, -1, *size)), dim=1)
    expected, result = layer.conv(full_input), layer(z)
    torch.testing.assert_close(result, expected)
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
    decoder = SpatialBroadcastDecoder(4, (8, 12), channels=(6, 6), num_frequencies=1, upsample=upsample)
    z = torch.randn(5, 2, 3, 4)
    means, logits = decoder(z)
    assert means.shape == (5, 2, 3, 3, 8, 12)
    assert logits.shape == (5, 2, 3, 1, 8, 12)
    assert means.min() >= 0
    assert means.max() <= 1
    alone, _ = decoder(z[1, 0, 2:3])
    torch.testing.assert_close(alone[0], means[1, 0, 2])


def test_bfloat16_stays_close_and_returns_float32() -> None:
    decoder = SpatialBroadcastDecoder(4, (8, 8), channels=(8, 8))
    z = torch.randn(2, 3, 4)
    precise, _ = decoder(z)
    decoder.precision = "bfloat16"
    rough, _ = decoder(z)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, precise)
    torch.testing.assert_close(rough, precise, rtol=0, atol=0.03)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="kernel_size: expected an odd number of at most 8 pixels, got 4"):
        SpatialBroadcastDecoder(4, (8, 8), kernel_size=4)
    with pytest.raises(ValueError, match=r"image_size: expected multiples of upsample = 2, got \(9, 8\)"):
        SpatialBroadcastDecoder(4, (9, 8), upsample=2)
    decoder = SpatialBroadcastDecoder(4, (8, 8), precision="float16")
    with pytest.raises(ValueError, match="precision: expected float32 or bfloat16, got 'float16'"):
        decoder(torch.zeros(1, 1, 4))

"""The spatial-broadcast decoder and the coordinates it sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_compvae.architectures import Activation, DecoderConfig
from pyro_compvae.errors import ArgumentError
from pyro_compvae.precision import convolution_precision


def coordinate_grid(image_size: tuple[int, int], num_frequencies: int = 0) -> Tensor:
    """Coordinates of the pixels as image channels, (2 + 4 F, H, W), where F is the number of frequencies.

    The first two run linearly over [-1, 1] (y, then x), as in the published models. F > 0 adds sin(π w y), cos(π w y),
    sin(π w x), cos(π w x) for w = 1..F: low-frequency Fourier features, with which small networks localise much
    sooner (they are ours, not the papers').
    """
    height, width = image_size
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    channels = [y, x]
    for w in range(1, num_frequencies + 1):
        for u in (y, x):
            channels += [torch.sin(math.pi * w * u), torch.cos(math.pi * w * u)]
    return torch.stack(channels)


def channels_last(images: Tensor) -> Tensor:
    """The same images (N, C, H, W) in the memory layout in which convolutions are fastest, on CPUs and GPUs.

    The output of a convolution has the layout of its input, so networks convert the input of their first convolution.
    Weights stay contiguous: Pyro's parameter store makes a contiguous copy of weights that are not, and
    `pyro.infer.SVI` would train the copy.
    """
    return images.contiguous(memory_format=torch.channels_last)


ACTIVATIONS: dict[Activation, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU}

LAYER_BYTES = 2**23
"""How many bytes of a decoder layer's output a CPU computes at a time. This much nearly stays in the caches, and it is
far below 32 MiB, above which glibc asks the kernel for fresh pages every time. IODINE's training step at 64×64 pixels
(8 slots at a time instead of 56) takes 0.85 of the time, and MONet's default decoder evaluates 256 scenes in half."""


class BroadcastConv(nn.Module):
    """A convolution of [z broadcast over the image, coordinates], without the broadcast.

    z is constant over the image, so its share of the output is constant too, except, with same-padding, within p pixels
    of the border where the kernel reaches into the padding (p = kernel_size // 2). z's share is therefore computed once
    on a canvas of (2p+1)² pixels and stretched; the coordinates' share is the same for every slot and is computed once
    per call. The result is exact, borders included (Watters et al. 2019, arXiv 1901.07017, for the broadcast itself).

    It maps z (N, D) to (N, out_channels, H, W); without padding the output is 2p pixels smaller than the image.
    """

    coordinates: Tensor

    def __init__(
        self,
        latent_dim: int,
        out_channels: int,
        kernel_size: int,
        image_size: tuple[int, int],
        num_frequencies: int = 0,
        padded: bool = True,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0 or kernel_size > min(image_size):
            raise ArgumentError(
                f"kernel_size: expected an odd number of at most {min(image_size)} pixels, got {kernel_size}"
            )
        self.padding = kernel_size // 2 if padded else 0
        self.image_size = image_size
        coordinates = coordinate_grid(image_size, num_frequencies)
        self.register_buffer("coordinates", coordinates, persistent=False)
        in_channels = latent_dim + len(coordinates)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=self.padding)

    def forward(self, z: Tensor) -> Tensor:
        """Map z (N, D) to features (N, out_channels, H, W)."""
        latent_dim = z.shape[-1]
        weight_z, weight_coordinates = self.conv.weight.split((latent_dim, len(self.coordinates)), dim=1)
        coordinates = channels_last(self.coordinates[None])
        shared = F.conv2d(coordinates, weight_coordinates, self.conv.bias, padding=self.padding)
        side = 2 * self.padding + 1 if self.padding else self.conv.kernel_size[0]
        broadcast = channels_last(z[:, :, None, None].expand(-1, -1, side, side))
        canvas = F.conv2d(broadcast, weight_z, padding=self.padding)
        p, (height, width) = self.padding, self.image_size
        if not p:
            return shared + canvas
        left, middle, right = canvas.split((p, 1, p), dim=3)
        columns = torch.cat((left, middle.expand(-1, -1, -1, width - 2 * p), right), dim=3)  # (N, C, 2p+1, W)
        # The sums take the layout of `shared`, which is channels-last; a canvas stretched over all rows would be
        # contiguous.
        bands = zip(shared.split((p, height - 2 * p, p), dim=2), columns.split((p, 1, p), dim=2), strict=True)
        return torch.cat([ours + theirs for ours, theirs in bands], dim=2)


class SpatialBroadcastDecoder(nn.Module):
    """Decode every slot on its own: z (..., K, D) → means (..., K, 3, H, W) and mask logits (..., K, 1, H, W).

    z is broadcast over the image beside the coordinates, and convolutions follow. The last one is linear, with three
    channels for the mean, through a sigmoid so that colours lie in [0, 1], and one for the mask logit. IODINE (Greff et
    al. 2019, arXiv 1903.00450) and MulMON leave the means linear; design section 2 asks for [0, 1].

    Args:
        latent_dim: D.
        image_size: (H, W) in pixels.
        config: sizes and forms of the layers.
        precision: the convolutions' precision, "float32" or "bfloat16"; the result has the type of z.

    Weights are initialised so that z of unit scale and the coordinates move the hidden units equally, and so that
    variance stays the same from layer to layer. With torch's default a mask hardly depends on z and position together,
    and training takes longer to find objects.
    """

    def __init__(
        self,
        latent_dim: int,
        image_size: tuple[int, int],
        config: DecoderConfig = DecoderConfig(),
        precision: str = "float32",
    ) -> None:
        super().__init__()
        channels, kernel_size, upsample = config.channels, config.kernel_size, config.upsample
        if any(size % upsample for size in image_size):
            raise ArgumentError(f"image_size: expected multiples of upsample = {upsample}, got {image_size}")
        self.latent_dim = latent_dim
        self.image_size = image_size
        self.upsample = upsample
        margin = 0 if config.padded else len(channels) * (kernel_size - 1)
        grid_size = (image_size[0] // upsample + margin, image_size[1] // upsample + margin)
        padding = kernel_size // 2 if config.padded else 0
        self._numbers_per_slot = max(channels) * math.prod(grid_size)  # in a hidden layer
        self.first = BroadcastConv(
            latent_dim, channels[0], kernel_size, grid_size, config.num_frequencies, config.padded
        )
        act = ACTIVATIONS[config.activation]
        hidden: list[nn.Module] = [act(inplace=True)]
        for c_in, c_out in pairwise(channels):
            hidden += [nn.Conv2d(c_in, c_out, kernel_size, padding=padding), act(inplace=True)]
        self.hidden = nn.Sequential(*hidden)
        self.last = nn.Conv2d(channels[-1], 4 * upsample**2, kernel_size if config.padded else 1, padding=padding)
        self.precision = precision
        self._initialise(config.icnr)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Decode z (..., K, D) to means (..., K, 3, H, W) and mask logits (..., K, 1, H, W)."""
        batch_shape = z.shape[:-1]
        with convolution_precision(z.device, self.precision):
            parts = self._parts(z.reshape(-1, self.latent_dim))
            out = torch.cat([self.last(self.hidden(self.first(part))) for part in parts])
        out = F.pixel_shuffle(out.to(z.dtype), self.upsample)
        out = out.reshape(*batch_shape, 4, *self.image_size)
        means, mask_logits = out.split((3, 1), dim=-3)
        return torch.sigmoid(means), mask_logits

    def _parts(self, slots: Tensor) -> Sequence[Tensor]:
        """Split slots (N, D) into parts to decode at a time: on a CPU of LAYER_BYTES, or half as much in bfloat16."""
        if slots.device.type != "cpu":
            return (slots,)
        return slots.split(max(1, LAYER_BYTES // (self._numbers_per_slot * slots.element_size())))

    @torch.no_grad()
    def _initialise(self, icnr: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                module.bias.zero_()
        weight_z, weight_coordinates = self.first.conv.weight.tensor_split((self.latent_dim,), dim=1)
        nn.init.normal_(weight_z, std=weight_z[0].numel() ** -0.5)
        # Sines, cosines and linear coordinates have mean squares of about one half.
        nn.init.normal_(weight_coordinates, std=(2 / weight_coordinates[0].numel()) ** 0.5)
        self.last.weight *= 0.5
        if icnr:
            pixels = self.last.weight.unflatten(0, (4, self.upsample**2))
            pixels.copy_(pixels[:, :1].clone())

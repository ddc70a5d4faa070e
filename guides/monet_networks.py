"""The networks of MONet's inference: one finds where a component is, the other encodes what it is."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_compvae.architectures import AttentionNetworkConfig, ComponentEncoderConfig
from pyro_compvae.errors import ArgumentError
from pyro_compvae.guides.gaussian import inverse_softplus
from pyro_compvae.precision import convolution_precision


class AttentionNetwork(nn.Module):
    """A U-Net that decides which part of the remaining scope the next component takes.

    It has blocks of a bias-free 3×3 convolution, instance normalisation and ReLU, with nearest-neighbour resampling by
    2 between them, a bottleneck of three dense layers, skip connections, and a 1×1 convolution to two logits (Burgess
    et al. 2019, Appendix B; widths as in the re-implementation of object-centric-library).

    Args:
        image_size: (H, W), multiples of the configuration's ``downsample``. From block to block sides are halved, and
            rounded down.
        config: sizes of the layers.
        precision: the precision of convolutions and bottleneck, "float32" or "bfloat16".

    Attributes:
        layout: the memory layout in which it computes; see `pyro_compvae.decoder.channels_last`.
    """

    layout: torch.memory_format = torch.channels_last

    def __init__(
        self,
        image_size: tuple[int, int],
        config: AttentionNetworkConfig = AttentionNetworkConfig(),
        precision: str = "float32",
    ) -> None:
        super().__init__()
        channels, bottleneck, downsample = config.channels, config.bottleneck, config.downsample
        if any(size % downsample for size in image_size):
            raise ArgumentError(f"image_size: expected multiples of downsample = {downsample}, got {image_size}")
        image_size = (image_size[0] // downsample, image_size[1] // downsample)
        halvings = len(channels) - 1
        # Instance normalisation of a single pixel would leave nothing.
        if any(size >> halvings < 2 for size in image_size):
            raise ArgumentError(
                f"image_size: expected at least {2 << halvings} pixels in height and width for {len(channels)} "
                f"attention blocks, got {image_size}"
            )
        self.down = nn.ModuleList(_block(c_in, c_out) for c_in, c_out in pairwise((4, *channels)))
        self.coarse = (channels[-1], image_size[0] >> halvings, image_size[1] >> halvings)
        features = self.coarse[0] * self.coarse[1] * self.coarse[2]
        self.bottleneck = nn.Sequential(
            nn.Flatten(),
            nn.Linear(features, bottleneck),
            nn.ReLU(),
            nn.Linear(bottleneck, bottleneck),
            nn.ReLU(),
            nn.Linear(bottleneck, features),
            nn.ReLU(),
        )
        upwards = (*reversed(channels), channels[0])
        # The input of a block is the output of the block below and a skip; its output is as wide as the next skip.
        below = (channels[-1], *upwards[1:])
        self.up = nn.ModuleList(
            _block(from_below + skip, out)
            for from_below, skip, out in zip(below, upwards[:-1], upwards[1:], strict=False)
        )
        self.logits = nn.Conv2d(channels[0], 2, 1)
        with torch.no_grad():
            self.logits.weight *= config.gain
        self.downsample = downsample
        self.precision = precision

    def forward(self, x: Tensor, log_scope: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, 3, H, W) and the log scope (B, 1, H, W) to log α and log(1 − α), (B, 1, H, W) each."""
        with convolution_precision(x.device, self.precision):
            seen = torch.cat((x, log_scope), dim=1)
            if self.downsample > 1:
                seen = F.avg_pool2d(seen, self.downsample)
            features = seen.contiguous(memory_format=self.layout)
            skips: list[Tensor] = []
            for block in self.down:
                if skips:
                    features = F.interpolate(features, scale_factor=0.5, mode="nearest", recompute_scale_factor=True)
                features = block(features)
                skips.append(features)
            features = self.bottleneck(features).unflatten(1, self.coarse)
            for i, (block, skip) in enumerate(zip(self.up, reversed(skips), strict=True)):
                if i > 0:
                    features = F.interpolate(features, size=skip.shape[-2:], mode="nearest")
                features = block(torch.cat((features, skip), dim=1))
            logits = self.logits(features).to(x.dtype)
        if self.downsample > 1:
            logits = F.interpolate(logits, scale_factor=float(self.downsample), mode="bilinear")
        log_alpha, log_rest = F.log_softmax(logits, dim=1).chunk(2, dim=1)
        return log_alpha, log_rest


def _block(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.GroupNorm(out_channels, out_channels),  # instance normalisation, whose own class changes the layout on CPUs
        nn.ReLU(inplace=True),
    )


class ComponentEncoder(nn.Module):
    """Unpadded stride-2 convolutions and an MLP, from images and log masks (N, 4, H, W) to posterior parameters (N, 2
    D).

    Args:
        latent_dim: D.
        image_size: (H, W).
        config: sizes of the layers, the form of their inputs, and the posterior scale at the start.
        precision: the precision of the convolutions, "float32" or "bfloat16".

    Attributes:
        layout: the memory layout in which it computes; see `pyro_compvae.decoder.channels_last`.
    """

    layout: torch.memory_format = torch.channels_last

    def __init__(
        self,
        latent_dim: int,
        image_size: tuple[int, int],
        config: ComponentEncoderConfig = ComponentEncoderConfig(),
        precision: str = "float32",
    ) -> None:
        super().__init__()
        channels, hidden = config.encoder_channels, config.encoder_hidden
        layers: list[nn.Module] = []
        height, width = image_size
        for c_in, c_out in pairwise((4, *channels)):
            layers += [nn.Conv2d(c_in, c_out, 3, stride=2), nn.ReLU()]
            height, width = (height - 1) // 2, (width - 1) // 2
        if min(height, width) < 1:
            raise ArgumentError(
                f"image_size: expected images large enough for {len(channels)} encoder layers, got {image_size}"
            )
        self.convs = nn.Sequential(*layers, nn.Flatten())
        first, last = nn.Linear(channels[-1] * height * width, hidden), nn.Linear(hidden, 2 * latent_dim)
        self.mlp = nn.Sequential(first, nn.ReLU(), last)
        if config.initial_scale is not None:
            with torch.no_grad():
                last.bias[latent_dim:] = inverse_softplus(torch.tensor(config.initial_scale, dtype=torch.float64))
        self.gated = config.gated
        self.precision = precision

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images and log masks (N, 4, H, W) to posterior parameters (N, 2 D)."""
        if self.gated:
            image, log_mask = inputs.split((3, 1), dim=1)
            mask = log_mask.exp()
            inputs = torch.cat((4 * (image - 0.5) * mask, 2 * mask), dim=1)
        with convolution_precision(inputs.device, self.precision):
            features = self.convs(inputs.contiguous(memory_format=self.layout))
        return self.mlp(features.to(inputs.dtype))

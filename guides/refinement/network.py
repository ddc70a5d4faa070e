"""The network that updates posterior parameters in iterative refinement."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pyro_compvae.architectures import RefinementNetworkConfig
from pyro_compvae.decoder import ACTIVATIONS, channels_last, coordinate_grid
from pyro_compvae.errors import ArgumentError
from pyro_compvae.guides.gaussian import Gaussian
from pyro_compvae.guides.refinement.evaluation import SLOT_CHANNELS, RefinementInputs
from pyro_compvae.guides.refinement.normalisation import normalise_gradient
from pyro_compvae.precision import convolution_precision


class RefinementNetwork(nn.Module):
    """λ ← λ + f(inputs, state): strided convolutions, an MLP and a hidden layer, the same for every slot.

    Greff et al. 2019 (arXiv 1903.00450, Appendix B). The first convolution of the inputs that all slots share is
    computed once per scene.

    Args:
        latent_dim: D.
        image_size: (H, W).
        config: sizes and forms of the layers.
        context_dim: width of a further input of the hidden layer for each scene; 0 in the papers.
        precision: the precision of the convolutions, "float32" or "bfloat16".
    """

    coordinates: Tensor

    def __init__(
        self,
        latent_dim: int,
        image_size: tuple[int, int],
        config: RefinementNetworkConfig = RefinementNetworkConfig(),
        context_dim: int = 0,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        grid = _pooled_size(image_size, config.pooled_inputs)
        coordinates = coordinate_grid(grid, config.num_frequencies)
        self.register_buffer("coordinates", coordinates, persistent=False)

        act, hidden = ACTIVATIONS[config.activation], config.hidden
        padding = config.kernel_size // 2 if config.padded else 0
        conv = partial(nn.Conv2d, kernel_size=config.kernel_size, stride=2, padding=padding)
        self.image_conv = conv(4 + len(coordinates), config.channels[0])
        self.slot_conv = conv(SLOT_CHANNELS, config.channels[0], bias=False)
        layers: list[nn.Module] = [act()]  # not in place, which would copy the gradient of a view
        for c_in, c_out in pairwise(config.channels):
            layers += [conv(c_in, c_out), act(inplace=True)]
        pixels = _pixels_left(grid, config, padding)
        if config.pooling == "average":
            layers += [nn.AdaptiveAvgPool2d(1)]
            pixels = 1
        self.convs = nn.Sequential(*layers, nn.Flatten())
        widths = (config.channels[-1] * pixels, *config.mlp)
        dense: list[nn.Module] = []
        for f_in, f_out in pairwise(widths):
            dense += [nn.Linear(f_in, f_out), act()]
        self.mlp = nn.Sequential(*dense[:-1])  # the last layer is linear in DeepMind's code and in MulMON's

        seen = widths[-1] + 4 * latent_dim + context_dim
        layer = nn.LSTMCell(seen, hidden) if config.recurrent else nn.Linear(seen, hidden)
        self.lstm = layer if isinstance(layer, nn.LSTMCell) else None
        self.dense = nn.Sequential(layer, act()) if isinstance(layer, nn.Linear) else None
        self.update = nn.Linear(hidden, 2 * latent_dim)
        with torch.no_grad():
            self.update.bias[latent_dim:] -= config.contraction
            if context_dim:
                # With torch's default the context would hardly have an effect among a thousand features.
                weight = layer.weight_ih if isinstance(layer, nn.LSTMCell) else layer.weight
                nn.init.normal_(weight[:, -context_dim:], std=context_dim**-0.5)
        self.layer_norm, self.pooled_inputs = config.layer_norm, config.pooled_inputs
        self.context_dim = context_dim
        self.precision = precision

    def forward(
        self,
        inputs: RefinementInputs,
        parameters: Gaussian,
        gradient: Gaussian,
        state: tuple[Tensor, Tensor] | None,
        context: Tensor | None = None,
    ) -> tuple[Gaussian, tuple[Tensor, Tensor] | None]:
        """Refine λ once; returns the new λ and LSTM state.

        Args:
            inputs: what the network sees in image space.
            parameters: λ, (B, K, D).
            gradient: d ELBO/dλ, detached.
            state: the LSTM state, if there is any.
            context: (B, context_dim), if the network was built for one.
        """
        B, K, _ = parameters.mean.shape
        if self.pooled_inputs > 1:
            inputs = _pooled(inputs, self.pooled_inputs)
        image = torch.cat((inputs.image, self.coordinates.expand(B, -1, -1, -1)), dim=1)
        # The layout is changed once here; otherwise forward, recomputation and backward would each change it again.
        shared, slots = channels_last(image), channels_last(inputs.slots.flatten(0, 1))
        # The activations of all iterations would stay in memory until the end; computing them again costs little.
        features = checkpoint(self._features, shared, slots, use_reentrant=False, preserve_rng_state=False)
        flat = torch.cat((*parameters, normalise_gradient(*gradient, self.layer_norm)), dim=-1)
        if context is not None:
            flat = torch.cat((flat, context.unsqueeze(1).expand(-1, K, -1)), dim=-1)
        hidden, state = self.hidden(torch.cat((features, flat.flatten(0, 1)), dim=-1), state)
        mean_step, scale_step = self.update(hidden).unflatten(0, (B, K)).chunk(2, dim=-1)
        return Gaussian(parameters.mean + mean_step, parameters.raw_scale + scale_step), state

    def _features(self, image: Tensor, slots: Tensor) -> Tensor:
        """Convolve shared images (B, C, H, W) and slots (B K, SLOT_CHANNELS, H, W); returns (B K, features)."""
        with convolution_precision(image.device, self.precision):
            first = self.slot_conv(slots).unflatten(0, (len(image), -1)) + self.image_conv(image).unsqueeze(1)
            convolved = self.convs(first.flatten(0, 1))
        return self.mlp(convolved.to(slots.dtype))

    def hidden(
        self, inputs: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Apply the hidden layer; returns its output and new state, which stays None without an LSTM."""
        if self.dense is not None:
            return self.dense(inputs), None
        assert self.lstm is not None
        state = self.lstm(inputs, state)
        return state[0], state


def _pixels_left(image_size: tuple[int, int], config: RefinementNetworkConfig, padding: int) -> int:
    """The number of pixels of the last feature map.

    Raises:
        ArgumentError: if there are none.
    """
    height, width = image_size
    for _ in config.channels:
        height, width = ((size + 2 * padding - config.kernel_size) // 2 + 1 for size in (height, width))
    if min(height, width) < 1:
        raise ArgumentError(
            f"image_size: expected images large enough for {len(config.channels)} refinement layers, got {image_size}"
        )
    return height * width


def _pooled_size(image_size: tuple[int, int], side: int) -> tuple[int, int]:
    height, width = image_size
    if height % side or width % side:
        raise ArgumentError(f"image_size: expected multiples of pooled_inputs = {side}, got {image_size}")
    return height // side, width // side


def _pooled(inputs: RefinementInputs, side: int) -> RefinementInputs:
    """Means over squares of pixels."""
    slots = F.avg_pool2d(inputs.slots.flatten(0, 1), side)
    return RefinementInputs(F.avg_pool2d(inputs.image, side), slots.unflatten(0, inputs.slots.shape[:2]))

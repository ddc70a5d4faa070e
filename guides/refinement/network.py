"""The network that updates posterior parameters in iterative refinement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pyro_compvae.decoder import ACTIVATIONS, channels_last, convolution_precision, coordinate_grid
from pyro_compvae.errors import ArgumentError
from pyro_compvae.guides.gaussian import Gaussian
from pyro_compvae.guides.refinement.evaluation import SLOT_CHANNELS, RefinementInputs
from pyro_compvae.guides.refinement.normalisation import LayerNorm, normalise_gradient


class RefinementNetwork(nn.Module):
    """λ ← λ + f(inputs, state): strided convolutions, an MLP and a hidden layer, the same for every slot.

    Greff et al. 2019 (arXiv 1903.00450, Appendix B). The first convolution of inputs that all slots share is computed
    once per scene. Pooling is "average" in the paper; "flatten" keeps the positions of the features.

    Args:
        latent_dim: D.
        image_size: (H, W).
        channels: width of each stride-2 convolution.
        kernel_size: of the convolutions, odd.
        mlp: widths of the layers between the convolutions and the hidden layer; there is no activation after the last.
        hidden: width of the hidden layer, which also sees λ and its gradient.
        recurrent: whether the hidden layer is an LSTM cell, as in the paper. Without one (DeepMind's configuration for
            Tetrominoes has none) the network learns several times as fast, and the iterations share λ only.
        contraction: how far each step lowers the raw scale at the start of training, so that posteriors start wide,
            where samples tell equal slots apart, and end narrow, where positions can be decoded; 0 in the paper.
        pooling: "average" or "flatten".
        num_frequencies: Fourier features of the coordinates; 0 in the paper.
        padded: same-padded convolutions, as in IODINE, or unpadded ones, as in MulMON.
        activation: "elu" (IODINE) or "relu" (MulMON).
        layer_norm: of the gradients, the log-likelihood and the counterfactual; see `LayerNorm`.
        context_dim: width of what else the hidden layer sees of a scene; 0 in the papers.
        precision: of the convolutions, "float32" or "bfloat16".
    """

    coordinates: Tensor

    def __init__(
        self,
        latent_dim: int,
        image_size: tuple[int, int],
        channels: Sequence[int] = (64, 64, 64, 64),
        kernel_size: int = 3,
        mlp: Sequence[int] = (256, 256),
        hidden: int = 256,
        recurrent: bool = True,
        contraction: float = 0.0,
        pooling: str = "average",
        num_frequencies: int = 0,
        padded: bool = True,
        activation: str = "elu",
        layer_norm: LayerNorm = "joint",
        context_dim: int = 0,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        coordinates = coordinate_grid(image_size, num_frequencies)
        self.register_buffer("coordinates", coordinates, persistent=False)

        padding = kernel_size // 2 if padded else 0
        act = ACTIVATIONS[activation]

        def conv(c_in: int, c_out: int, bias: bool = True) -> nn.Conv2d:
            return nn.Conv2d(c_in, c_out, kernel_size, stride=2, padding=padding, bias=bias)

        self.image_conv = conv(4 + len(coordinates), channels[0])
        self.slot_conv = conv(SLOT_CHANNELS, channels[0], bias=False)
        layers: list[nn.Module] = [act()]  # not in place: of a view, that would copy the gradient
        for c_in, c_out in pairwise(channels):
            layers += [conv(c_in, c_out), act(inplace=True)]
        features = channels[-1]
        height, width = image_size
        for _ in channels:
            height, width = ((size + 2 * padding - kernel_size) // 2 + 1 for size in (height, width))
        if min(height, width) < 1:
            raise ArgumentError(
                f"image_size: expected images large enough for {len(channels)} refinement layers, got {image_size}"
            )
        if pooling == "average":
            layers += [nn.AdaptiveAvgPool2d(1)]
        else:
            features *= height * width
        self.convs = nn.Sequential(*layers, nn.Flatten())
        dense: list[nn.Module] = []
        for width in mlp:
            dense += [nn.Linear(features, width), act()]
            features = width
        self.mlp = nn.Sequential(*dense[:-1])  # the last one is linear, in DeepMind's code and in MulMON's
        features += 4 * latent_dim + context_dim
        layer = nn.LSTMCell(features, hidden) if recurrent else nn.Linear(features, hidden)
        self.lstm = layer if isinstance(layer, nn.LSTMCell) else None
        self.dense = nn.Sequential(layer, act()) if isinstance(layer, nn.Linear) else None
        self.update = nn.Linear(hidden, 2 * latent_dim)
        with torch.no_grad():
            self.update.bias[latent_dim:] -= contraction
            if context_dim:
                # Among a thousand features torch's default would hardly let it be seen.
                weight = layer.weight_ih if isinstance(layer, nn.LSTMCell) else layer.weight
                nn.init.normal_(weight[:, -context_dim:], std=context_dim**-0.5)
        self.layer_norm = layer_norm
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
        """One refinement: λ (B, K, D), d ELBO/dλ (detached), the LSTM state, if any, and context (B, context_dim),
        if any → the new λ and state."""
        B, K, _ = parameters.mean.shape
        image = torch.cat((inputs.image, self.coordinates.expand(B, -1, -1, -1)), dim=1)
        # Once here; otherwise forward, recomputation and backward would each change the layout again.
        shared, slots = channels_last(image), channels_last(inputs.slots.flatten(0, 1))
        # Activations of all iterations would wait for the end; computing them again costs little beside the decoder.
        features = checkpoint(self._features, shared, slots, use_reentrant=False, preserve_rng_state=False)
        flat = torch.cat((*parameters, normalise_gradient(*gradient, self.layer_norm)), dim=-1)
        if context is not None:
            flat = torch.cat((flat, context.unsqueeze(1).expand(-1, K, -1)), dim=-1)
        hidden, state = self.hidden(torch.cat((features, flat.flatten(0, 1)), dim=-1), state)
        mean_step, scale_step = self.update(hidden).unflatten(0, (B, K)).chunk(2, dim=-1)
        return Gaussian(parameters.mean + mean_step, parameters.raw_scale + scale_step), state

    def _features(self, image: Tensor, slots: Tensor) -> Tensor:
        """(B, C, H, W) and (B K, SLOT_CHANNELS, H, W) → (B K, features)."""
        with convolution_precision(image.device, self.precision):
            first = self.slot_conv(slots).unflatten(0, (len(image), -1)) + self.image_conv(image).unsqueeze(1)
            convolved = self.convs(first.flatten(0, 1))
        return self.mlp(convolved.to(slots.dtype))

    def hidden(
        self, inputs: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The hidden layer and its new state; the state stays None where there is no LSTM."""
        if self.dense is not None:
            return self.dense(inputs), None
        assert self.lstm is not None
        state = self.lstm(inputs, state)
        return state[0], state

"""Iterative refinement: what IODINE and MulMON share.

One step evaluates log p(x | z), shows the refinement network what went wrong where, and lets it update the
posterior parameters λ. Public codes run the decoder backwards twice per step, once for the inputs of the refinement
network and once for the weights, and keep all decoder graphs until the end. Since the inputs are detached,
the gradient of term t reaches the decoder's weights through term t alone, and the refinement network through
dL_t/dz_t alone. `evaluate` therefore takes all of them in one backward pass, frees the graph, and returns the term as a
value with its gradient already attached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Normal
from torch.utils.checkpoint import checkpoint

from pyro_compvae.mixture import SpatialGaussianMixture
from pyro_compvae.networks import convolution_precision, coordinate_grid

SLOT_CHANNELS = 11
"""Means 3, mask logits 1, masks 1, mask posterior 1, gradients of means 3 and of mask logits 1, counterfactual 1."""


class Evaluation(NamedTuple):
    """log p(x | z) at one point, and what the refinement network sees of it.

    log_likelihood: (B,) nats, differentiable with respect to z and the decoder's weights
    gradient: d log p(x | z) / dz, (B, K, D), detached
    image_inputs: the same for all slots, (B, 4, H, W), detached
    slot_inputs: (B, K, SLOT_CHANNELS, H, W), detached
    """

    log_likelihood: Tensor
    gradient: Tensor
    image_inputs: Tensor
    slot_inputs: Tensor


class _AttachGradient(torch.autograd.Function):
    """The identity on `value` (B,), with a gradient computed beforehand with respect to z (B, K, D) and the weights.

    The weights' gradient is known only as a sum over scenes, so the incoming gradient must be the same for all.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, value: Tensor, gradients: Sequence[Tensor], *inputs: Tensor
    ) -> Tensor:
        ctx.gradients = gradients  # type: ignore[attr-defined]
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        # Unlike an `if`, this does not make the host wait for a GPU.
        torch._assert_async(
            (grad_output == grad_output[0]).all(),
            "expected scenes of equal weight: the decoder's gradient was summed over the batch in one pass. "
            "Drop poutine.mask and per-scene scales in train mode.",
        )
        z_gradient, *weight_gradients = ctx.gradients  # type: ignore[attr-defined]
        weight = grad_output[0]
        return None, None, weight * z_gradient, *(weight * gradient for gradient in weight_gradients)


def evaluate(
    likelihood: Callable[[Tensor], SpatialGaussianMixture],
    x: Tensor,
    z: Tensor,
    weights: Sequence[nn.Parameter] = (),
) -> Evaluation:
    """Evaluate log p(x | z) and all its gradients with one forward and one backward pass.

    Args:
        likelihood: z (B, K, D) → p(x | z).
        x: images (B, 3, H, W).
        z: slots (B, K, D), sampled from the posterior with reparameterisation.
        weights: parameters of the likelihood that are to receive the gradient of the term; none in evaluation
            (and for terms of weight zero), which makes the pass cheaper. z receives its gradient in any case.

    Raises:
        RuntimeError: under ``torch.inference_mode``, which forbids gradients altogether.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("refinement needs gradients: expected torch.no_grad(), got torch.inference_mode()")
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        mixture = likelihood(leaf)
        component_log_prob = mixture.component_log_prob(x)
        joint = mixture.log_masks + component_log_prob  # (B, K, H, W)
        pixel_log_prob = torch.logsumexp(joint, dim=1)  # (B, H, W)
        log_likelihood = pixel_log_prob.sum((-2, -1))
        wanted = (mixture.means, mixture.mask_logits, leaf, *weights)
        means_gradient, logits_gradient, *gradients = torch.autograd.grad(log_likelihood.sum(), wanted)
    with torch.no_grad():
        log_masks = mixture.log_masks
        without_slot = leave_one_out_logsumexp(joint) - leave_one_out_logsumexp(log_masks)
        slot_inputs = torch.cat(
            (
                mixture.means,
                mixture.mask_logits,
                log_masks.exp().unsqueeze(2),
                torch.softmax(component_log_prob, dim=1).unsqueeze(2),
                _normalise(means_gradient),
                _normalise(logits_gradient),
                _normalise((pixel_log_prob.unsqueeze(1) - without_slot).unsqueeze(2)),
            ),
            dim=2,
        )
        image_inputs = torch.cat((x, _normalise(pixel_log_prob.unsqueeze(1))), dim=1)
    value = log_likelihood.detach()
    if z.requires_grad:
        value = _AttachGradient.apply(value, gradients, z, *weights)
    return Evaluation(value, gradients[0], image_inputs, slot_inputs)


def leave_one_out_logsumexp(values: Tensor) -> Tensor:
    """log Σ_{j≠k} exp(values_j) for every k along dimension 1: (B, K, H, W) → (B, K, H, W).

    Prefix and suffix sums, so nothing is subtracted and nothing cancels when one slot explains a pixel alone.
    """
    slots = values.unbind(1)
    nothing = torch.full_like(slots[0], -torch.inf)
    before, after = [nothing], [nothing]
    for k in range(len(slots) - 1):
        before.append(torch.logaddexp(before[-1], slots[k]))
        after.append(torch.logaddexp(after[-1], slots[-1 - k]))
    return torch.logaddexp(torch.stack(before, 1), torch.stack(after[::-1], 1))


def _normalise(inputs: Tensor) -> Tensor:
    """Layer normalisation over channels and pixels, without learned scale and shift."""
    return F.layer_norm(inputs, inputs.shape[-3:])


class Gaussian(NamedTuple):
    """Posterior parameters λ of a factorised Gaussian over slots, (B, K, D) each; the scale goes through softplus."""

    mean: Tensor
    raw_scale: Tensor

    def distribution(self) -> Normal:
        """q(z | λ), batch shape (B, K, D)."""
        return Normal(self.mean, F.softplus(self.raw_scale), validate_args=False)


class RefinementNetwork(nn.Module):
    """λ ← λ + f(inputs, state): strided convolutions, an MLP and a hidden layer, the same for every slot.

    Greff et al. 2019 (arXiv 1903.00450, Appendix B). The first convolution of inputs that all slots share is computed
    once per scene. Pooling is "average" in the paper; "flatten" keeps the positions of the features.

    Args:
        latent_dim: D.
        image_size: (H, W).
        channels: width of each stride-2 convolution.
        kernel_size: of the convolutions, odd.
        mlp: widths of the layers between the convolutions and the hidden layer.
        hidden: width of the hidden layer, which also sees λ and its gradient.
        recurrent: whether the hidden layer is an LSTM cell, as in the paper. Without one (DeepMind's configuration for
            Tetrominoes has none) the network learns several times as fast, and the iterations share λ only.
        contraction: how far each step lowers the raw scale at the start of training, so that posteriors start wide,
            where samples tell equal slots apart, and end narrow, where positions can be decoded; 0 in the paper.
        pooling: "average" or "flatten".
        num_frequencies: Fourier features of the coordinates; 0 in the paper.
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
        precision: str = "float32",
    ) -> None:
        super().__init__()
        coordinates = coordinate_grid(image_size, num_frequencies)
        self.register_buffer("coordinates", coordinates, persistent=False)

        def conv(c_in: int, c_out: int, bias: bool = True) -> nn.Conv2d:
            return nn.Conv2d(c_in, c_out, kernel_size, stride=2, padding=kernel_size // 2, bias=bias)

        self.image_conv = conv(4 + len(coordinates), channels[0])
        self.slot_conv = conv(SLOT_CHANNELS, channels[0], bias=False)
        layers: list[nn.Module] = [nn.ELU()]
        for c_in, c_out in pairwise(channels):
            layers += [conv(c_in, c_out), nn.ELU()]
        features = channels[-1]
        if pooling == "average":
            layers += [nn.AdaptiveAvgPool2d(1)]
        else:
            features *= _strided(image_size[0], len(channels)) * _strided(image_size[1], len(channels))
        self.convs = nn.Sequential(*layers, nn.Flatten())
        dense: list[nn.Module] = []
        for width in mlp:
            dense += [nn.Linear(features, width), nn.ELU()]
            features = width
        self.mlp = nn.Sequential(*dense)
        features += 4 * latent_dim
        self.lstm = nn.LSTMCell(features, hidden) if recurrent else None
        self.dense = None if recurrent else nn.Sequential(nn.Linear(features, hidden), nn.ELU())
        self.update = nn.Linear(hidden, 2 * latent_dim)
        with torch.no_grad():
            self.update.bias[latent_dim:] -= contraction
        self.precision = precision

    def forward(
        self,
        evaluation: Evaluation,
        parameters: Gaussian,
        gradient: Gaussian,
        state: tuple[Tensor, Tensor] | None,
    ) -> tuple[Gaussian, tuple[Tensor, Tensor] | None]:
        """One refinement: λ (B, K, D), d ELBO/dλ (detached) and the LSTM state, if any → the new λ and state."""
        B, K, D = parameters.mean.shape
        image = evaluation.image_inputs
        image = torch.cat((image, self.coordinates.expand(B, -1, -1, -1)), dim=1)
        # Activations of all iterations would wait for the end; computing them again costs little beside the decoder.
        features = checkpoint(
            self._features, image, evaluation.slot_inputs, use_reentrant=False, preserve_rng_state=False
        )
        normalised = (F.layer_norm(part, (D,)) for part in gradient)
        flat = torch.cat((*parameters, *normalised), dim=-1)
        hidden, state = self.hidden(torch.cat((features, flat.flatten(0, 1)), dim=-1), state)
        mean_step, scale_step = self.update(hidden).unflatten(0, (B, K)).chunk(2, dim=-1)
        return Gaussian(parameters.mean + mean_step, parameters.raw_scale + scale_step), state

    def _features(self, image: Tensor, slot_inputs: Tensor) -> Tensor:
        """(B, C, H, W) and (B, K, SLOT_CHANNELS, H, W) → (B K, features)."""
        with convolution_precision(image.device, self.precision):
            first = self.slot_conv(slot_inputs.flatten(0, 1)).unflatten(0, slot_inputs.shape[:2])
            first = first + self.image_conv(image).unsqueeze(1)
            convolved = self.convs(first.flatten(0, 1))
        return self.mlp(convolved.to(slot_inputs.dtype))

    def hidden(
        self, inputs: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The hidden layer and its new state; the state stays None where there is no LSTM."""
        if self.dense is not None:
            return self.dense(inputs), None
        assert self.lstm is not None
        state = self.lstm(inputs, state)
        return state[0], state


def _strided(size: int, num_layers: int) -> int:
    """Pixels left of `size` after that many same-padded stride-2 convolutions."""
    for _ in range(num_layers):
        size = (size + 1) // 2
    return size

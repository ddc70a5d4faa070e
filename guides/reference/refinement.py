"""Iterative refinement, which IODINE's loss and MulMON's share: all graphs kept, two backward passes per iteration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_compvae.architectures import LayerNorm
from pyro_compvae.guides.reference.terms import decode, lnms, log_components, sequential
from pyro_compvae.guides.refinement.guide import RefinementGuide
from pyro_compvae.guides.refinement.network import RefinementNetwork

Projection = Callable[[Tensor], Tensor]
"""A function from slots (B, K, D) to what the decoder sees of them, (B, K, D)."""

Divergence = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""The term that the ELBO subtracts, summed over scenes, as a function of the mean, scale and sample of a posterior, (B,
K, D) each, and the iteration t."""


class View(NamedTuple):
    """How slots are seen.

    project: the map from slots to what the decoder sees of them.
    context: (B, context_dim), a further input of the network if it was built for one.
    frame: (B, D, D), the rotation into the frame in which the network sees λ and its gradient, if it is another.
    """

    project: Projection
    context: Tensor | None = None
    frame: Tensor | None = None


class Decoded(NamedTuple):
    """The mixtures that images are scored with, and their log-densities.

    means: (B, K, 3, H, W)
    logits: mask logits, (B, K, 1, H, W)
    log_masks: (B, K, H, W)
    component: log N of each slot, (B, K, H, W)
    pixel: log p of each pixel, (B, H, W)
    """

    means: Tensor
    logits: Tensor
    log_masks: Tensor
    component: Tensor
    pixel: Tensor


def refine(
    guide: RefinementGuide,
    view: View,
    x: Tensor,
    start: tuple[Tensor, Tensor],
    evaluations: Sequence[tuple[float, Tensor]],
    divergence: Divergence,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Refine λ between any two evaluations; returns the sum of the objective's weighted terms, and the last λ.

    Args:
        guide: the guide whose networks, β, s and σ_c are used.
        view: how slots are seen.
        x: images (B, 3, H, W).
        start: λ_0, mean and raw scale (B, K, D).
        evaluations: for each evaluation its weight in the objective, and a standard normal draw (B, K, D).
        divergence: the divergence of q(z | λ_t) from its prior.
    """
    mean, raw_scale = (part if part.requires_grad else part.detach().requires_grad_() for part in start)
    state = None
    objective = x.new_zeros(())
    for t, (weight, noise) in enumerate(evaluations):
        scale = F.softplus(raw_scale)
        z = mean + scale * noise
        decoded = _decoded(guide, view.project(z), x)
        elbo = decoded.pixel.sum() - guide.beta * divergence(mean, scale, z, t)
        objective = objective + weight * (elbo + lnms(guide, z))
        if t == len(evaluations) - 1:
            break

        wanted = (decoded.means, decoded.logits, mean, raw_scale)
        means_gradient, logits_gradient, mean_gradient, scale_gradient = torch.autograd.grad(
            elbo, wanted, retain_graph=True
        )
        inputs = _network_inputs(guide, x, decoded, means_gradient, logits_gradient)
        seen, gradient = _framed(mean, raw_scale, view), _framed(mean_gradient, scale_gradient, view)
        flat = [*seen, _normalised_gradient(*gradient, guide.network.layer_norm)]
        if view.context is not None:
            flat.append(view.context[:, None].expand(-1, mean.shape[1], -1))
        features = torch.cat((_features(guide.network, inputs), torch.cat(flat, dim=2).flatten(0, 1)), dim=1)
        hidden, state = guide.network.hidden(features, state)
        step = guide.network.update(hidden).view(*mean.shape[:2], -1)
        mean_step, scale_step = step.chunk(2, dim=2)
        mean_step, scale_step = _framed(mean_step, scale_step, view, back=True)
        mean, raw_scale = mean + mean_step, raw_scale + scale_step
    return objective, (mean, raw_scale)


def _framed(mean: Tensor, raw_scale: Tensor, view: View, back: bool = False) -> tuple[Tensor, Tensor]:
    """Means are turned by R, or Rᵀ, and raw scales by the squares of its entries."""
    if view.frame is None:
        return mean, raw_scale
    turned = torch.einsum("bji,bkj->bki" if back else "bij,bkj->bki", view.frame, mean)
    return turned, torch.einsum("bij,bkj->bki", view.frame**2, raw_scale)


def _decoded(guide: RefinementGuide, z: Tensor, x: Tensor) -> Decoded:
    means, logits = decode(guide.model.decoder, z)
    component = log_components(x, means, guide.model.scale)
    log_masks = torch.log_softmax(logits[:, :, 0], dim=1)
    return Decoded(means, logits, log_masks, component, torch.logsumexp(log_masks + component, dim=1))


def _network_inputs(
    guide: RefinementGuide, x: Tensor, decoded: Decoded, means_gradient: Tensor, logits_gradient: Tensor
) -> Tensor:
    """The inputs of the network in image space, (B, K, channels, H, W).

    Layer-normalised inputs are always detached; the other four are detached unless the guide has `attached_inputs`.
    """
    means, logits, log_masks, component, pixel = decoded
    kind, K = guide.network.layer_norm, means.shape[1]
    without = []  # log-likelihoods without each of the slots
    for k in range(K):
        others = [j for j in range(K) if j != k]
        without.append(torch.logsumexp(torch.log_softmax(logits[:, others, 0], dim=1) + component[:, others], dim=1))
    counterfactual = pixel[:, None] - torch.stack(without, dim=1)
    images = (means, logits, log_masks.exp()[:, :, None], torch.softmax(component, dim=1)[:, :, None])
    parts = (
        x[:, None].expand_as(means),
        _layer_norm(pixel[:, None, None], kind).expand_as(logits),
        *(images if guide.attached_inputs else (image.detach() for image in images)),
        _layer_norm(means_gradient, kind),
        _layer_norm(logits_gradient, kind),
        _layer_norm(counterfactual[:, :, None], kind),
    )
    seen = [F.avg_pool2d(part.flatten(0, 1), guide.network.pooled_inputs).unflatten(0, (-1, K)) for part in parts]
    return torch.cat((*seen[:2], guide.network.coordinates.expand(*means.shape[:2], -1, -1, -1), *seen[2:]), dim=2)


def _features(network: RefinementNetwork, inputs: Tensor) -> Tensor:
    """Features (B K, features) of inputs (B, K, channels, H, W), with the first convolution in full for every slot."""
    first = network.image_conv
    kernel = torch.cat((first.weight, network.slot_conv.weight), dim=1)
    convolved = F.conv2d(inputs.flatten(0, 1), kernel, first.bias, first.stride, first.padding)
    return network.mlp(sequential(network.convs, convolved))


def _layer_norm(inputs: Tensor, kind: LayerNorm) -> Tensor:
    """Normalise to zero mean and unit variance over (C, H, W); the result is detached."""
    return _standardise(inputs, (2, 3, 4), bessel=False, inside_root=kind != "mulmon")


def _normalised_gradient(mean_gradient: Tensor, scale_gradient: Tensor, kind: LayerNorm) -> Tensor:
    """The two halves of λ's gradient side by side, normalised together or one by one; the result is detached."""
    if kind == "split":
        halves = (mean_gradient, scale_gradient)
        return torch.cat([_standardise(half, (2,), bessel=False, inside_root=True) for half in halves], dim=2)
    both = torch.cat((mean_gradient, scale_gradient), dim=2)
    return _standardise(both, (2,), bessel=kind == "mulmon", inside_root=kind != "mulmon")


def _standardise(inputs: Tensor, axes: tuple[int, ...], bessel: bool, inside_root: bool) -> Tensor:
    inputs = inputs.detach()
    count = math.prod(inputs.shape[axis] for axis in axes)
    centred = inputs - inputs.mean(axes, keepdim=True)
    variance = (centred**2).sum(axes, keepdim=True) / (count - bessel)
    return centred / (torch.sqrt(variance + 1e-5) if inside_root else torch.sqrt(variance) + 1e-5)

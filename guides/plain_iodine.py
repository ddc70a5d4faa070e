"""IODINE's training loss in plain PyTorch, the way public codes write it.

An executable specification: no Pyro, no shortcut. Slots are broadcast over the image and convolved in full,
the decoder runs backwards twice per iteration (for the refinement inputs, then for the weights), and all graphs
live until the end. The tests hold `IodineGuide` against it, the benchmark takes it as its baseline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guides.iodine import IodineGuide
from pyro_compvae.networks import SpatialBroadcastDecoder


def plain_iodine_loss(guide: IodineGuide, x: Tensor, noise: Sequence[Tensor]) -> Tensor:
    """−Σ_b Σ_{t=1..T} (t/T) [ log p(x_b | z_t) − β KL_t + s L_NMS(z_t) ], in nats, with the weights of `guide`.

    Args:
        guide: gives the networks, T, β, s and σ_c.
        x: images (B, 3, H, W).
        noise: T+1 standard normal draws (B, K, D), one per evaluation.
    """
    model, T = guide.model, guide.num_iterations
    B, K, D, sigma = len(x), model.num_slots, model.latent_dim, model.scale
    mean = guide.initial_mean.expand(B, K, D)
    raw_scale = guide.initial_raw_scale.expand(B, K, D)
    state = None
    loss = x.new_zeros(())
    for t in range(T + 1):
        scale = F.softplus(raw_scale)
        z = mean + scale * noise[t]
        means, logits = _decode(model.decoder, z)
        squares = ((x[:, None] - means) / sigma) ** 2
        component = (-0.5 * squares - math.log(sigma * math.sqrt(2 * math.pi))).sum(2)  # (B, K, H, W)
        log_masks = torch.log_softmax(logits[:, :, 0], dim=1)
        pixel = torch.logsumexp(log_masks + component, dim=1)  # (B, H, W)
        kl = 0.5 * (mean**2 + scale**2 - 1 - 2 * torch.log(scale)).sum()
        elbo = pixel.sum() - guide.kl_weight * kl
        loss = loss - t / T * (elbo + guide.lnms_strength * _lnms(z, guide.lnms_scale))
        if t == T:
            break

        wanted = (means, logits, mean, raw_scale)
        means_gradient, logits_gradient, mean_gradient, scale_gradient = torch.autograd.grad(
            elbo, wanted, retain_graph=True
        )
        without = torch.stack(
            [
                torch.logsumexp(torch.log_softmax(logits[:, others, 0], dim=1) + component[:, others], dim=1)
                for k in range(K)
                for others in [[j for j in range(K) if j != k]]
            ],
            dim=1,
        )
        network = guide.network
        inputs = torch.cat(
            (
                x[:, None].expand_as(means),
                _layer_norm(pixel[:, None, None], 3).expand_as(logits),
                network.coordinates.expand(B, K, -1, -1, -1),
                means,
                logits,
                log_masks.exp()[:, :, None],
                torch.softmax(component, dim=1)[:, :, None],
                _layer_norm(means_gradient, 3),
                _layer_norm(logits_gradient, 3),
                _layer_norm((pixel[:, None] - without)[:, :, None], 3),
            ),
            dim=2,
        ).detach()
        weight = torch.cat((network.image_conv.weight, network.slot_conv.weight), dim=1)
        first = network.image_conv
        first_layer = F.conv2d(inputs.flatten(0, 1), weight, first.bias, first.stride, first.padding)
        features = network.mlp(network.convs(first_layer))
        flat = (mean, raw_scale, _layer_norm(mean_gradient, 1), _layer_norm(scale_gradient, 1))
        hidden, state = network.hidden(torch.cat((features, torch.cat(flat, dim=2).flatten(0, 1)), dim=1), state)
        step = network.update(hidden).view(B, K, 2 * D)
        mean, raw_scale = mean + step[..., :D], raw_scale + step[..., D:]
    return loss


def _decode(decoder: SpatialBroadcastDecoder, z: Tensor) -> tuple[Tensor, Tensor]:
    """Means (B, K, 3, H, W) and mask logits (B, K, 1, H, W), with z broadcast over the whole image."""
    B, K, D = z.shape
    H, W = decoder.first.image_size
    conv = decoder.first.conv
    canvas = z.reshape(B * K, D, 1, 1).expand(-1, -1, H, W)
    coordinates = decoder.first.coordinates.expand(B * K, -1, -1, -1)
    out = decoder.last(decoder.hidden(conv(torch.cat((canvas, coordinates), dim=1))))
    out = F.pixel_shuffle(out, decoder.upsample).view(B, K, 4, *decoder.image_size)
    return torch.sigmoid(out[:, :, :3]), out[:, :, 3:]


def _layer_norm(inputs: Tensor, dims: int) -> Tensor:
    """Zero mean and unit variance over the last `dims` axes; detached."""
    return nn.LayerNorm(inputs.shape[-dims:], elementwise_affine=False)(inputs.detach())


def _lnms(z: Tensor, sigma: float) -> Tensor:
    """Σ_b Σ_{h≠j} log N(cos(z_h, z_j); 0, σ²)."""
    K = z.shape[1]
    total = z.new_zeros(())
    for h in range(K):
        for j in range(K):
            if h != j:
                cosine = F.cosine_similarity(z[:, h], z[:, j], dim=-1)
                total = total + (-0.5 * (cosine / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))).sum()
    return total

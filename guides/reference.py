"""The training losses of IODINE, MONet and MulMON in plain PyTorch, the way public codes write them.

An executable specification: no Pyro, no shortcut in the decoder or the loss. MONet's attention and encoder are the
guide's own modules. Slots are broadcast over the image and convolved in full. In IODINE and MulMON the decoder runs
backwards twice per iteration (for the refinement inputs, then for the weights), and all graphs live until the end. The
tests hold the guides against it, the benchmark takes it as its baseline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_compvae.decoder import SpatialBroadcastDecoder
from pyro_compvae.guides.iodine import IodineGuide
from pyro_compvae.guides.monet import MonetGuide
from pyro_compvae.guides.mulmon import MulmonGuide
from pyro_compvae.guides.refinement.guide import RefinementGuide


def plain_iodine_loss(guide: IodineGuide, x: Tensor, noise: Sequence[Tensor]) -> Tensor:
    """−Σ_b Σ_{t=1..T} (t/T) [ log p(x_b | z_t) − β KL_t + s L_NMS(z_t) ], in nats, with the weights of `guide`.

    Args:
        guide: gives the networks, T, β, s and σ_c.
        x: images (B, 3, H, W).
        noise: T+1 standard normal draws (B, K, D), one per evaluation.
    """
    T = guide.num_iterations
    shape = (len(x), guide.model.num_slots, guide.model.latent_dim)
    start = (guide.initial_mean.expand(shape), guide.initial_raw_scale.expand(shape))

    def divergence(mean: Tensor, scale: Tensor, z: Tensor, t: int) -> Tensor:
        return _prior_kl(mean, scale)

    weights = [t / T for t in range(T + 1)]
    objective, _ = _refine(guide, lambda z: z, x, start, iter(noise), weights, divergence)
    return -objective


def plain_monet_loss(guide: MonetGuide, x: Tensor, noise: Tensor) -> Tensor:
    """−Σ_b [ log Σ_k a_k N(x_b; μ_k, σ²) − β KL(q ‖ p) − γ KL(a ‖ m) + s L_NMS(z) ], in nats (`MonetGuide`).

    Masks stay in log space throughout: in float32 a scope soon underflows.

    Args:
        guide: gives the networks, β, γ, s and σ_c.
        x: images (B, 3, H, W).
        noise: a standard normal draw (B, K, D).
    """
    model = guide.model
    log_scope = torch.zeros_like(x[:, :1])
    log_attention = []
    for _ in range(model.num_slots - 1):
        log_alpha, log_rest = guide.attention(x, log_scope)
        log_attention.append(log_scope + log_alpha)
        log_scope = log_scope + log_rest
    log_a = torch.stack([*log_attention, log_scope], dim=1)  # (B, K, 1, H, W)
    images = x[:, None].expand(-1, model.num_slots, -1, -1, -1)
    encoded = guide.encoder(torch.cat((images, log_a), dim=2).flatten(0, 1))  # (B K, 2 D)
    mean, raw_scale = encoded.view(*noise.shape[:2], -1).chunk(2, dim=2)
    scale = F.softplus(raw_scale)
    z = mean + scale * noise
    means, logits = _decode(model.decoder, z)
    log_a, log_m = log_a[:, :, 0], torch.log_softmax(logits[:, :, 0], dim=1)
    likelihood = torch.logsumexp(log_a + _log_components(x, means, model.scale), dim=1).sum()
    mask_kl = (torch.exp(log_a) * (log_a - log_m)).sum()
    penalty = guide.kl_weight * _prior_kl(mean, scale) + guide.mask_strength * mask_kl
    return -(likelihood - penalty + guide.lnms_strength * _lnms(z, guide.lnms_scale))


def plain_mulmon_loss(
    guide: MulmonGuide, x: Tensor, viewpoints: Tensor, num_observed: int, noise: Sequence[Tensor]
) -> Tensor:
    """−Σ_b of MulMON's objective, in nats (`MulmonGuide`), the first views being observed and the rest queried.

    Args:
        guide: gives the networks, T, β, s and σ_c.
        x: views (B, V, 3, H, W).
        viewpoints: (B, V, 3), with whatever noise they are to have.
        num_observed: n.
        noise: n T + (V − n) standard normal draws (B, K, D), one per evaluation.
    """
    T, n, model = guide.num_iterations, num_observed, guide.model
    draws = iter(noise)
    mean = x.new_zeros(len(x), model.num_slots, model.latent_dim)
    raw_scale = torch.full_like(mean, math.log(math.e - 1))

    def seen_from(v: int) -> Callable[[Tensor], Tensor]:
        code = model.view_encoder(viewpoints[:, v])[:, None].expand(-1, model.num_slots, -1)
        return lambda z: model.projector(torch.cat((z, code), dim=2))

    objective = x.new_zeros(())
    for v in range(n):
        prior_mean, prior_scale = mean, F.softplus(raw_scale)

        def divergence(
            mean: Tensor,
            scale: Tensor,
            z: Tensor,
            t: int,
            prior_mean: Tensor = prior_mean,
            prior_scale: Tensor = prior_scale,
        ) -> Tensor:
            if t == 0:  # the posterior is the prior, and so are their gradients
                return z.new_zeros(())
            log_ratio = torch.log(prior_scale / scale)
            return (log_ratio + 0.5 * ((z - prior_mean) / prior_scale) ** 2 - 0.5 * ((z - mean) / scale) ** 2).sum()

        weights = [2 / (n + 1) * (v + 1) / n * 2 / (T + 1) * (t + 1) / T for t in range(T)]
        context = viewpoints[:, v] if guide.network.context_dim else None
        terms, (mean, raw_scale) = _refine(
            guide, seen_from(v), x[:, v], (mean, raw_scale), draws, weights, divergence, context
        )
        objective = objective + terms
    num_queries = x.shape[1] - n
    for v in range(n, x.shape[1]):
        z = mean + F.softplus(raw_scale) * next(draws)
        means, logits = _decode(model.decoder, seen_from(v)(z))
        component, log_masks = _log_components(x[:, v], means, model.scale), torch.log_softmax(logits[:, :, 0], dim=1)
        objective = objective + torch.logsumexp(log_masks + component, dim=1).sum() / num_queries
    return -objective


def _refine(
    guide: RefinementGuide,
    project: Callable[[Tensor], Tensor],
    x: Tensor,
    start: tuple[Tensor, Tensor],
    noise: Iterator[Tensor],
    weights: Sequence[float],
    divergence: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    context: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The weighted terms of the objective, summed, and the last λ; an update between any two evaluations."""
    model, network = guide.model, guide.network
    B, K, D = start[0].shape
    mean, raw_scale = (part if part.requires_grad else part.detach().requires_grad_() for part in start)
    state = None
    objective = x.new_zeros(())
    for t, weight in enumerate(weights):
        scale = F.softplus(raw_scale)
        z = mean + scale * next(noise)
        means, logits = _decode(model.decoder, project(z))
        component = _log_components(x, means, model.scale)
        log_masks = torch.log_softmax(logits[:, :, 0], dim=1)
        pixel = torch.logsumexp(log_masks + component, dim=1)  # (B, H, W)
        elbo = pixel.sum() - guide.kl_weight * divergence(mean, scale, z, t)
        objective = objective + weight * (elbo + guide.lnms_strength * _lnms(z, guide.lnms_scale))
        if t == len(weights) - 1:
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
        # Layer-normalised inputs are always detached; the other four are so unless the guide wants them attached.
        images = (means, logits, log_masks.exp()[:, :, None], torch.softmax(component, dim=1)[:, :, None])
        inputs = torch.cat(
            (
                x[:, None].expand_as(means),
                _layer_norm(pixel[:, None, None], network.layer_norm).expand_as(logits),
                network.coordinates.expand(B, K, -1, -1, -1),
                *(images if guide.attached_inputs else (image.detach() for image in images)),
                _layer_norm(means_gradient, network.layer_norm),
                _layer_norm(logits_gradient, network.layer_norm),
                _layer_norm((pixel[:, None] - without)[:, :, None], network.layer_norm),
            ),
            dim=2,
        )
        kernel = torch.cat((network.image_conv.weight, network.slot_conv.weight), dim=1)
        first = network.image_conv
        first_layer = F.conv2d(inputs.flatten(0, 1), kernel, first.bias, first.stride, first.padding)
        features = network.mlp(_sequential(network.convs, first_layer))
        flat = [mean, raw_scale, _normalised_gradient(mean_gradient, scale_gradient, network.layer_norm)]
        if context is not None:
            flat.append(context[:, None].expand(-1, K, -1))
        hidden, state = network.hidden(torch.cat((features, torch.cat(flat, dim=2).flatten(0, 1)), dim=1), state)
        step = network.update(hidden).view(B, K, 2 * D)
        mean, raw_scale = mean + step[..., :D], raw_scale + step[..., D:]
    return objective, (mean, raw_scale)


def _prior_kl(mean: Tensor, scale: Tensor) -> Tensor:
    """Σ_b KL(N(mean, scale²) ‖ N(0, I))."""
    return 0.5 * (mean**2 + scale**2 - 1 - 2 * torch.log(scale)).sum()


def _log_components(x: Tensor, means: Tensor, sigma: float) -> Tensor:
    """log N(x_i; means_ki, σ² I), (B, K, H, W)."""
    squares = ((x[:, None] - means) / sigma) ** 2
    return (-0.5 * squares - math.log(sigma * math.sqrt(2 * math.pi))).sum(2)


def _decode(decoder: SpatialBroadcastDecoder, z: Tensor) -> tuple[Tensor, Tensor]:
    """Means (B, K, 3, H, W) and mask logits (B, K, 1, H, W), with z broadcast over the whole image."""
    B, K, D = z.shape
    H, W = decoder.first.image_size
    conv = decoder.first.conv
    canvas = z.reshape(B * K, D, 1, 1).expand(-1, -1, H, W)
    coordinates = decoder.first.coordinates.expand(B * K, -1, -1, -1)
    out = decoder.last(_sequential(decoder.hidden, conv(torch.cat((canvas, coordinates), dim=1))))
    out = F.pixel_shuffle(out, decoder.upsample).view(B, K, 4, *decoder.image_size)
    return torch.sigmoid(out[:, :, :3]), out[:, :, 3:]


def _sequential(layers: nn.Sequential, x: Tensor) -> Tensor:
    """The layers in turn; no activation works in place."""
    for layer in layers:
        x = type(layer)()(x) if isinstance(layer, nn.ELU | nn.ReLU) else layer(x)
    return x


def _layer_norm(inputs: Tensor, kind: str) -> Tensor:
    """Zero mean and unit variance over (C, H, W); detached."""
    return _standardise(inputs, (2, 3, 4), bessel=False, inside_root=kind != "mulmon")


def _normalised_gradient(mean_gradient: Tensor, scale_gradient: Tensor, kind: str) -> Tensor:
    """The two halves of λ's gradient side by side, of zero mean and unit variance together or each; detached."""
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

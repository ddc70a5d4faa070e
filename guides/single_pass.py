"""One evaluation of log p(x | z) with all its gradients, in one forward and one backward pass.

One step of iterative refinement evaluates log p(x | z), shows the refinement network what went wrong where, and lets it
update the posterior parameters λ. Public codes run the decoder backwards twice per step, once for the inputs of the
refinement network and once for the weights, and keep all decoder graphs until the end. Since the inputs are detached,
the gradient of term t reaches the decoder's weights through term t alone, and the refinement network through
dL_t/dz_t alone. `evaluate` therefore takes all of them in one backward pass, frees the graph, and returns the term as a
value with its gradient already attached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Normal

from pyro_compvae.models import SlotModel
from pyro_compvae.networks import SpatialBroadcastDecoder

SLOT_CHANNELS = 11
"""Means 3, mask logits 1, masks 1, mask posterior 1, gradients of means 3 and of mask logits 1, counterfactual 1."""

LAYER_BYTES = 2**24
"""Output of a decoder layer that a CPU computes at a time: it stays in the caches, or nearly, and below the 32 MiB from
which on glibc asks the kernel for fresh pages every time. At 64×64 pixels with 64 channels, two scenes at a time take
0.7 of the time of eight."""


class Evaluation(NamedTuple):
    """log p(x | z) at one point, with its gradients.

    log_likelihood: (B,) nats, differentiable with respect to z and the decoder's weights; all else is detached
    gradient: d log p(x | z) / dz, (B, K, D)
    means, mask_logits, log_masks, component_log_prob: of the mixture p(x | z), as `SpatialGaussianMixture` has them
    means_gradient, logits_gradient: d log p(x | z) with respect to the mixture's means and mask logits
    """

    log_likelihood: Tensor
    gradient: Tensor
    means: Tensor
    mask_logits: Tensor
    log_masks: Tensor
    component_log_prob: Tensor
    means_gradient: Tensor
    logits_gradient: Tensor


class RefinementInputs(NamedTuple):
    """What the refinement network sees of an evaluation in image space, detached.

    image: the same for all slots, (B, 4, H, W)
    slots: (B, K, SLOT_CHANNELS, H, W)
    """

    image: Tensor
    slots: Tensor


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
    model: SlotModel,
    x: Tensor,
    z: Tensor,
    conditions: Sequence[Tensor] = (),
    weights: Sequence[nn.Parameter] = (),
) -> Evaluation:
    """Evaluate log p(x | z) and all its gradients with one forward and one backward pass.

    Args:
        model: the model.
        x: images (B, 3, H, W).
        z: slots (B, K, D), sampled from the posterior with reparameterisation.
        conditions: what else the model's likelihood takes: viewpoints (B, 3), or nothing.
        weights: parameters of the model that are to receive the gradient of the term; none in evaluation
            (and for terms of weight zero), which makes the pass cheaper. z receives its gradient in any case.

    Raises:
        RuntimeError: under ``torch.inference_mode``, which forbids gradients altogether.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("refinement needs gradients: expected torch.no_grad(), got torch.inference_mode()")
    size = scenes_at_once(model.decoder, z)
    parts, part_gradients = [], []
    for some in zip(*(tensor.split(size) for tensor in (x, z.detach(), *conditions)), strict=True):
        evaluation, gradients = _evaluate(model, *some, weights=weights)
        parts.append(evaluation)
        part_gradients.append(gradients)
    evaluation = parts[0] if len(parts) == 1 else Evaluation(*map(torch.cat, zip(*parts, strict=True)))
    if z.requires_grad or weights:
        gradients = [evaluation.gradient, *(sum(some[1:], start=some[0]) for some in zip(*part_gradients, strict=True))]
        value = _AttachGradient.apply(evaluation.log_likelihood, gradients, z, *weights)
        evaluation = evaluation._replace(log_likelihood=value)
    return evaluation


def _evaluate(
    model: SlotModel, x: Tensor, z: Tensor, *conditions: Tensor, weights: Sequence[nn.Parameter]
) -> tuple[Evaluation, Sequence[Tensor]]:
    """All that is known of some scenes, detached, and the gradients of the weights, summed over them."""
    with torch.enable_grad():
        leaf = z.requires_grad_()
        mixture = model.likelihood(leaf, *conditions)
        component_log_prob = mixture.component_log_prob(x)  # (B, K, H, W)
        log_likelihood = torch.logsumexp(mixture.log_masks + component_log_prob, dim=1).sum((-2, -1))
        wanted = (leaf, mixture.means, mixture.mask_logits, *weights)
        gradient, means_gradient, logits_gradient, *gradients = torch.autograd.grad(log_likelihood.sum(), wanted)
    evaluation = Evaluation(
        log_likelihood=log_likelihood.detach(),
        gradient=gradient,
        means=mixture.means.detach(),
        mask_logits=mixture.mask_logits.detach(),
        log_masks=mixture.log_masks.detach(),
        component_log_prob=component_log_prob.detach(),
        means_gradient=means_gradient,
        logits_gradient=logits_gradient,
    )
    return evaluation, gradients


def scenes_at_once(decoder: SpatialBroadcastDecoder, z: Tensor) -> int:
    """How many of the scenes z (B, K, D) to decode at a time: all, except where a CPU is faster with fewer."""
    if z.device.type != "cpu":
        return len(z)
    scene_bytes = z.shape[1] * decoder.hidden_size * z.element_size()
    return max(1, LAYER_BYTES // scene_bytes)


@torch.no_grad()
def refinement_inputs(evaluation: Evaluation, x: Tensor) -> RefinementInputs:
    """Everything in image space that IODINE and MulMON show their network, for images x (B, 3, H, W)."""
    component_log_prob, log_masks = evaluation.component_log_prob, evaluation.log_masks
    joint = log_masks + component_log_prob  # (B, K, H, W)
    pixel_log_prob = torch.logsumexp(joint, dim=1)  # (B, H, W)
    without_slot = leave_one_out_logsumexp(joint) - leave_one_out_logsumexp(log_masks)
    slots = torch.cat(
        (
            evaluation.means,
            evaluation.mask_logits,
            log_masks.exp().unsqueeze(2),
            torch.softmax(component_log_prob, dim=1).unsqueeze(2),
            _normalise(evaluation.means_gradient),
            _normalise(evaluation.logits_gradient),
            _normalise((pixel_log_prob.unsqueeze(1) - without_slot).unsqueeze(2)),
        ),
        dim=2,
    )
    return RefinementInputs(torch.cat((x, _normalise(pixel_log_prob.unsqueeze(1))), dim=1), slots)


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

"""One evaluation of log p(x | z) with all its gradients, in one forward and one backward pass.

One step of iterative refinement evaluates log p(x | z), shows the refinement network where the image is explained
badly, and lets it update the posterior parameters λ. Public codes run the decoder backwards twice per step, once for
the inputs of the refinement network and once for the weights, and keep all decoder graphs until the end. Where the
inputs are detached, the gradient of term t reaches the decoder's weights through term t alone, and the refinement
network through dL_t/dz_t alone. `evaluate` therefore takes all of them in one backward pass, frees the graph, and
returns the term as a value with its gradient already attached.

The published codes of IODINE and MulMON detach the inputs that are layer-normalised, and leave means, mask logits,
masks and mask posterior attached. `evaluate_attached` does that too, and pays the price that the single pass saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pyro_compvae.architectures import LayerNorm
from pyro_compvae.guides.refinement.normalisation import normalise_images
from pyro_compvae.mixture import SpatialGaussianMixture

SLOT_CHANNELS = 11
"""Number of channels: means 3, mask logits 1, masks 1, mask posterior 1, gradients of means 3 and of mask logits 1,
counterfactual 1."""


class Evaluation(NamedTuple):
    """log p(x | z) at one point, with its gradients.

    log_likelihood: (B,) nats, differentiable with respect to z and the decoder's weights
    gradient: d log p(x | z) / dz, (B, K, D), detached
    means, mask_logits, log_masks, component_log_prob: those of the `SpatialGaussianMixture` p(x | z);
        detached, except in `evaluate_attached`
    means_gradient, logits_gradient: d log p(x | z) with respect to the mixture's means and mask logits, detached
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
    """The inputs of the refinement network in image space; those that are layer-normalised are detached.

    image: inputs that all slots share, (B, 4, H, W)
    slots: inputs of each slot, (B, K, SLOT_CHANNELS, H, W)
    """

    image: Tensor
    slots: Tensor


class _AttachGradient(torch.autograd.Function):
    """The identity on `value` (B,), with a gradient computed beforehand with respect to z (B, K, D) and the weights.

    The weights' gradient is known only as a sum over scenes, so the incoming gradient must be the same for all scenes.
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
        # Unlike an `if`, this does not make the host wait for a GPU. There the message must be below 255 characters.
        torch._assert_async(
            (grad_output == grad_output[0]).all(),
            "expected scenes of equal weight: train mode excludes RenyiELBO with several particles, poutine.mask and "
            "per-scene scales. Use Trace_ELBO or TraceMeanField_ELBO, or eval mode.",
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
        weights: parameters of the likelihood that are to receive the gradient of the term. There are none in evaluation
            (and for terms of weight zero), which makes the pass cheaper. z receives its gradient in any case.

    Raises:
        RuntimeError: under ``torch.inference_mode``, which forbids gradients altogether, and under ``torch.jit.trace``,
            which does not record them.
    """
    _check_gradients()
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        mixture, component_log_prob, log_likelihood = _score(likelihood, x, leaf)
        wanted = (mixture.means, mixture.mask_logits, leaf, *weights)
        means_gradient, logits_gradient, *gradients = torch.autograd.grad(log_likelihood.sum(), wanted)
    value = log_likelihood.detach()
    if z.requires_grad or weights:
        value = _AttachGradient.apply(value, gradients, z, *weights)
    return Evaluation(
        log_likelihood=value,
        gradient=gradients[0],
        means=mixture.means.detach(),
        mask_logits=mixture.mask_logits.detach(),
        log_masks=mixture.log_masks.detach(),
        component_log_prob=component_log_prob.detach(),
        means_gradient=means_gradient,
        logits_gradient=logits_gradient,
    )


def evaluate_attached(likelihood: Callable[[Tensor], SpatialGaussianMixture], x: Tensor, z: Tensor) -> Evaluation:
    """Evaluate log p(x | z) as `evaluate` does, with a mixture that stays differentiable.

    The decoder runs backwards a second time when the objective does, and all graphs of a training step live until then.

    Args:
        likelihood, x, z: as for `evaluate`.

    Raises:
        RuntimeError: as for `evaluate`.
    """
    _check_gradients()
    with torch.enable_grad():
        z = z if z.requires_grad else z.detach().requires_grad_()
        mixture, component_log_prob, log_likelihood = _score(likelihood, x, z)
        wanted = (mixture.means, mixture.mask_logits, z)
        gradients = torch.autograd.grad(log_likelihood.sum(), wanted, retain_graph=True)
    means_gradient, logits_gradient, gradient = gradients
    return Evaluation(
        log_likelihood,
        gradient,
        mixture.means,
        mixture.mask_logits,
        mixture.log_masks,
        component_log_prob,
        means_gradient,
        logits_gradient,
    )


def _score(
    likelihood: Callable[[Tensor], SpatialGaussianMixture], x: Tensor, z: Tensor
) -> tuple[SpatialGaussianMixture, Tensor, Tensor]:
    """The mixture p(x | z), log N of its components (B, K, H, W), and log p(x | z), (B,)."""
    mixture = likelihood(z)
    component_log_prob = mixture.component_log_prob(x)
    log_likelihood = torch.logsumexp(mixture.log_masks + component_log_prob, dim=1).sum((-2, -1))
    return mixture, component_log_prob, log_likelihood


def _check_gradients() -> None:
    if torch.is_inference_mode_enabled():
        raise RuntimeError("refinement needs gradients: expected torch.no_grad(), got torch.inference_mode()")
    if torch.jit.is_tracing():
        raise RuntimeError(
            "refinement takes gradients on its way, which torch.jit.trace does not record: expected an ELBO without "
            "Jit, such as Trace_ELBO instead of JitTrace_ELBO"
        )


def refinement_inputs(evaluation: Evaluation, x: Tensor, layer_norm: LayerNorm) -> RefinementInputs:
    """All inputs in image space that IODINE and MulMON give to their network, for images x (B, 3, H, W)."""
    component_log_prob, log_masks = evaluation.component_log_prob, evaluation.log_masks
    with torch.no_grad():
        joint = log_masks + component_log_prob  # (B, K, H, W)
        pixel_log_prob = torch.logsumexp(joint, dim=1)  # (B, H, W)
        without_slot = leave_one_out_logsumexp(joint) - leave_one_out_logsumexp(log_masks)
        counterfactual = (pixel_log_prob.unsqueeze(1) - without_slot).unsqueeze(2)
        parts = (evaluation.means_gradient, evaluation.logits_gradient, counterfactual)
        normalised = [normalise_images(part, layer_norm) for part in parts]
        image = torch.cat((x, normalise_images(pixel_log_prob.unsqueeze(1), layer_norm)), dim=1)
    slots = torch.cat(
        (
            evaluation.means,
            evaluation.mask_logits,
            log_masks.exp().unsqueeze(2),
            torch.softmax(component_log_prob, dim=1).unsqueeze(2),
            *normalised,
        ),
        dim=2,
    )
    return RefinementInputs(image, slots)


def leave_one_out_logsumexp(values: Tensor) -> Tensor:
    """log Σ_{j≠k} exp(values_j) for every k along dimension 1: (B, K, H, W) → (B, K, H, W).

    It adds prefix and suffix sums, so nothing is subtracted and nothing cancels when one slot explains a pixel alone.
    The loop is for a few slots. The cumulative sums in `pyro_compvae.evidence.estimate` take six times as long here,
    but a quarter of the time for thousands of draws.
    """
    slots = values.unbind(1)
    nothing = torch.full_like(slots[0], -torch.inf)
    before, after = [nothing], [nothing]
    for k in range(len(slots) - 1):
        before.append(torch.logaddexp(before[-1], slots[k]))
        after.append(torch.logaddexp(after[-1], slots[-1 - k]))
    return torch.logaddexp(torch.stack(before, 1), torch.stack(after[::-1], 1))

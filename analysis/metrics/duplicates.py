"""Duplicates: pairs of slots that hold the same thing, which L-NMS is meant to suppress.

The paper shows duplicates (Figure 3) but never counts them. They are counted here in two ways: in latent
space, where L-NMS acts, and in the image, where duplicates do harm.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_compvae.analysis.metrics.segmentation import check_label_map, contingency_table
from pyro_compvae.errors import ArgumentError
from pyro_compvae.lnms import slot_correlation


class DuplicateScore(NamedTuple):
    """Numbers of unordered pairs of active slots per scene, int64; 0 is the best, and K (K - 1) / 2 the worst."""

    latent: Tensor
    """(B,) pairs whose latents point in the same direction."""

    claimed: Tensor | None
    """(B,) pairs that claim the same ground-truth label. An object shared by n slots counts n (n - 1) / 2.

    If this is high and `latent` is 0, slots hold different parts of one object and not copies of it.
    It is None without ground truth.
    """


def active_slots(predicted: Tensor, num_slots: int, min_fraction: float = 0.01) -> Tensor:
    """Tell which slots hold at least `min_fraction` of the pixels.

    Args:
        predicted: hard segmentation (B, H, W), integers in 0..K-1.
        num_slots: number of slots K.
        min_fraction: share of the H · W pixels, in (0, 1].

    Returns:
        (B, K) bool.

    Raises:
        ValueError: if `predicted` is no label map of slots 0..K-1, or `min_fraction` is out of range.
    """
    check_label_map("predicted", predicted)
    if predicted.max() >= num_slots:
        raise ArgumentError(f"predicted: expected labels below num_slots = {num_slots}, got {int(predicted.max())}")
    # Zero is refused, because a slot without pixels can claim nothing.
    if not 0 < min_fraction <= 1:
        raise ArgumentError(f"min_fraction: expected a share of the pixels in (0, 1], got {min_fraction}")
    slots = torch.arange(num_slots, device=predicted.device)
    held = (predicted.flatten(1)[:, None] == slots[:, None]).sum(2)  # (B, K) pixels
    return held.double() / predicted[0].numel() >= min_fraction


def duplicate_score(
    z: Tensor, predicted: Tensor, target: Tensor | None, cosine: float = 0.9, min_fraction: float = 0.01
) -> DuplicateScore:
    """Count the pairs of active slots that duplicate each other.

    A slot claims the ground-truth label that most of its pixels bear (in a tie, the lowest). The background
    can be claimed like any object: splitting it is a duplicate too, as in the paper's Figure 3.

    Args:
        z: latents of the slots (B, K, D).
        predicted: hard segmentation (B, H, W), integers in 0..K-1.
        target: ground-truth labels (B, H, W), or None if there are none.
        cosine: two latents are duplicates when their cosine similarity exceeds this.
        min_fraction: share of the pixels that makes a slot active. Inactive slots are not counted: idle slots
            look alike because they stay near the prior, and nobody sees them.

    Returns:
        DuplicateScore of `latent` (B,) and `claimed` (B,).

    Raises:
        ValueError: if shapes or label ranges disagree.

    Two slots divide a background, with latents that have nothing in common:

    >>> z, segmentation = torch.eye(3)[None], torch.tensor([[[0, 1, 2, 2]]])
    >>> duplicate_score(z, segmentation, target=torch.tensor([[[0, 0, 1, 1]]]))
    DuplicateScore(latent=tensor([0]), claimed=tensor([1]))
    """
    if z.dim() != 3 or len(z) != len(predicted):
        raise ArgumentError(f"z: expected latents (B, K, D) with B = {len(predicted)}, got {tuple(z.shape)}")
    num_slots = z.shape[1]
    active = active_slots(predicted, num_slots, min_fraction)
    latent = _count_pairs(slot_correlation(z) > cosine, active)
    if target is None:
        return DuplicateScore(latent, claimed=None)
    claim = contingency_table(predicted, target, num_slots).argmax(2)  # (B, K)
    return DuplicateScore(latent, claimed=_count_pairs(claim[:, :, None] == claim[:, None, :], active))


def _count_pairs(duplicate: Tensor, active: Tensor) -> Tensor:
    """Count unordered pairs of active slots: duplicate (B, K, K) bool, active (B, K) bool → (B,) int64."""
    both_active = active[:, :, None] & active[:, None, :]
    return (duplicate & both_active).triu(diagonal=1).sum((1, 2))

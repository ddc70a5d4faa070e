"""Scores of a segmentation and of a reconstruction, one number per scene.

A segmentation is an integer label map (B, H, W): the slot that explains each pixel, or the object that a
pixel truly shows, with 0 for the background. No score depends on how the slots are numbered.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_compvae.checks import describe
from pyro_compvae.errors import ArgumentError


def contingency_table(predicted: Tensor, target: Tensor, num_predicted: int | None = None) -> Tensor:
    """Count the pixels that bear each pair of labels.

    Args:
        predicted: integer labels (B, H, W), zero or above. Labels should be small: they index the table.
        target: integer labels (B, H, W), zero or above.
        num_predicted: the number P of rows; by default as many as the largest predicted label needs.

    Returns:
        (B, P, T) int64, in pixels; T is one more than the largest target label in the batch.

    Raises:
        ValueError: if the arguments are no label maps, differ in shape, or `predicted` does not fit P rows.
    """
    check_label_map("predicted", predicted)
    check_label_map("target", target)
    if predicted.shape != target.shape:
        shapes = f"{tuple(predicted.shape)}, got {tuple(target.shape)}"
        raise ArgumentError(f"target: expected the shape of predicted, {shapes}")
    num_scenes = len(predicted)
    num_rows = int(predicted.max()) + 1
    num_columns = int(target.max()) + 1
    if num_predicted is not None:
        if num_rows > num_predicted:
            raise ArgumentError(f"predicted: expected labels below {num_predicted}, got {num_rows - 1}")
        num_rows = num_predicted
    # The int64 scene index widens narrow labels such as uint8, which would overflow here.
    scene = torch.arange(num_scenes, device=predicted.device)[:, None, None]
    cell = (scene * num_rows + predicted) * num_columns + target  # (B, H, W)
    counts = torch.bincount(cell.flatten(), minlength=num_scenes * num_rows * num_columns)
    return counts.view(num_scenes, num_rows, num_columns)


def mean_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean intersection over union under the best one-to-one matching of slots and objects.

    The Hungarian matching maximises the sum of the IoUs. As in the paper (Section 4.1) the background is an
    object like any other. The mean runs over the target labels present in the scene: a label without a slot counts 0,
    while surplus slots cost only the pixels that they take away. Slots without pixels have no effect.

    Args:
        predicted: integer labels (B, H, W).
        target: integer labels (B, H, W), background included.

    Returns:
        (B,) float64 in [0, 1]; 1 for a perfect segmentation.

    Raises:
        ValueError: if the arguments are no label maps or differ in shape.

    The numbers of the slots do not matter; a slot that takes half of an object loses half of its IoU:

    >>> target = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1]]])
    >>> split = torch.tensor([[[5, 5, 2, 3], [5, 5, 2, 3]]])
    >>> mean_iou(1 - target, target), mean_iou(split, target)
    (tensor([1.], dtype=torch.float64), tensor([0.7500], dtype=torch.float64))
    """
    iou, present = _iou(predicted, target)
    matched = [scene[linear_sum_assignment(scene, maximize=True)].sum() for scene in iou.cpu().numpy()]
    return torch.tensor(matched, dtype=torch.float64, device=iou.device) / present.sum(1)


def match_slots(predicted: Tensor, target: Tensor, num_slots: int) -> Tensor:
    """The target label of every slot in the matching behind `mean_iou`, or −1 for slots without a partner.

    A slot and a label without a common pixel are no partners, although the matching may pair what is left over.

    Args:
        predicted: integer labels (B, H, W) below num_slots.
        target: integer labels (B, H, W), background included.
        num_slots: number of slots K.

    Returns:
        (B, K) int64 on the CPU.

    Raises:
        ValueError: if the arguments are no label maps, differ in shape, or have other slots.

    >>> target = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1]]])
    >>> match_slots(torch.tensor([[[2, 2, 0, 1], [2, 2, 0, 0]]]), target, num_slots=4)
    tensor([[ 1, -1,  0, -1]])
    """
    iou = _iou(predicted, target, num_slots)[0].cpu()
    partners = torch.full(iou.shape[:2], -1)
    for scene, found in zip(iou, partners, strict=True):
        slots, labels = (torch.from_numpy(side) for side in linear_sum_assignment(scene.numpy(), maximize=True))
        found[slots] = torch.where(scene[slots, labels] > 0, labels, -1)
    return partners


def _iou(predicted: Tensor, target: Tensor, num_predicted: int | None = None) -> tuple[Tensor, Tensor]:
    """The IoU of all pairs of labels, (B, P, T) float64, and which target labels are present, (B, T)."""
    table = contingency_table(predicted, target, num_predicted)
    slot_area = table.sum(2, keepdim=True)
    object_area = table.sum(1, keepdim=True)
    # The union is 0 only if both labels are absent; such pairs overlap nowhere and score 0.
    union = (slot_area + object_area - table).clamp(min=1)
    return table.double() / union, object_area.squeeze(1) > 0


def adjusted_rand_index(predicted: Tensor, target: Tensor, foreground_only: bool = False) -> Tensor:
    """The adjusted Rand index: agreement on which pairs of pixels belong together, 0 on average by chance.

    The closed form of Hubert and Arabie, "Comparing partitions" (1985), with scikit-learn's edge cases:
    identical partitions score 1, also when both are a single cluster; one object split into several slots
    scores 0. For a scene without any foreground pixel the foreground ARI is undefined and NaN, so average over scenes
    with `nanmean`.

    Args:
        predicted: integer labels (B, H, W).
        target: integer labels (B, H, W).
        foreground_only: leave out the pixels whose target is 0, the background.

    Returns:
        (B,) float64, at most 1; below 0 when the agreement is worse than chance.

    Raises:
        ValueError: if the arguments are no label maps or differ in shape.

    A background in two slots costs nothing where only the foreground counts:

    >>> target = torch.tensor([[[0, 0, 1, 2], [0, 0, 1, 2]]])
    >>> split = torch.tensor([[[0, 3, 1, 2], [0, 3, 1, 2]]])
    >>> adjusted_rand_index(split, target), adjusted_rand_index(split, target, foreground_only=True)
    (tensor([0.5882], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    table = contingency_table(predicted, target)
    if foreground_only:
        table = table[:, :, 1:]
    # Numbers of pixel pairs, exact in int64, that lie together in both partitions and in each of them.
    together = _pairs(table).sum((1, 2))
    in_predicted = _pairs(table.sum(2)).sum(1)
    in_target = _pairs(table.sum(1)).sum(1)
    num_pixels = table.sum((1, 2))
    # In this order of operations a single target cluster gives a ratio of exactly 1, and a score of exactly 0 if split.
    expected = in_predicted * (in_target.double() / _pairs(num_pixels))
    highest = (in_predicted + in_target).double() / 2
    index = (together - expected) / (highest - expected)
    # The ratio is 0 / 0 only for identical partitions (all pixels together, or all apart).
    identical = (together == in_predicted) & (together == in_target)
    index = torch.where(identical, 1.0, index)
    return torch.where(num_pixels > 0, index, torch.nan)


def mean_squared_error(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Squared error of a reconstruction, averaged over channels and pixels.

    Args:
        reconstruction: colours (B, 3, H, W) in [0, 1].
        image: colours (B, 3, H, W) in [0, 1].

    Returns:
        (B,) float64, in squared units of colour; it is neither a root nor a sum.

    Raises:
        ValueError: if the arguments are no floating-point images or differ in shape.
    """
    for name, value in (("reconstruction", reconstruction), ("image", image)):
        if value.dim() != 4 or value.shape[1] != 3 or not value.is_floating_point():
            raise ArgumentError(f"{name}: expected floating-point colours (B, 3, H, W), got {describe(value)}")
    if reconstruction.shape != image.shape:
        shapes = f"{tuple(reconstruction.shape)}, got {tuple(image.shape)}"
        raise ArgumentError(f"image: expected the shape of reconstruction, {shapes}")
    return (reconstruction.double() - image.double()).square().mean((1, 2, 3))


def check_label_map(name: str, labels: Tensor) -> None:
    """Raise a ValueError that names the argument unless `labels` holds integers (B, H, W), zero or above."""
    is_integer = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.dim() != 3 or not is_integer:
        raise ArgumentError(f"{name}: expected integer labels (B, H, W), got {describe(labels)}")
    if labels.numel() == 0:
        raise ArgumentError(f"{name}: expected at least one scene and one pixel, got {tuple(labels.shape)}")
    if labels.min() < 0:
        raise ArgumentError(f"{name}: expected labels of zero or above, got {int(labels.min())}")


def _pairs(count: Tensor) -> Tensor:
    """Number of unordered pairs among `count` things, (...) int64."""
    return count * (count - 1) // 2

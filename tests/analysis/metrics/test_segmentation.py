from itertools import permutations

import numpy as np
import pytest
import torch
from helpers.published import TETROMINOES, needs_published_images
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from pyro_compvae.analysis import adjusted_rand_index, mean_iou, mean_squared_error
from pyro_compvae.analysis.metrics.segmentation import contingency_table


def label_map(*rows: list[int]) -> Tensor:
    """One scene, (1, H, W)."""
    return torch.tensor([rows])


def random_labels(num_scenes: int, num_labels: int, seed: int, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_labels, (num_scenes, size, size + 1), generator=generator)


def noisy_copy(labels: Tensor, num_labels: int, seed: int) -> Tensor:
    """Labels with about a third of the pixels redrawn, so that scores lie well away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    redraw = torch.rand(labels.shape, generator=generator) < 0.35
    return torch.where(redraw, random_labels(len(labels), num_labels, seed + 1), labels)


def brute_force_iou(predicted: Tensor, target: Tensor) -> float:
    """The best mean IoU of one scene (H, W), from pixel sets and every injection of objects into slots."""
    slots = [predicted == label for label in predicted.unique()]
    objects = [target == label for label in target.unique()]
    # A slot without pixels stands for "no partner".
    slots += [torch.zeros_like(objects[0])] * len(objects)

    def total(chosen: tuple[Tensor, ...]) -> float:
        return sum(float((s & o).sum() / (s | o).sum()) for s, o in zip(chosen, objects, strict=True))

    return max(total(chosen) for chosen in permutations(slots, len(objects))) / len(objects)


def test_contingency_table_counts_every_pair_of_labels():
    predicted = torch.tensor([[[0, 0, 2]], [[1, 1, 1]]])
    target = torch.tensor([[[0, 1, 1]], [[1, 1, 0]]])
    expected = torch.tensor([[[1, 1], [0, 0], [0, 1]], [[0, 0], [1, 2], [0, 0]]])
    assert torch.equal(contingency_table(predicted, target), expected)
    with_empty_slot = contingency_table(predicted, target, num_predicted=4)
    assert with_empty_slot.shape == (2, 4, 2)
    assert torch.equal(with_empty_slot[:, :3], expected)
    assert not with_empty_slot[:, 3].any()


@pytest.mark.parametrize(("num_slots", "num_objects"), [(3, 3), (4, 2), (2, 4), (1, 3), (3, 1)])
def test_mean_iou_equals_brute_force(num_slots, num_objects):
    target = random_labels(5, num_objects, seed=1)
    predicted = noisy_copy(target, num_objects, seed=2).clamp(max=num_slots - 1)
    predicted[2:] = random_labels(3, num_slots, seed=3)
    expected = torch.tensor([brute_force_iou(p, t) for p, t in zip(predicted, target, strict=True)])
    torch.testing.assert_close(mean_iou(predicted, target), expected.double(), rtol=1e-6, atol=0)


def test_mean_iou_of_a_hand_computed_scene():
    predicted = label_map([0, 0, 0, 2], [0, 0, 2, 2])
    target = label_map([0, 0, 0, 0], [0, 1, 1, 1])
    # slot 0 and the background: 4 / 6; slot 2 and object 1: 2 / 4.
    torch.testing.assert_close(mean_iou(predicted, target), torch.tensor([(4 / 6 + 2 / 4) / 2], dtype=torch.float64))
    # Exchanging the arguments changes no IoU, but the mean runs over the labels of the second.
    whole = torch.zeros_like(target)
    torch.testing.assert_close(mean_iou(target, predicted), mean_iou(predicted, target))
    assert mean_iou(predicted, whole).item() == 5 / 8
    assert mean_iou(whole, predicted).item() == 5 / 8 / 2


def test_matching_maximises_the_sum_and_not_each_match_in_turn():
    predicted = label_map([0] * 10 + [1] * 3)
    target = label_map([0] * 6 + [1] * 4 + [0] * 3)
    # slot 0: 6/13 with object 0 and 4/10 with object 1; slot 1: 3/9 with object 0. Greedy takes 6/13 + 0.
    torch.testing.assert_close(mean_iou(predicted, target), torch.tensor([(4 / 10 + 3 / 9) / 2], dtype=torch.float64))


def test_mean_iou_does_not_depend_on_label_names():
    target = random_labels(4, 3, seed=4)
    predicted = noisy_copy(target, 3, seed=5)
    renamed = torch.tensor([7, 0, 4])[predicted]  # with empty slots 1, 2, 3, 5 and 6
    score = mean_iou(predicted, target)
    assert (score < 0.9).all()
    torch.testing.assert_close(mean_iou(renamed, target), score, rtol=1e-12, atol=0)
    torch.testing.assert_close(mean_iou(predicted, torch.tensor([2, 5, 1])[target]), score, rtol=1e-12, atol=0)


def test_a_missed_object_counts_zero():
    predicted = label_map([0, 0, 0, 0, 0, 0])
    target = label_map([0, 0, 0, 1, 1, 2])
    torch.testing.assert_close(mean_iou(predicted, target), torch.tensor([3 / 6 / 3], dtype=torch.float64))


def test_surplus_slots_cost_only_the_pixels_they_take():
    predicted = label_map([0, 0, 0, 1, 2, 3])
    target = label_map([0, 0, 0, 0, 0, 1])
    # Background best with slot 0, 3 / 5; object 1 with slot 3, 1 / 1; slots 1 and 2 stay unmatched.
    torch.testing.assert_close(mean_iou(predicted, target), torch.tensor([(3 / 5 + 1) / 2], dtype=torch.float64))


def test_scenes_do_not_leak_into_each_other():
    # The second scene lacks label 2 of the first, and the first lacks slot 3 of the second.
    predicted = torch.tensor([[[0, 1, 1, 2]], [[3, 3, 3, 0]]])
    target = torch.tensor([[[0, 1, 1, 2]], [[0, 0, 1, 1]]])
    expected = torch.tensor([1.0, (2 / 3 + 1 / 2) / 2], dtype=torch.float64)
    torch.testing.assert_close(mean_iou(predicted, target), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_perfect_segmentations_score_one_in_every_integer_type(dtype):
    # 20 x 20 labels in 3 scenes overflow an index computed in uint8.
    target = torch.stack([random_labels(1, 20, seed)[0] for seed in range(3)]).to(dtype)
    predicted = 19 - target
    for score in (
        mean_iou(predicted, target),
        adjusted_rand_index(predicted, target),
        adjusted_rand_index(predicted, target, foreground_only=True),
    ):
        assert score.dtype == torch.float64
        assert torch.equal(score, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("foreground_only", [False, True])
@pytest.mark.parametrize(("num_slots", "num_objects"), [(2, 2), (3, 4), (6, 3), (1, 3), (4, 1), (40, 40)])
def test_adjusted_rand_index_equals_scikit_learn(num_slots, num_objects, foreground_only):
    target = random_labels(30, num_objects, seed=6)
    if num_objects == 1:
        target = target + 1  # a single object, all of it foreground
    predicted = torch.cat(
        [noisy_copy(target[:15], num_objects, seed=7) % num_slots, random_labels(15, num_slots, seed=8)]
    )
    expected = []
    for slots, objects in zip(predicted, target, strict=True):
        keep = objects > 0 if foreground_only else torch.ones_like(objects, dtype=torch.bool)
        expected.append(adjusted_rand_score(objects[keep].tolist(), slots[keep].tolist()))
    actual = adjusted_rand_index(predicted, target, foreground_only=foreground_only)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_adjusted_rand_index_of_a_hand_computed_scene():
    predicted = label_map([0, 0, 1, 1, 1, 2])
    target = label_map([0, 0, 0, 1, 1, 1])
    # Of 15 pairs, 2 together in both, 4 in predicted, 6 in target; 24 / 15 expected.
    full = (2 - 24 / 15) / (5 - 24 / 15)
    # Foreground, last three pixels: of 3 pairs, 1 together in both, 1 in predicted, 3 in target; 1 expected.
    torch.testing.assert_close(adjusted_rand_index(predicted, target), torch.tensor([full], dtype=torch.float64))
    assert adjusted_rand_index(predicted, target, foreground_only=True).item() == 0
    # With the background in the other argument the foreground is another set of pixels: only 1, 1, 1, 2.
    swapped = adjusted_rand_index(target, predicted, foreground_only=True)
    # Of 6 pairs, 1 together in both, 3 in each; 9 / 6 expected.
    torch.testing.assert_close(swapped, torch.tensor([(1 - 1.5) / (3 - 1.5)], dtype=torch.float64))


def test_adjusted_rand_index_does_not_depend_on_label_names():
    target = random_labels(4, 3, seed=9)
    predicted = noisy_copy(target, 3, seed=10)
    renamed = torch.tensor([5, 0, 2])[predicted]
    for foreground_only in (False, True):
        score = adjusted_rand_index(predicted, target, foreground_only)
        assert ((score > 0.05) & (score < 0.95)).all()
        assert torch.equal(adjusted_rand_index(renamed, target, foreground_only), score)


def test_adjusted_rand_index_of_one_object():
    whole = torch.full((1, 3, 3), 2)
    split = label_map([0, 0, 0], [0, 1, 1], [1, 1, 1])
    for foreground_only in (False, True):
        assert adjusted_rand_index(whole, whole, foreground_only).item() == 1
        assert adjusted_rand_index(split, whole, foreground_only).item() == 0
    assert adjusted_rand_index(whole, split).item() == 0
    # A single foreground pixel is clustered correctly in any case.
    assert adjusted_rand_index(whole, label_map([0, 0, 1]).expand(1, 3, 3), True).item() == 1


def test_foreground_index_is_nan_only_in_scenes_without_foreground():
    target = torch.zeros(3, 4, 4, dtype=torch.int64)
    target[1, :, 2:] = 1
    predicted = target.clone()
    score = adjusted_rand_index(predicted, target, foreground_only=True)
    assert score.isnan().tolist() == [True, False, True]
    assert score.nanmean().item() == 1
    # No scene of the batch has any foreground at all.
    assert adjusted_rand_index(predicted[:1], target[:1], foreground_only=True).isnan().all()
    assert adjusted_rand_index(predicted[:1], target[:1]).item() == 1


def test_adjusted_rand_index_is_exact_for_large_images():
    """300 x 300 pixels make products of pairs beyond 2^63, and a · b / b ≠ a in float64."""
    whole = torch.ones(1, 300, 300, dtype=torch.int64)
    chipped = whole.clone()
    chipped[0, 0, :3] = 0
    assert adjusted_rand_index(whole, whole).item() == 1
    assert adjusted_rand_index(chipped, chipped).item() == 1
    assert adjusted_rand_index(chipped, whole).item() == 0
    halves = whole.clone()
    halves[:, :120] = 0
    near = halves.clone()
    near[:, :122] = 0
    expected = adjusted_rand_score(halves.flatten().tolist(), near.flatten().tolist())
    assert 0.9 < expected < 1
    assert adjusted_rand_index(near, halves).item() == pytest.approx(expected, rel=1e-10)


def test_mean_squared_error_averages_channels_and_pixels_of_each_scene():
    image = torch.zeros(2, 3, 2, 4)
    reconstruction = image.clone()
    reconstruction[0, 1, 0, 0] = 0.6
    reconstruction[1] = -0.5
    error = mean_squared_error(reconstruction, image)
    torch.testing.assert_close(error, torch.tensor([0.36 / 24, 0.25], dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("score", [mean_iou, adjusted_rand_index])
def test_label_maps_are_checked_at_the_door(score):
    labels = torch.zeros(8, 6, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^predicted: expected integer labels \(B, H, W\), got \(8, 64\) float32$"):
        score(torch.zeros(8, 64), labels)
    with pytest.raises(ValueError, match=r"^target: expected integer labels \(B, H, W\), got \(8, 6, 5\) float64$"):
        score(labels, labels.double())
    with pytest.raises(ValueError, match=r"^target: expected integer labels .* got \(8, 6, 5\) bool$"):
        score(labels, labels.bool())
    with pytest.raises(ValueError, match=r"^predicted: expected integer labels .* got \(6, 5\) int64$"):
        score(labels[0], labels[0])
    with pytest.raises(ValueError, match=r"^target: expected the shape of predicted, \(8, 6, 5\), got \(8, 5, 6\)$"):
        score(labels, labels.mT)
    with pytest.raises(ValueError, match=r"^target: expected the shape of predicted, .* got \(1, 6, 5\)$"):
        score(labels, labels[:1])  # would broadcast
    with pytest.raises(ValueError, match=r"^target: expected labels of zero or above, got -2$"):
        score(labels, labels - 2)
    with pytest.raises(ValueError, match=r"^predicted: expected at least one scene .* got \(0, 6, 5\)$"):
        score(labels[:0], labels[:0])


def test_contingency_table_refuses_labels_beyond_its_rows():
    labels = label_map([0, 3])
    with pytest.raises(ValueError, match=r"^predicted: expected labels below 3, got 3$"):
        contingency_table(labels, labels, num_predicted=3)


def test_images_are_checked_at_the_door():
    image = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"^image: expected floating-point colours .* got \(2, 3, 4, 4\) uint8$"):
        mean_squared_error(image, image.byte())
    with pytest.raises(ValueError, match=r"^reconstruction: .* \(B, 3, H, W\), got \(2, 4, 4, 3\) float32$"):
        mean_squared_error(image.movedim(1, -1), image)
    with pytest.raises(ValueError, match=r"^reconstruction: .* \(B, 3, H, W\), got \(3, 4, 4\) float32$"):
        mean_squared_error(image[0], image)
    with pytest.raises(ValueError, match=r"^image: .* reconstruction, \(2, 3, 4, 4\), got \(1, 3, 4, 4\)$"):
        mean_squared_error(image, image[:1])


@needs_published_images
def test_figures_of_efficientmorl_on_its_published_output() -> None:
    """All ten images are segmented perfectly, and the squared errors lie in the published range."""
    published = {name: torch.from_numpy(array) for name, array in np.load(TETROMINOES).items()}
    truth, labels = published["label"].long(), published["emorl_label"].long()
    assert torch.equal(adjusted_rand_index(labels, truth, foreground_only=True), torch.ones(10).double())
    image = published["image"].movedim(-1, 1).double() / 255
    errors = mean_squared_error(published["emorl_reconstruction"].movedim(-1, 1).double(), image)
    assert float(errors.min()) == pytest.approx(1.8e-5, abs=0.05e-5)
    assert float(errors.max()) == pytest.approx(9.2e-5, abs=0.05e-5)

import math

import pytest
import torch
from torch import Tensor

from pyro_compvae.analysis import DuplicateScore, active_slots, duplicate_score


def strips(*widths: int, height: int = 10) -> Tensor:
    """One scene (1, H, W) of upright strips: label k on the k-th width."""
    row = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths))
    return row.expand(1, height, -1).clone()


def directions(*degrees: float) -> Tensor:
    """Latents (1, K, 2) at these angles, of different lengths, so that only the angle can matter."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    lengths = torch.arange(1, len(degrees) + 1, dtype=torch.float64)
    return (lengths[:, None] * torch.stack([angles.cos(), angles.sin()], dim=-1))[None]


def pixels(*counts: int) -> Tensor:
    """One scene of a single row of pixels, (1, 1, W)."""
    return strips(*counts, height=1)


def test_active_slots_hold_at_least_the_fraction():
    predicted = torch.cat([pixels(98, 1, 0, 1), pixels(0, 0, 100, 0)])
    expected = torch.tensor([[True, True, False, True, False], [False, False, True, False, False]])
    assert torch.equal(active_slots(predicted, num_slots=5), expected)
    # One pixel of 101 is less than 1 %.
    assert active_slots(pixels(100, 1), num_slots=2).tolist() == [[True, False]]


@pytest.mark.parametrize("percent", [1, 7, 14, 28, 29, 57, 58])
def test_the_fraction_is_inclusive_despite_rounding(percent):
    """0.07 * 100 > 7 in floating point: the threshold must compare fractions."""
    assert active_slots(pixels(100 - percent, percent), 2, min_fraction=percent / 100)[0, 1]
    assert not active_slots(pixels(101 - percent, percent - 1), 2, min_fraction=percent / 100)[0, 1]


def test_active_slots_accepts_narrow_integers():
    predicted = pixels(2, 3, 4)
    assert torch.equal(active_slots(predicted.byte(), 4), active_slots(predicted, 4))


def test_latent_pairs_are_counted_once_above_the_cosine():
    predicted = strips(5, 5, 5, 5)
    target = strips(5, 5, 5, 5)
    # Neighbours at 20° (cosine 0.94) and 30° (0.87); 50° and more elsewhere.
    score = duplicate_score(directions(0, 20, 50, 180), predicted, target)
    assert isinstance(score, DuplicateScore)
    assert score.latent.tolist() == [1]
    assert score.claimed.tolist() == [0]
    # All three pairs point in one direction; the opposite direction is no duplicate (cosine -1).
    assert duplicate_score(directions(0, 1, 2, 180), predicted, target).latent.tolist() == [3]


@pytest.mark.parametrize(("margin", "expected"), [(-1e-6, 1), (1e-6, 0)])
def test_the_threshold_on_the_cosine(margin, expected):
    score = duplicate_score(directions(10, 50), strips(5, 5), strips(5, 5), math.cos(math.radians(40)) + margin)
    assert score.latent.tolist() == [expected]


def test_claimed_pairs_share_the_label_of_most_of_their_pixels():
    predicted = strips(4, 6, 5, 5)
    #        slot 0: object 1; slot 1: 2 of 1, 4 of 2; slot 2: 3 of 2, 2 of 3; slot 3: 3
    target = strips(0, 6, 7, 7)
    score = duplicate_score(directions(0, 90, 180, 270), predicted, target)
    assert score.claimed.tolist() == [1]  # slots 1 and 2 share object 2
    assert score.latent.tolist() == [0]


def test_in_a_tie_a_slot_claims_the_lowest_label():
    # Slot 0 holds 3 pixels of each label, slot 1 four of label 1 only: no duplicate. Mirrored, there is one.
    z = directions(0, 90)
    assert duplicate_score(z, pixels(6, 4), pixels(3, 7)).claimed.tolist() == [0]
    assert duplicate_score(z, pixels(6, 4), 1 - pixels(3, 7)).claimed.tolist() == [1]


def test_a_split_background_and_a_split_object_are_duplicates():
    z = directions(0, 60, 120, 180, 240)
    background = torch.zeros(1, 10, 10, dtype=torch.int64)
    assert duplicate_score(z, strips(2, 2, 2, 2, 2), background).claimed.tolist() == [10]
    # Slots 0-2 split the background (3 pairs), slots 3 and 4 split object 1 (1 pair).
    assert duplicate_score(z, strips(2, 2, 2, 2, 2), strips(6, 4)).claimed.tolist() == [4]


def test_inactive_slots_are_not_counted():
    z = directions(0, 0, 0, 0)
    # Slot 2 holds one pixel of 300, slot 3 none. All latents are parallel, and slots 1 and 2 claim object 1.
    predicted = pixels(100, 199, 1, 0)
    target = pixels(100, 200)
    score = duplicate_score(z, predicted, target)
    assert (score.latent.tolist(), score.claimed.tolist()) == ([1], [0])
    generous = duplicate_score(z, predicted, target, min_fraction=1 / 300)
    assert (generous.latent.tolist(), generous.claimed.tolist()) == ([3], [1])


def test_one_active_slot_has_no_duplicate():
    score = duplicate_score(directions(0, 0, 0), strips(10), strips(10))
    assert (score.latent.tolist(), score.claimed.tolist()) == ([0], [0])


def test_scores_are_per_scene():
    z = torch.cat([directions(0, 90, 5), directions(0, 90, 180)])
    predicted = strips(3, 3, 4).expand(2, -1, -1)
    target = torch.cat([strips(3, 3, 4), strips(6, 4)])
    score = duplicate_score(z, predicted, target)
    assert (score.latent.tolist(), score.claimed.tolist()) == ([1, 0], [0, 1])


def test_the_order_of_the_slots_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, 6, 2, generator=generator)
    predicted = torch.randint(6, (4, 8, 8), generator=generator)
    target = torch.randint(3, (4, 8, 8), generator=generator)
    order = torch.randperm(6, generator=generator)
    score = duplicate_score(z, predicted, target)
    assert (score.latent > 0).all()
    assert (score.claimed > 0).all()
    # Slot k of the reordered scene is slot order[k] of the first, hence the inverse for the labels.
    reordered = duplicate_score(z[:, order], order.argsort()[predicted], target)
    assert torch.equal(reordered.latent, score.latent)
    assert torch.equal(reordered.claimed, score.claimed)


def test_arguments_are_checked_at_the_door():
    z, labels = directions(0, 90, 180), strips(5, 5, 5)
    with pytest.raises(ValueError, match=r"^z: expected latents \(B, K, D\) with B = 1, got \(3, 2\)$"):
        duplicate_score(z[0], labels, labels)
    with pytest.raises(ValueError, match=r"^z: expected latents \(B, K, D\) with B = 1, got \(1, 3\)$"):
        duplicate_score(z[..., 0], labels, labels)
    with pytest.raises(ValueError, match=r"^z: expected latents \(B, K, D\) with B = 1, got \(2, 3, 2\)$"):
        duplicate_score(z.expand(2, -1, -1), labels, labels)
    with pytest.raises(ValueError, match=r"^predicted: expected labels below num_slots = 2, got 2$"):
        duplicate_score(z[:, :2], labels, labels)
    with pytest.raises(ValueError, match=r"^target: expected the shape of predicted, \(1, 10, 15\), got \(1, 10, 9\)$"):
        duplicate_score(z, labels, labels[:, :, :9])
    with pytest.raises(ValueError, match=r"^predicted: expected integer labels \(B, H, W\), got .* float32$"):
        active_slots(labels.float(), 3)
    for min_fraction in (0, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"^min_fraction: expected a share of the pixels in \(0, 1\], got "):
            active_slots(labels, 3, min_fraction=min_fraction)

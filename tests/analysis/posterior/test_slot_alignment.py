"""The alignment of draws to one order of the slots, against brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis.posterior.slot_alignment import align_slots, match_slots
from pyro_compvae.permutation import all_permutations


def shuffled(z: Tensor) -> Tensor:
    """The slots of every draw in a random order."""
    order = torch.rand(z.shape[:-1]).argsort(-1)
    return z.gather(-2, order.unsqueeze(-1).expand_as(z))


def test_matching_is_the_best_of_all_permutations() -> None:
    L, B, K, D = 6, 2, 4, 3
    z, slots = torch.randn(L, B, K, D), Normal(torch.randn(B, K, D), torch.rand(B, K, D) + 0.2)
    order = match_slots(z, slots)

    def score(chosen: Tensor) -> Tensor:
        return slots.log_prob(z.gather(-2, chosen.unsqueeze(-1).expand_as(z))).sum((-2, -1))

    everything = torch.stack([score(p.expand(L, B, K)) for p in all_permutations(K)])
    torch.testing.assert_close(score(order), everything.amax(0))


def test_shuffled_slots_are_put_back_even_from_a_poor_start() -> None:
    loc = torch.tensor([[-3.0, 0.0], [0.0, 3.0], [3.0, 0.0]]).expand(2, 3, 2)
    z = loc + 0.5 * torch.randn(200, 2, 3, 2)
    start = Normal(0.2 * loc + 0.3, torch.ones(2, 3, 2))
    aligned, order = align_slots(shuffled(z), start)
    torch.testing.assert_close(aligned, z)
    assert order.shape == (200, 2, 3)
    torch.testing.assert_close(order.sort(-1).values, torch.arange(3).expand(200, 2, 3))


def test_overlapping_slots_end_where_no_draw_gains_by_another_order() -> None:
    z = torch.randn(300, 1, 3, 2) + torch.tensor([[0.0], [0.3], [0.6]])
    aligned, _ = align_slots(z, Normal(torch.randn(1, 3, 2), torch.ones(1, 3, 2)))
    slots = Normal(aligned.mean(0), aligned.std(0, correction=0))
    again = match_slots(aligned, slots)
    assert bool((again == torch.arange(3)).all())


def test_draws_that_are_all_the_same_have_an_order() -> None:
    z = torch.tensor([[1.0], [2.0]]).expand(5, 1, 2, 1)
    aligned, order = align_slots(z, Normal(torch.tensor([[[2.0], [1.0]]]), torch.ones(1, 2, 1)))
    torch.testing.assert_close(aligned[:, 0, :, 0], torch.tensor([2.0, 1.0]).expand(5, 2))
    assert order.tolist() == [[[1, 0]]] * 5


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"z: expected draws .* of start, \(1, 2, 1\), got \(5, 1, 3, 1\)"):
        align_slots(torch.zeros(5, 1, 3, 1), Normal(torch.zeros(1, 2, 1), 1.0))

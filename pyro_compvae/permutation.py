"""Permutations of exchangeable slots."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations, permutations

import torch
from torch import Tensor

from pyro_compvae.errors import ArgumentError

MAX_SLOTS = 16
"""The largest K that `log_permanent` takes, since its cost is K 2^(K-1) per matrix."""

ZERO = -1e30
"""The number that stands for log 0. A sum of K of them still fits into float32, and no sum of log densities comes
near."""


def log_permanent(log_matrix: Tensor) -> Tensor:
    r"""log perm(A) = log Σ_π Π_j A_{j π(j)} of matrices given by their logarithms.

    Dynamic programming over sets of columns (Bellman 1962; Held & Karp 1962): after j rows, F_j(S) is the sum over all
    ways to match them with the columns S, |S| = j,

        F_j(S) = Σ_{k ∈ S} F_{j-1}(S \ {k}) A_jk,      perm(A) = F_K({1..K})

    in log space. Every term is positive, so nothing cancels, unlike in Ryser's formula. The result is exact and
    differentiable, batches are allowed, and the cost is O(K 2^K) for each matrix.

    Args:
        log_matrix: (..., K, K), the logarithms of entries >= 0; -inf is an entry of 0.

    Returns:
        (...).

    Raises:
        ValueError: unless the matrices are square and K is from 1 to 16.

    >>> A = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> float(log_permanent(A.log()).exp())  # 1 · 4 + 2 · 3
    10.0
    >>> log_permanent(torch.zeros(7, 7)).exp().round()  # of ones, K!
    tensor(5040.)
    """
    if log_matrix.dim() < 2 or log_matrix.shape[-1] != log_matrix.shape[-2]:
        raise ArgumentError(f"log_matrix: expected square matrices (..., K, K), got {tuple(log_matrix.shape)}")
    K = log_matrix.shape[-1]
    check_num_slots(K)
    # The largest entry of each row is taken out, so that products of K entries stay within the range of float32.
    largest = log_matrix.detach().amax(-1, keepdim=True)
    largest = torch.where(largest.isfinite(), largest, 0)
    # Meanwhile an entry of zero has a finite logarithm, since the gradient of logsumexp over nothing but -inf is NaN.
    rows = (log_matrix - largest).clamp(min=ZERO).unbind(-2)
    sums = rows[0]
    for size in range(2, K + 1):
        columns, predecessors = _subsets(K, size, log_matrix.device)
        sums = torch.logsumexp(sums[..., predecessors] + rows[size - 1][..., columns], dim=-1)
    sums = sums.squeeze(-1)
    return torch.where(sums < ZERO / 2, -torch.inf, sums + largest.sum((-2, -1)))  # NaN stays NaN


def check_num_slots(num_slots: int) -> None:
    """Refuse more slots than `log_permanent` takes, in words that help in whatever needs it.

    Raises:
        ArgumentError: unless the number is from 1 to 16.
    """
    if not 1 <= num_slots <= MAX_SLOTS:
        raise ArgumentError(
            f"num_slots: expected 1 to {MAX_SLOTS} slots, all orders of which can be summed exactly, got {num_slots}. "
            f"No weight depends on K: load the run with fewer slots, load_run(..., num_slots={MAX_SLOTS}), or train "
            f"one with --set num_slots={MAX_SLOTS}. In Python, symmetrise=False does without the sum, and may be up to "
            "log K! nats too low"
        )


@lru_cache(maxsize=128)
def _subsets(num_columns: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For every set of `size` columns: its members, and the index of the smaller set that is left without each of them.

    Both are of shape (number of sets, size), in lexicographic order.
    """
    smaller = {subset: index for index, subset in enumerate(combinations(range(num_columns), size - 1))}
    subsets = list(combinations(range(num_columns), size))
    predecessors = [[smaller[subset[:i] + subset[i + 1 :]] for i in range(size)] for subset in subsets]
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        return torch.tensor(subsets, device=device), torch.tensor(predecessors, device=device)


@lru_cache(maxsize=32)
def all_permutations(num_slots: int, device: torch.device | None = None) -> Tensor:
    """The K! permutations of K slots, (K!, K), the identity first. All callers share the tensor: do not write to it."""
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        return torch.tensor(list(permutations(range(num_slots))), device=device)

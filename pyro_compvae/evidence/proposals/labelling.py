"""Orders of the slots, drawn with the probabilities that a proposal gives them."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_compvae.errors import ArgumentError
from pyro_compvae.evidence.proposals.symmetric import MAX_PERMUTED_SLOTS, FactorisedProposal, Proposal
from pyro_compvae.permutation import all_permutations, log_permanent

PERMUTATIONS_AT_ONCE = 512
"""How many permutations of a scene are held at a time, to bound the memory."""


def labelled(proposal: Proposal, z: Tensor, num_draws: int) -> Tensor:
    """Put the slots of every scene in an order π with probability q(z_π) / Σ_π' q(z_π').

    It turns a draw from a symmetric density p(z) into a draw from p(z) q(z) / q̄(z).

    Args:
        proposal: the proposal q; with more than 8 slots it must factorise over them.
        z: the slots, (B, K, D).
        num_draws: L, the number of orders for every scene.

    Returns:
        The slots in these orders, (L, B, K, D).

    Raises:
        ValueError: for more than 8 slots that depend on one another.
    """
    K = z.shape[-2]
    z = z.expand(num_draws, *z.shape)
    if isinstance(proposal, FactorisedProposal):
        columns = [proposal.slots.log_prob(z[..., k, :].unsqueeze(-2).expand_as(z)) for k in range(K)]
        order = draw_matching(torch.stack(columns, dim=-1))
    else:
        if K > MAX_PERMUTED_SLOTS:
            raise ArgumentError(f"z: expected at most {MAX_PERMUTED_SLOTS} slots that depend on one another, got {K}")
        permutations = all_permutations(K, z.device)
        parts = permutations.split(PERMUTATIONS_AT_ONCE)
        log_q = torch.cat([proposal.log_prob(z[0][:, some].transpose(0, 1)) for some in parts])  # (K!, B)
        drawn = torch.multinomial(log_q.T.softmax(-1), num_draws, replacement=True).T  # (L, B)
        order = permutations[drawn]
    return z.gather(-2, order.unsqueeze(-1).expand_as(z))


def draw_matching(log_matrix: Tensor) -> Tensor:
    """Draw permutations with probability Π_j A_jπ(j) / perm(A).

    It proceeds row by row: the gradient of log perm(A) with respect to log A_jk is the probability that π(j) = k.

    Args:
        log_matrix: log A, (..., K, K).

    Returns:
        π, (..., K).
    """
    rows = list(log_matrix.detach().unbind(-2))
    for j in range(len(rows)):
        with torch.enable_grad():
            leaf = torch.stack(rows, dim=-2).requires_grad_()
            (probability,) = torch.autograd.grad(log_permanent(leaf).sum(), leaf)
        row = probability[..., j, :]
        k = torch.multinomial(row.flatten(0, -2), 1).reshape(*row.shape[:-1], 1)
        # This row is settled from now on.
        rows[j] = torch.full_like(row, -torch.inf).scatter(-1, k, 0.0)
    return torch.stack(rows, dim=-2).argmax(-1)

"""Whether the slots of a model are exchangeable, as q̄ supposes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_compvae.evidence.independence import agree
from pyro_compvae.evidence.trace import TraceError


def check_exchangeable(log_joint: Callable[[Tensor], Tensor], z: Tensor, share: float) -> None:
    """Refuse a log joint that changes if slots change places.

    The mean weight p(x, z) / q̄(z) of draws from q is p(x) only if p(x, z) does not change under permutations. Each
    scene's slots are put into another order, which costs the evaluation of two draws.

    Args:
        log_joint: the log joint, (L, B) in nats for z (L, B, K, D).
        z: a draw for every scene, (1, B, K, D).
        share: how far evaluations may differ by rounding, as a share of their values.

    Raises:
        TraceError: if it changes.
    """
    if z.shape[-2] == 1:
        return
    order = shuffles(*z.shape[1:3]).to(z.device)
    # One after the other, as there may be room for no more.
    first, second = log_joint(z)[0], log_joint(z.gather(-2, order[None, ..., None].expand_as(z)))[0]
    if not agree(second, first, share):
        scene = int((second - first).abs().nan_to_num(0).argmax())
        raise TraceError(
            f"model: expected exchangeable slots, got log p(x, z) = {float(first[scene]):.6g} for a draw and "
            f"{float(second[scene]):.6g} with its slots in the order {order[scene].tolist()} (scene {scene}); pass "
            "symmetrise=False"
        )


def shuffles(num_scenes: int, num_slots: int) -> Tensor:
    """An order of the slots for every scene, (B, K), always the same ones and never the given order."""
    order = torch.rand(num_scenes, num_slots, generator=torch.Generator().manual_seed(0), device="cpu").argsort(1)
    same = (order == torch.arange(num_slots, device="cpu")).all(1, keepdim=True)
    return torch.where(same, order.roll(1, 1), order)

"""Compiled networks, where torch can compile."""

from __future__ import annotations

import torch

from pyro_compvae.errors import CompvaeError
from pyro_compvae.guide import SceneGuide


class CompilationError(CompvaeError, RuntimeError):
    """torch.compile does not work here: no C++ compiler, or no Triton."""


def compile_networks(guide: SceneGuide, device: torch.device) -> None:
    """Have `torch.compile` fuse what lies between the products of the decoder and of the guide's networks.

    In place: weights and their names stay as they are.

    Raises:
        CompilationError: if nothing can be compiled; the networks are as before.
    """
    try:
        torch.compile(torch.square)(torch.ones(2, device=device))
    except Exception as error:  # torch names no common one: compilers fail in many ways
        raise CompilationError(str(error).strip().partition("\n")[0]) from error
    from torch._dynamo import config as dynamo_config  # takes seconds, of which other runs are spared

    # Splits graphs where DDP sends gradients, which some versions cannot do beside activation checkpoints.
    dynamo_config.optimize_ddp = False
    for network in (guide.model.decoder, *guide.children()):
        if network is not guide.model:
            network.compile()

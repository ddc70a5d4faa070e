"""Compilation of networks, on machines where torch can compile."""

from __future__ import annotations

import torch

from pyro_compvae.errors import CompvaeError
from pyro_compvae.guide import SceneGuide


class CompilationError(CompvaeError, RuntimeError):
    """torch.compile does not work on this machine, for lack of a C++ compiler or of Triton."""


def compile_networks(guide: SceneGuide, device: torch.device) -> None:
    """Have `torch.compile` fuse what lies between the products of the decoder and of the guide's networks.

    Networks are compiled in place: weights and their names stay as they are.

    Raises:
        CompilationError: if nothing can be compiled; the networks stay as they were.
    """
    try:
        torch.compile(torch.square)(torch.ones(2, device=device))
    except Exception as error:  # compilers fail in many ways, and torch has no common error for them
        raise CompilationError(str(error).strip().partition("\n")[0]) from error
    from torch._dynamo import config as dynamo_config  # takes seconds, so only runs that compile import it

    # This option splits graphs where DDP sends gradients, which fails beside activation checkpoints in some versions.
    dynamo_config.optimize_ddp = False
    for network in (guide.model.decoder, *guide.children()):
        if network is not guide.model:
            network.compile()

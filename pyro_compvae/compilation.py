"""Compiled networks, where torch can compile."""

from __future__ import annotations

import sys

import torch

from pyro_compvae.guide import SceneGuide


def compile_networks(guide: SceneGuide, device: torch.device) -> None:
    """Have `torch.compile` fuse what lies between the products of the decoder and of the guide's networks.

    In place: weights and their names stay as they are. Where nothing can be compiled (no C++ compiler, no Triton), the
    networks stay as they are, and one line says so.
    """
    try:
        torch.compile(torch.square)(torch.ones(2, device=device))
    except Exception as error:  # torch names no common one: compilers fail in many ways
        reason = str(error).strip().partition("\n")[0]
        print(f"--compile: networks stay as they are, torch.compile does not work here ({reason})", file=sys.stderr)
        return
    for network in (guide.model.decoder, *guide.children()):
        if network is not guide.model:
            network.compile()

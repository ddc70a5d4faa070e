"""Gradients of one minibatch that workers share, under ``torchrun`` or in one process: ``joint_gradients.py FILE``."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any, get_args
from unittest.mock import patch

import pyro
import torch
from torch import Tensor

from pyro_compvae.data import load_scenes
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.training.distributed import Workers, start_workers
from pyro_compvae.training.elbo import SceneElbo


def joint_gradients(workers: Workers) -> dict[str, dict[str, Tensor]]:
    """The gradients by guide and parameter, and λ of GECO after a step; every scene gets the same noise, whatever the
    number of workers."""
    return {guide: gradients_of(guide, workers) for guide in get_args(GuideName)}


def gradients_of(guide_name: GuideName, workers: Workers) -> dict[str, Tensor]:
    """Every worker begins with different weights, and must receive those of the first."""
    config = preset("tiny", guide_name).replace({"training.geco_target": 1.0})
    torch.manual_seed(workers.rank)
    guide = build_guide(config).train()
    elbo = workers.replicate(SceneElbo()(guide.model, guide), torch.device("cpu"))
    batch = workers.share(torch.arange(4))
    scenes = load_scenes(config.data, "train", multi_view=guide_name == "mulmon")
    calls = itertools.count()

    def noise(shape: Sequence[int], *_: Any, **__: Any) -> Tensor:
        generator = torch.Generator().manual_seed(next(calls))
        return workers.share(torch.randn(4, *shape[1:], generator=generator))

    torch.manual_seed(1)  # random numbers that all scenes share, such as the number of observed views
    with (
        patch("torch.randn_like", lambda like: noise(like.shape)),
        patch("torch.distributions.normal._standard_normal", noise),
        pyro.get_param_store().scope(),
    ):
        loss = elbo(*guide.arguments(scenes[batch])) / len(batch)
    loss.backward()
    assert guide.geco is not None
    guide.geco.update(workers.mean)
    gradients = {name: p.grad.clone() for name, p in guide.named_parameters() if p.grad is not None}
    return gradients | {"geco.log_multiplier": guide.geco.log_multiplier}


if __name__ == "__main__":
    workers = start_workers(torch.device("cpu"))
    gradients = joint_gradients(workers)
    if workers.is_first:
        torch.save(gradients, sys.argv[1])

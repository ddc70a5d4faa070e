"""The training loss against Pyro's own."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from helpers.gradients import assert_same_loss_and_gradients
from pyro.infer import TraceMeanField_ELBO

from pyro_compvae.data import load_scenes
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.training.elbo import SceneElbo


@pytest.mark.parametrize("guide_name", get_args(GuideName))
@pytest.mark.parametrize("lnms", [False, True])
def test_it_is_pyros(guide_name: GuideName, lnms: bool) -> None:
    config = preset("tiny", guide_name).replace({"lnms": lnms})
    if config.refinement is not None:
        config = config.replace({"refinement.num_iterations": 3})  # so that the recurrent weights have an effect
    guide = build_guide(config).double().train()
    guide.lnms_strength = float(lnms)
    guide.kl_weight = 0.7
    scene = load_scenes(config.data, "train", multi_view=guide_name == "mulmon")[:3]
    arguments = [argument.double() for argument in guide.arguments(scene)]
    losses = []
    for elbo in (SceneElbo(), TraceMeanField_ELBO()):
        torch.manual_seed(0)
        losses.append(elbo(guide.model, guide)(*arguments))
    assert_same_loss_and_gradients(*losses, guide)

"""The forms of L-NMS in the objectives of all guides."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from pyro_compvae.guides import build_guide
from pyro_compvae.lnms import LnmsForm
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.training.elbo import SceneElbo


def loss(name: GuideName, form: LnmsForm, strength: float) -> Tensor:
    torch.manual_seed(0)
    changes = {"lnms_prior.form": form, "lnms_prior.strength": strength}
    guide = build_guide(preset("tiny", name).replace(changes)).double().train()
    size = guide.model.image_size
    several = (torch.rand(2, 3, 3, *size).double(), torch.randn(2, 3, 3).double())
    arguments = several if name == "mulmon" else (several[0][:, 0],)
    torch.manual_seed(1)
    return SceneElbo()(guide.model, guide)(*arguments)


@pytest.mark.filterwarnings("ignore:.* was not registered in the param store")
@pytest.mark.parametrize("name", get_args(GuideName))
def test_configurations_decide_the_form_in_the_objective(name: GuideName) -> None:
    K = preset("tiny", name).num_slots
    torch.testing.assert_close(loss(name, "mean", 0.3 * K * (K - 1)), loss(name, "sum", 0.3))
    weighted, weighted_twice, without = (loss(name, "presence", strength) for strength in (2.0, 4.0, 1e-12))
    torch.testing.assert_close(weighted_twice - weighted, weighted - without)
    assert weighted > without, "pairs of slots that are there pay, and none is rewarded"

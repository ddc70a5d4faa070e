"""Networks that torch.compile has compiled compute the same, and where it cannot, they stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn

from guides import build_guide
from pyro_compvae.compilation import compile_networks
from pyro_compvae.elbo import SceneElbo
from pyro_compvae.presets import preset

CPU = torch.device("cpu")


def test_where_nothing_can_be_compiled_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(function: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", fail)
    layers = nn.Sequential(nn.Linear(3, 4), nn.ELU())
    compile_networks(layers, CPU)
    assert capsys.readouterr().err == (
        "--compile: networks stay as they are, torch.compile does not work here (No working C++ compiler found)\n"
    )
    assert layers(torch.ones(2, 3)).shape == (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iodine", "monet"])
def test_compiled_networks_have_the_same_loss_and_gradients(name: Any, capsys: pytest.CaptureFixture[str]) -> None:
    guide = build_guide(preset("tiny", name)).double()
    names = list(guide.state_dict())
    x = torch.rand(3, 3, *guide.model.decoder.image_size, dtype=torch.float64)

    def outcome() -> list[torch.Tensor]:
        torch.manual_seed(1)
        loss = SceneElbo()(guide.training_model, guide)(x)
        return [loss.detach(), *torch.autograd.grad(loss, list(guide.parameters()), allow_unused=True)]

    expected = outcome()
    compile_networks(guide, CPU)
    if capsys.readouterr().err:
        pytest.skip("nothing can be compiled here")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    got = outcome()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs
    assert list(guide.state_dict()) == names
    for value, wanted in zip(got, expected, strict=True):
        assert (value is None) == (wanted is None)
        if value is not None:
            torch.testing.assert_close(value, wanted)

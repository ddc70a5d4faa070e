"""Networks compiled by torch.compile compute the same, and stay as they are if it does not work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from helpers.scripts import load_script

from pyro_compvae.guides import build_guide
from pyro_compvae.runs.presets import preset
from pyro_compvae.training.compilation import CompilationError, compile_networks
from pyro_compvae.training.elbo import SceneElbo

CPU = torch.device("cpu")


def test_where_nothing_can_be_compiled_a_run_says_so_in_one_line_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(function: Any) -> Any:
        raise ValueError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", fail)
    arguments = ["--preset", "tiny", "--steps", "1", "--run-dir", str(tmp_path / "run"), "--device", "cpu", "--compile"]
    assert load_script("run_svi").main(arguments) == 0
    notice = "compile: networks stay as they are, torch.compile does not work here (No working C++ compiler found)"
    assert notice in capsys.readouterr().out.splitlines()
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iodine", "monet", "mulmon"])
def test_compiled_networks_have_the_same_loss_and_gradients(name: Any) -> None:
    guide = build_guide(preset("tiny", name)).double()
    names = list(guide.state_dict())
    views = (4,) if name == "mulmon" else ()
    x = torch.rand(3, *views, 3, *guide.model.image_size, dtype=torch.float64)
    viewpoints = [torch.rand(3, 4, 3, dtype=torch.float64)] if name == "mulmon" else []

    def outcome() -> list[torch.Tensor]:
        torch.manual_seed(1)
        loss = SceneElbo()(guide.model, guide)(x, *viewpoints)
        return [loss.detach(), *torch.autograd.grad(loss, list(guide.parameters()), allow_unused=True)]

    expected = outcome()
    try:
        compile_networks(guide, CPU)
    except CompilationError as error:
        pytest.skip(f"nothing can be compiled here: {error}")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    got = outcome()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs
    assert list(guide.state_dict()) == names
    for value, wanted in zip(got, expected, strict=True):
        assert (value is None) == (wanted is None)
        if value is not None:
            torch.testing.assert_close(value, wanted)

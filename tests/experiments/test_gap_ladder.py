"""The script that divides the gap, on tiny runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.scripts import load_script

from pyro_compvae.analysis.ladder import compute
from pyro_compvae.analysis.results import read

TINY = ["--approach-steps", "3", "--fit-steps", "20", "--flow-steps", "20", "--num-samples", "30", "--cover-steps", "2"]
TINY += ["--ais-chains", "3", "--ais-temperatures", "2", "--symmetry-samples", "5", "--batch-scenes", "2"]

pytestmark = pytest.mark.usefixtures("quick_pilot")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("gap_ladder")


@pytest.mark.parametrize("guide", ["monet", pytest.param("mulmon", marks=pytest.mark.slow)])
def test_table_file_and_figure(
    script: ModuleType,
    tiny_copy: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    guide: str,
) -> None:
    run = tiny_copy(guide)
    monkeypatch.setattr(compute, "FIT_SAMPLES", 8)
    assert script.main([str(run), "--num-scenes", "2", *TINY]) == 0
    capsys.readouterr()
    monkeypatch.setattr(compute, "fit_gaussian", None)  # the second call computes nothing again
    assert script.main([str(run), "--num-scenes", "2", *TINY]) == 0
    table = capsys.readouterr().out
    data = read(run / "ladder.nc")
    whole = data["log_evidence"] - data["rung_elbo"].sel(rung="amortised")
    np.testing.assert_allclose(data["gap"].sum("gap_name"), whole, atol=1e-8)
    assert list(data["gap_name"].values) == list(compute.GAPS)
    rungs = ["amortised", "diagonal", "block", "full", "flow"]
    assert list(data["rung"].values) == rungs
    assert [line.split()[0] for line in table.splitlines()[1:6]] == rungs
    for name in compute.GAPS:
        row = next(line for line in table.splitlines() if line.startswith(name))
        assert f"{float(data['gap'].sel(gap_name=name).mean()):.2f}" in row
    assert (data["rung_evaluations"].sel(rung="diagonal") == 3 * 16 + 20 * 8 + 30).all()
    assert (data["rung_seconds"].isel(rung=slice(1, None)) > 0).all()
    assert (run / "figures" / "ladder.png").stat().st_size > 10_000


def test_bad_arguments_are_one_line(
    script: ModuleType, tmp_path: Path, tiny_copy: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(tmp_path), "--num-scenes", "0"]) == 1
    assert "num_scenes: expected at least 1, got 0" in capsys.readouterr().err
    assert script.main([str(tmp_path / "nowhere")]) == 1
    assert "expected a run folder with a config.yaml" in capsys.readouterr().err
    run = tiny_copy("iodine", "--slots", "9")
    assert script.main([str(run)]) == 1
    assert "slots: expected at most 8, of which all orders are summed, got 9" in capsys.readouterr().err
    (run / "checkpoint.pt").unlink()
    assert script.main([str(run)]) == 1
    assert "expected a checkpoint, found no such file" in capsys.readouterr().err

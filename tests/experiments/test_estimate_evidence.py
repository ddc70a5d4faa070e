"""The script that estimates log-evidence, on tiny runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import arviz
import numpy as np
import pytest
import torch
import xarray
from helpers.scripts import load_script

from pyro_compvae.analysis.evidence import data_set
from pyro_compvae.analysis.evidence.compute import EvidenceConfig

TINY = ["--num-samples", "40", "--fit-steps", "3", "--cover-steps", "2"]
AIS = ["--ais-chains", "3", "--ais-temperatures", "2"]
NO_AIS = ["--ais-chains", "0"]
PAIRS = ["--batch-scenes", "2"]

pytestmark = pytest.mark.usefixtures("quick_pilot")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("estimate_evidence")


@pytest.mark.parametrize("guide", ["iodine", pytest.param("mulmon", marks=pytest.mark.slow)])
def test_table_and_file(
    script: ModuleType, tiny_copy: Callable[..., Path], capsys: pytest.CaptureFixture[str], guide: str
) -> None:
    run = tiny_copy(guide)
    capsys.readouterr()
    annealed = guide == "iodine"  # once is enough
    families = ["--families", "diagonal", "block", "full", "--inflation", "1.5"] if annealed else []
    assert script.main([str(run), "--num-scenes", "2", *TINY, *(AIS if annealed else NO_AIS), *families]) == 0
    table = capsys.readouterr().out
    names = ["guide", "guide_symmetric", "full", "full_covering"]
    names += ["guide_inflated", "diagonal", "diagonal_covering", "block", "block_covering", "ais"] if annealed else []
    names += [] if annealed else ["observed"]
    rows = table[: table.index("symmetry term")].splitlines()[1:]
    assert {row.split()[0] for row in rows} == set(names)
    assert ("log p(query views | observed views)" in table) == (guide == "mulmon")
    assert (run / "figures" / "evidence.png").stat().st_size > 10_000
    assert "lower bounds and no more" in table, "two training steps make no posterior to believe"

    data = arviz.from_netcdf(run / "evidence.nc")["sample_stats"]
    assert data["log_weight_full"].shape == (1, 40, 2)
    if annealed:
        assert data["log_weight_ais"].shape == (1, 3, 2)
    if guide == "mulmon":
        assert data["log_weight_observed"].shape == (1, 40, 2)
    # The draws are the same, so the symmetry term of each is the log ratio of q̄ and q, at most log K! = log 24.
    symmetry = data["log_weight_guide_symmetric"] - data["log_weight_guide"]
    assert float(symmetry.max()) < np.log(24) + 1e-6
    assert float(symmetry.std()) > 0


@pytest.mark.usefixtures("no_pictures")
def test_a_second_call_goes_on_and_repeats_nothing(
    script: ModuleType, tiny_copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_copy("iodine")
    assert script.main([str(run), "--num-scenes", "2", *TINY, *NO_AIS, *PAIRS]) == 0
    batches, estimate = [], data_set.estimate_scenes

    def counted(*args: object) -> object:
        batches.append(args)
        return estimate(*args)

    monkeypatch.setattr(data_set, "estimate_scenes", counted)
    other = ["--bdmc-chains", "7"]  # the batches do not depend on it
    assert script.main([str(run), "--num-scenes", "4", *TINY, *NO_AIS, *PAIRS, *other]) == 0
    assert len(batches) == 1
    resumed = xarray.load_dataset(run / "evidence.nc", group="sample_stats")
    for file in (run / "evidence.nc", *(run / "evidence").iterdir()):
        file.unlink()
    assert script.main([str(run), "--num-scenes", "4", *TINY, *NO_AIS, *PAIRS, *other]) == 0
    assert len(batches) == 3
    xarray.testing.assert_identical(xarray.load_dataset(run / "evidence.nc", group="sample_stats"), resumed)
    torch.manual_seed(5)
    assert script.main([str(run), "--num-scenes", "2", *TINY, *NO_AIS, "--seed", "1"]) == 0
    other = xarray.load_dataset(run / "evidence.nc", group="sample_stats")
    assert not np.array_equal(other["log_weight_guide"], resumed["log_weight_guide"][..., :2])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("guide", ["monet", pytest.param("mulmon", marks=pytest.mark.slow)])
def test_the_sandwich_of_simulated_scenes(
    script: ModuleType,
    tiny_copy: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    guide: str,
) -> None:
    run = tiny_copy(guide)
    capsys.readouterr()
    bdmc = ["--bdmc", "--bdmc-scenes", "2", "--bdmc-chains", "3", "--bdmc-temperatures", "2", "--ais-temperatures", "1"]
    assert script.main([str(run), "--num-scenes", "1", *TINY, *NO_AIS, *bdmc]) == 0
    table = capsys.readouterr().out
    data = xarray.load_dataset(run / "sandwich.nc", group="sample_stats")
    assert data.sizes == {"scene": 2}
    rows = [line.split() for line in table[table.index("simulated scene") :].splitlines()[1:3]]
    for b, row in enumerate(rows):
        scene = data.isel(scene=b)
        expected = (scene["lower"], scene["upper"], scene["upper"] - scene["lower"], scene["width_standard_error"])
        assert row[:5] == [str(b + 1), *(f"{float(value):.2f}" for value in expected)]
    assert "width: median" in table
    monkeypatch.delattr(data_set, "certify")  # a second call computes nothing
    assert script.main([str(run), "--num-scenes", "1", *TINY, *NO_AIS, *bdmc]) == 0
    again = capsys.readouterr().out
    assert again[again.index("simulated scene") :] == table[table.index("simulated scene") :]


def test_bad_arguments_are_one_line(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([str(tmp_path / "nowhere")]) == 1
    assert "expected a run folder with a config.yaml" in capsys.readouterr().err
    assert script.main([str(tmp_path), "--num-scenes", "0"]) == 1
    assert "num_scenes: expected at least 1, got 0" in capsys.readouterr().err
    assert script.main([str(tmp_path), "--bdmc-scenes", "0"]) == 1
    assert "bdmc_scenes: expected at least 1, got 0" in capsys.readouterr().err


def test_too_many_slots_for_a_full_covariance_are_told_before_any_work(
    script: ModuleType, tiny_copy: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_copy("iodine", "--slots", "9")
    assert script.main([str(run), "--families", "full"]) == 1
    assert "family: expected diagonal or block with 9 slots, got full" in capsys.readouterr().err
    assert not (run / "evidence").exists()
    assert EvidenceConfig().families_of(9) == ("block",)
    assert EvidenceConfig().families_of(8) == ("full",)


@pytest.mark.parametrize(
    "name",
    [
        "num_samples",
        "chunk_size",
        "fit_steps",
        "cover_steps",
        "cover_samples",
        "ais_temperatures",
        "leapfrog_steps",
        "bdmc_chains",
        "bdmc_temperatures",
    ],
)
def test_impossible_settings_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        EvidenceConfig(**{name: 0})
    with pytest.raises(ValueError, match="ais_chains: expected zero or more, got -1"):
        EvidenceConfig(ais_chains=-1)
    with pytest.raises(ValueError, match=r"inflation: expected at least 1, got 0\.5"):
        EvidenceConfig(inflation=0.5)

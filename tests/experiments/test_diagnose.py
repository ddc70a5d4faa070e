"""The script that diagnoses a posterior, on tiny runs."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import arviz
import matplotlib as mpl
import numpy as np
import pytest
import xarray
from helpers.pictures import undrawn
from helpers.scripts import load_script
from matplotlib import pyplot

from pyro_compvae.analysis.posterior import diagnosis
from pyro_compvae.analysis.posterior.data_set import bundle, groups_of, save_inference_data
from pyro_compvae.analysis.results import read

TINY = ["--num-scenes", "2", "--num-draws", "8", "--num-chains", "2", "--warmup-steps", "2", "--device", "cpu"]
TINY += ["--fit-steps", "3", "--cover-steps", "1", "--ais-chains", "60", "--ais-temperatures", "2"]
TINY += ["--simulated-scenes", "3", "--simulated-chains", "30", "--simulated-temperatures", "1"]

EVIDENCE = ["--num-scenes", "1", "--num-samples", "4", "--fit-steps", "2", "--cover-steps", "1", "--ais-chains", "0"]

pytestmark = pytest.mark.usefixtures("quick_pilot")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script with short trajectories of NUTS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis, "NutsConfig", partial(diagnosis.NutsConfig, max_tree_depth=3))
        yield load_script("diagnose")


@pytest.fixture(scope="module")
def first_draws(
    script: ModuleType, tiny_run: Callable[..., Path], quick_pilot: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run with the files of the first stage, which must not be changed."""
    run = Path(shutil.copytree(tiny_run("iodine"), tmp_path_factory.mktemp("draws") / "run"))
    with undrawn():
        assert script.main([str(run), *TINY, "--stages", "draws"]) == 0
    return run


@pytest.fixture
def drawn(first_draws: Path, tmp_path: Path) -> Path:
    """A copy of the run with the files of the first stage."""
    return Path(shutil.copytree(first_draws, tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["iodine", "mulmon"])
def test_all_stages_and_their_files(
    script: ModuleType, tiny_copy: Callable[..., Path], capsys: pytest.CaptureFixture[str], guide: str
) -> None:
    run = tiny_copy(guide)
    capsys.readouterr()
    assert script.main([str(run), *TINY, "--nuts-scene", "1"]) == 0
    text = capsys.readouterr().out
    views = guide == "mulmon"
    for words in ("draws, guide: k̂ < ", "predictive checks, importance:", "draws of NUTS diverged", "coverage"):
        assert words in text
    assert ("leave one view out" in text) == views
    names = {"khat", "predictive_checks", "marginals", "calibration"} | ({"loo"} if views else set())
    for name in names:
        assert (run / "figures" / f"{name}.png").stat().st_size > 5_000
    assert (run / "loo.nc").is_file() == views
    nuts = arviz.from_netcdf(run / "posterior_nuts.nc")
    assert nuts["posterior"]["z"].shape[:3] == (2, 8, 1)
    assert list(nuts["posterior"]["scene"].values) == [1]
    scene = {"scene": [1]}
    importance = arviz.from_netcdf(run / "posterior_importance.nc")
    np.testing.assert_array_equal(
        nuts["observed_data"]["image"].values, importance["observed_data"]["image"].sel(scene).values
    )
    assert "r_hat" in arviz.summary(nuts)
    with mpl.rc_context({"backend": "agg"}):
        arviz.plot_trace(nuts, var_names=["z"], coords={"slot": [0], "latent": [0]})
        pyplot.close("all")
    ranks = read(run / "calibration.nc")["rank"]
    assert dict(ranks.sizes) == {"source": 2, "quantity": 8, "scene": 3}
    assert float(ranks.min()) >= 0
    assert float(ranks.max()) <= 1


@pytest.mark.usefixtures("no_pictures")
def test_what_is_there_is_not_computed_again(
    script: ModuleType, drawn: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = drawn
    capsys.readouterr()
    assert script.main([str(run), *TINY]) == 0
    text = capsys.readouterr().out
    with monkeypatch.context() as patch:
        for name in ("guide_draws", "importance_draws", "predictive_checks", "nuts_draws", "calibrate"):
            patch.delattr(diagnosis, name)
        assert script.main([str(run), *TINY]) == 0
    assert capsys.readouterr().out == text
    before = xarray.load_dataset(run / "posterior_guide.nc", group="posterior")
    assert script.main([str(run), *TINY, "--stages", "draws", "--seed", "1"]) == 0
    after = xarray.load_dataset(run / "posterior_guide.nc", group="posterior")
    assert not np.array_equal(before["z"], after["z"])
    # The checks now belong to other draws, and are made again.
    old = read(run / "predictive_checks.nc")
    assert script.main([str(run), *TINY, "--stages", "checks"]) == 0
    assert not np.array_equal(old["pit"], read(run / "predictive_checks.nc")["pit"])


def test_a_second_call_at_once_is_told(script: ModuleType, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the diagnosis nor the sandwich is computed twice side by side."""
    calls = {
        ".diagnosis.lock": (script, TINY),
        ".sandwich.lock": (load_script("estimate_evidence"), [*EVIDENCE, "--bdmc", "--bdmc-scenes", "2"]),
    }
    for name, (called, options) in calls.items():
        with (drawn / name).open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            capsys.readouterr()
            assert called.main([str(drawn), *options]) == 1
            assert "expected a folder that nobody is working in" in capsys.readouterr().err


@pytest.mark.usefixtures("no_pictures")
def test_bad_input_is_one_line(
    script: ModuleType, tmp_path: Path, tiny_copy: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(tmp_path / "nowhere")]) == 1
    assert "expected a run folder with a config.yaml" in capsys.readouterr().err
    for option, message in (
        (["--num-draws", "0"], "num_draws: expected at least 1, got 0"),
        (["--num-chains", "1"], "num_chains: expected at least 2, to be compared, got 1"),
    ):
        with pytest.raises(SystemExit, match="2"):
            script.main([str(tmp_path), *option])
        assert message in " ".join(capsys.readouterr().err.split())
    run = tiny_copy("iodine")
    for stage in ("checks", "nuts"):
        assert script.main([str(run), *TINY, "--stages", stage]) == 1
        message = capsys.readouterr().err
        assert "expected draws, found no such file; `compvae diagnose` makes it" in message
        assert "Traceback" not in message
    assert script.main([str(run), *TINY, "--stages", "draws", "nuts", "--nuts-scene", "7"]) == 1
    assert "nuts_scene: expected one of the 2 scenes, from 0 on, got 7" in capsys.readouterr().err
    assert script.main([str(run), *TINY, "--stages", "draws", "nuts", "--nuts-scene", "-1"]) == 1
    assert "nuts_scene: expected one of the 2 scenes, from 0 on, got -1" in capsys.readouterr().err


@pytest.mark.usefixtures("no_pictures")
def test_later_stages_take_the_scenes_of_the_draws_and_damaged_files_are_made_again(
    script: ModuleType, drawn: Path
) -> None:
    run = drawn
    (run / "predictive_checks.nc").write_bytes(b"no NetCDF")
    assert script.main([str(run), *TINY, "--num-scenes", "1", "--stages", "checks", "nuts", "--nuts-scene", "1"]) == 0
    assert read(run / "predictive_checks.nc").sizes["scene"] == 2
    foreign = arviz.from_netcdf(run / "posterior_guide.nc")
    save_inference_data(run / "posterior_guide.nc", bundle({n: d.drop_attrs() for n, d in groups_of(foreign).items()}))
    assert script.main([str(run), *TINY, "--stages", "draws"]) == 0
    assert xarray.load_dataset(run / "posterior_guide.nc", group="posterior").attrs["source"] == "guide"


def test_draws_of_another_run_are_refused(
    script: ModuleType, drawn: Path, tmp_path: Path, tiny_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one = drawn
    other = Path(shutil.copytree(tiny_run("iodine", "--seed", "1"), tmp_path / "other"))
    (other / "posterior_guide.nc").write_bytes((one / "posterior_guide.nc").read_bytes())
    (other / "posterior_importance.nc").write_bytes((one / "posterior_importance.nc").read_bytes())
    capsys.readouterr()
    assert script.main([str(other), *TINY, "--stages", "checks"]) == 1
    assert "posterior_guide.nc: expected numbers of this run, found those of other weights" in capsys.readouterr().err

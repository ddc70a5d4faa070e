"""The script that turns L-NMS into a prior, on a tiny run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.scripts import load_script

from pyro_compvae.analysis.evidence.data_set import estimates_of
from pyro_compvae.analysis.results import read
from pyro_compvae.normaliser import estimate_log_normaliser

QUICK = ["--num-samples", "30", "--fit-steps", "2", "--cover-steps", "1", "--cover-samples", "4", "--num-scenes", "2"]


@pytest.mark.parametrize("guide", ["iodine", "mulmon"])
def test_bayes_factors(
    tmp_path: Path,
    tiny_copy: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    guide: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(estimate_log_normaliser, "__defaults__", (0.1, 64, 10, 3))
    script, run = load_script("repulsive_prior"), tiny_copy(guide)
    assert script.main([str(run), *QUICK, "--strength", "0.3"]) == 0
    text = capsys.readouterr().out
    assert "log Z(K 4, D 4, σ_c 0.1, s 0.3) = " in text
    data = read(run / "repulsive_prior.nc")
    names = {"log_evidence_independent": "prior_independent", "log_evidence_repulsive": "prior_repulsive"}
    for name, file in names.items():
        estimates = estimates_of(read(run / f"{file}.nc"))
        np.testing.assert_allclose(data[name], estimates["full_covering"].log_evidence)
    factor = data["log_evidence_repulsive"] - data["log_evidence_independent"]
    np.testing.assert_allclose(data["log_bayes_factor"], factor)
    assert f"log Bayes factor:             {float(factor.mean()):.2f}" in text
    assert (run / "figures" / "repulsive_prior.png").stat().st_size > 2_000
    assert script.main([str(run), *QUICK, "--form", "mean", "--strength", "-12"]) == 1
    assert "strength: expected zero or more, got -1.0" in capsys.readouterr().err, "the sum has a twelfth of the mean's"
    assert script.main([str(run), *QUICK, "--strength", "-1"]) == 1
    assert "strength: expected zero or more, got -1.0" in capsys.readouterr().err


def test_presence_is_no_density(tiny_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run("iodine", "--set", "lnms_prior.form=presence")
    assert load_script("repulsive_prior").main([str(run), *QUICK]) == 1
    assert "form: expected sum or mean, which are densities of slots, got presence" in capsys.readouterr().err

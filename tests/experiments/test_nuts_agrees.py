"""NUTS and importance resampling tell of the same posterior of a trained run; the guide does not."""

from __future__ import annotations

from pathlib import Path

import arviz
import numpy as np
import pytest
import torch

from analysis import importance_draws, load_run, to_inference_data
from analysis.evidence import EvidenceConfig, annealed_from, log_joint_and_posterior, refined_fit
from analysis.inference_data import groups_of
from analysis.marginals import agreement, mean_differences
from analysis.nuts import nuts_draws
from analysis.posterior_draws import guide_draws
from pyro_compvae.data import load_scenes

RUN = Path(__file__).parents[2] / "results" / "iodine-sprites-lnms-seed0"
SCENE = 10
"""A test scene of small k̂."""


@pytest.mark.slow
def test_nuts_and_importance_agree_where_khat_is_low() -> None:
    torch.manual_seed(0)
    run = load_run(RUN)
    scene = load_scenes(run.config.data, "test")[SCENE : SCENE + 1]
    arguments = run.guide.arguments(scene)
    log_joint, q = log_joint_and_posterior(run, arguments)
    config = EvidenceConfig(ais_chains=256)
    fit = refined_fit(log_joint, q, config)
    chains = annealed_from(log_joint, fit, config)
    draws = {
        "guide": guide_draws(log_joint, q, 250, 2),
        "importance": importance_draws(chains.z, chains.log_weights, 1000, 2),
        "nuts": nuts_draws(log_joint, q, 250, 2, 150, fit),
    }
    groups = {
        name: groups_of(to_inference_data(run.model, run.guide, *arguments, draws=one)) for name, one in draws.items()
    }
    found = agreement(groups)
    ess = float(groups["importance"]["sample_stats"]["ess"][0])
    assert float(groups["importance"]["sample_stats"]["khat"][0]) < 0.7
    assert ess > 25
    assert float(arviz.rhat(found.draws["nuts"].to_dataset(name="z"))["z"].max()) < 1.1

    def size(source: str, draws: float) -> float:
        return float((mean_differences(found.draws["nuts"], found.draws[source], draws) ** 2).mean() ** 0.5)

    # 40 correlated latents: a root mean square of 1, give or take a third.
    assert size("importance", ess) < 1.5
    assert size("guide", 500) > 5
    nuts, importance, guide = (found.draws[name].std(("chain", "draw")) for name in ("nuts", "importance", "guide"))
    assert float((importance / nuts).mean()) == pytest.approx(1, abs=0.2)
    assert float((guide / nuts).mean()) < 0.75, "the guide is too sure of itself"
    np.testing.assert_array_less(
        found.distances.sel(source="importance").mean(), found.distances.sel(source="guide").mean()
    )

"""NUTS and importance resampling agree on the posterior of a trained run; the guide does not agree with them."""

from __future__ import annotations

import arviz
import numpy as np
import pytest
import torch
from helpers.scripts import RESULTS

from pyro_compvae.analysis import draws_to_inference_data, importance_draws, load_run
from pyro_compvae.analysis.evidence.compute import log_joint_and_posterior
from pyro_compvae.analysis.posterior.data_set import groups_of
from pyro_compvae.analysis.posterior.draws import guide_draws
from pyro_compvae.analysis.posterior.groups import of_scenes
from pyro_compvae.analysis.posterior.marginals import agreement, mean_differences
from pyro_compvae.analysis.posterior.nuts import NutsConfig, nuts_draws
from pyro_compvae.data import load_scenes
from pyro_compvae.evidence import RefinedConfig, annealed_from, fit_and_cover

RUN = RESULTS / "iodine-sprites-lnms-seed0"
SCENE = 4
"""A test scene in which a few chains of NUTS mix within minutes, and k̂ of annealed chains is low."""


@pytest.mark.slow(seconds=150)
def test_nuts_and_importance_agree_where_khat_is_low() -> None:
    run = load_run(RUN)
    torch.manual_seed(0)
    arguments = run.guide.arguments(load_scenes(run.config.data, "test")[SCENE : SCENE + 1])
    log_joint, q = log_joint_and_posterior(run, arguments)
    config = RefinedConfig(num_chains=128, num_temperatures=100)
    fit = fit_and_cover(log_joint, q, config)
    chains = annealed_from(log_joint, fit, config)
    draws = {
        "guide": guide_draws(log_joint, q, 250, 2),
        "importance": importance_draws(chains.z, chains.log_weights, 1000, 2),
        "nuts": nuts_draws(log_joint, q, NutsConfig(70, 2, 50, max_tree_depth=6), fit),
    }
    groups = {
        name: groups_of(draws_to_inference_data(some, run.model, run.guide, *arguments)) for name, some in draws.items()
    }
    found = agreement(groups)
    ess, khat = (float(of_scenes(groups["importance"]["sample_stats"][name])[0]) for name in ("ess", "khat"))
    assert khat < 0.7
    assert ess > 15
    assert float(arviz.rhat(found.draws["nuts"].to_dataset(name="z"))["z"].max()) < 1.2

    def size(source: str, draws: float) -> float:
        return float((mean_differences(found.draws["nuts"], found.draws[source], draws) ** 2).mean() ** 0.5)

    # There are 40 correlated latents. With several seeds importance had 0.8 to 1.0, and the guide had 7 to 10.
    assert size("importance", ess) < 1.8
    assert size("guide", 500) > 4
    nuts, importance, guide = (found.draws[name].std(("chain", "draw")) for name in ("nuts", "importance", "guide"))
    assert float((importance / nuts).mean()) == pytest.approx(1, abs=0.2)
    assert float((guide / nuts).mean()) < 0.75, "the guide is too sure of itself"
    np.testing.assert_array_less(
        found.distances.sel(source="importance").mean(), found.distances.sel(source="guide").mean()
    )

"""The estimates of a run are those that the library gives for its model and guide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_compvae.analysis import load_run
from pyro_compvae.analysis.evidence import compute
from pyro_compvae.analysis.evidence.compute import EvidenceConfig, estimate_scenes
from pyro_compvae.data import load_scenes
from pyro_compvae.evidence import RefinedConfig, refined_log_evidence

RUN = Path(__file__).parents[3] / "results" / "iodine-sprites-lnms-seed0"


def leaving_random_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, after which random numbers continue as if it had not been called."""

    def called(*arguments: Any, **options: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            return function(*arguments, **options)

    return called


@pytest.mark.parametrize("chains", [pytest.param(3, marks=pytest.mark.slow), 0])
def test_the_best_estimate_is_the_librarys(chains: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(RUN, num_slots=2)
    scene = load_scenes(run.config.data, "test")[:2]
    config = EvidenceConfig(
        num_samples=4, fit_steps=3, cover_steps=2, cover_samples=4, ais_chains=chains, ais_temperatures=2
    )
    torch.manual_seed(3)
    arguments = run.guide.arguments(scene)
    library = refined_log_evidence(run.model, run.guide, *arguments, config=config.refined())
    # The other estimates are sampled in between.
    for name in ("plain_and_symmetric_log_evidence", "proposal_log_evidence"):
        monkeypatch.setattr(compute, name, leaving_random_numbers(getattr(compute, name)))
    torch.manual_seed(3)
    estimates = estimate_scenes(run, scene, config)
    assert torch.equal(estimates[config.best(run.model.num_slots)].log_weights, library.log_weights)


def test_the_same_effort_is_the_default() -> None:
    assert EvidenceConfig().refined() == RefinedConfig()

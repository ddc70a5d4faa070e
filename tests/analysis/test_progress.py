"""Bars move within a batch of scenes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_compvae.analysis import EvidenceConfig, LadderConfig, gap_ladder, load_run
from pyro_compvae.analysis.evidence.compute import estimate_scenes, log_joint_and_posterior
from pyro_compvae.analysis.progress import SceneBar, ShowProgress
from pyro_compvae.analysis.work import work_of_evidence, work_of_ladder
from pyro_compvae.evidence import LogJoint, refined

EVIDENCE = EvidenceConfig(
    num_samples=40, fit_steps=4, cover_steps=2, cover_samples=32, ais_chains=32, ais_temperatures=4, leapfrog_steps=2
)
LADDER = LadderConfig(
    approach_steps=2, fit_steps=20, flow_steps=20, num_samples=10, symmetry_samples=2, cover_steps=1, ais_temperatures=2
)


class Shares(ShowProgress):
    """The shares of a batch that are shown, of which the expected number of evaluations is told."""

    def __init__(self, expected: float) -> None:
        self.bar = SceneBar(2, disable=True)
        super().__init__(self.bar, 2)
        self.shown: list[float] = []
        self.expect(expected)

    def _reach(self, share: float) -> None:
        super()._reach(share)
        self.shown.append(share)


def test_shares_rise_while_evidence_and_ladder_are_computed(
    tiny_run: Callable[..., Path], quick_pilot: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refined, "USUAL_PILOT", 8 * 5)
    run = load_run(tiny_run())
    scene = run.scenes("test")[:2]
    shares = Shares(work_of_evidence(EVIDENCE, run.model.num_slots))
    estimate_scenes(run, scene, EVIDENCE, shares, watch=shares.watch)
    ladder = Shares(work_of_ladder(LADDER))
    log_joint, q = log_joint_and_posterior(run, run.guide.arguments(scene))
    ladder.watch(log_joint)
    gap_ladder(log_joint, q, LADDER, ladder)
    for found in (shares.shown, ladder.shown):
        assert found == sorted(found)
        assert len([share for share in found if 0.05 < share < 0.6]) > 5, "it moves from the beginning"
        assert 0.6 < found[-1] <= 0.99, "the work was known well enough"


def test_a_bar_shows_fractions_of_scenes_and_the_time_left() -> None:
    said = io.StringIO()
    with SceneBar(8, "draws") as bar:
        bar.fp, bar.mininterval = said, 0
        show = bar.batch(4)
        show.expect(100)
        joint: Any = type("Joint", (), {})()
        show.watch(joint)
        joint.evaluated(25)
        show("fit")
        assert "1.0/8 scenes [" in str(bar)
        assert "fit" in str(bar)
        joint.evaluated(1000)
        assert bar.n == pytest.approx(3.96)
        show.finish()
        assert bar.n == pytest.approx(4)
        bar.batch(4).finish()
        assert bar.n == pytest.approx(8)


def test_a_gradient_counts_for_three_evaluations(tiny_run: Callable[..., Path]) -> None:
    run = load_run(tiny_run())
    log_joint = LogJoint(run.model, run.scenes("test")[:1].image)
    counted: list[int] = []
    log_joint.evaluated = counted.append
    z = torch.zeros(5, 1, *log_joint.event_shape)
    log_joint(z)
    log_joint(z.requires_grad_()).sum().backward()
    assert counted == [5, 15]

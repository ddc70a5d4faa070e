"""Recorded and repeated steps equal ordinary ones, on a pretended GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from helpers.pretend_gpu import PretendGpu
from helpers.recorded_operations import RecordedOperations
from torch import Tensor

from pyro_compvae.data import load_scenes
from pyro_compvae.guides import MulmonGuide, build_guide
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.training.captured_step import WARM_STEPS, CapturedStep
from pyro_compvae.training.distributed import Workers
from pyro_compvae.training.schedules import changing, schedules
from pyro_compvae.training.trainer import Trainer

STEPS = 14
SCHEDULED = {
    "training.steps": STEPS,
    "training.warmup_steps": 5,
    "training.kl_warmup_steps": 9,
    "lnms_prior.warmup_steps": 11,
    "num_slots": 3,
    "training.log_every": 7,
    "training.evaluate_every": 5,
    "training.checkpoint_every": 6,
}


class Refusing(RecordedOperations):
    """A recorder that refuses every recording."""

    def record(self, function: Callable[[], Tensor]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


def make(gpu: PretendGpu, config: RunConfig, folder: Path, recorder: RecordedOperations) -> Trainer:
    torch.manual_seed(0)
    guide = build_guide(config).to(gpu.device)
    if isinstance(guide, MulmonGuide):
        guide.max_observed = 2  # both come often enough
    scenes = load_scenes(config.data, "train", multi_view=config.guide == "mulmon")
    folder.mkdir(exist_ok=True)
    return Trainer(guide, config, scenes, RunFolder(folder), recorder=recorder)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.cpu().clone() for name, value in trainer.guide.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def scheduled(name: GuideName, lnms: bool = True) -> RunConfig:
    """Every schedule that the guide has."""
    own = {"attention.mask_warmup_steps": 12} if name == "monet" else {}
    return preset("tiny", name).replace({**SCHEDULED, **own, "lnms": lnms})


@cache
def trained(kind: type[RecordedOperations], config: RunConfig) -> tuple[RecordedOperations, dict[str, Tensor]]:
    """Train a whole run; returns its recorder and its weights."""
    with tempfile.TemporaryDirectory() as folder, PretendGpu() as gpu:
        recorder = kind(gpu)
        trainer = make(gpu, config, Path(folder), recorder)
        before = weights(trainer)
        assert trainer.run()
        after = weights(trainer)
    assert not same(before, after), "the premise: something is learned"
    return recorder, after


NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "mulmon" else name for name in get_args(GuideName)]
"""The guides; MulMON records a graph for each number of observed views, which takes four times as long."""


@pytest.mark.filterwarnings("ignore:cuda_graph")
@pytest.mark.parametrize(
    ("name", "lnms"),
    [
        ("iodine", True),
        ("monet", False),
        *[pytest.param(*case, marks=pytest.mark.slow) for case in (("iodine", False), ("monet", True))],
        *[pytest.param("mulmon", lnms, marks=pytest.mark.slow) for lnms in (True, False)],
    ],
)
def test_recorded_steps_are_the_eager_ones_bit_by_bit(name: GuideName, lnms: bool) -> None:
    """They agree while β, s and γ warm up, the learning rate changes, and runs are logged, evaluated and saved."""
    config = scheduled(name, lnms)
    recorder, recorded = trained(RecordedOperations, config)
    graphs = 2 if name == "mulmon" else 1
    assert len(recorder.recordings) == graphs
    assert recorder.repeats == STEPS - graphs * WARM_STEPS
    assert same(trained(Refusing, config)[1], recorded)


@pytest.mark.filterwarnings("ignore:cuda_graph")
@pytest.mark.parametrize("name", NAMES)
def test_recorded_steps_move_the_multiplier_of_geco(name: GuideName) -> None:
    config = preset("tiny", name).replace({"training.steps": STEPS, "training.geco_target": 1.0})
    recorder, recorded = trained(RecordedOperations, config)
    assert recorder.repeats > 0
    assert recorded["geco.log_multiplier"] > 0
    assert same(trained(Refusing, config)[1], recorded)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_the_same_bit_by_bit(name: GuideName, tmp_path: Path) -> None:
    """They agree although the resumed run takes ordinary first steps where the other one repeats recorded ones."""
    config = scheduled(name)
    _, expected = trained(RecordedOperations, config)
    with PretendGpu() as gpu:
        part = make(gpu, config.replace({"training.steps": 8}), tmp_path / "part", RecordedOperations(gpu))
        assert part.run()
        again = make(gpu, config, tmp_path / "part", RecordedOperations(gpu))
        torch.manual_seed(5)
        again.restore()  # the checkpoint holds CUDA's random state; the pretended GPU keeps its own
        assert again.run()
        assert same(expected, weights(again))


def test_a_weight_that_changes_and_is_recorded_as_a_number_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a mistake is noticed, which the tests above could not do if recordings changed."""
    config = scheduled("iodine")
    _, expected = trained(RecordedOperations, config)
    monkeypatch.setattr("pyro_compvae.training.trainer.changing", lambda _: ("lnms_strength",))
    with PretendGpu() as gpu:
        trainer = make(gpu, config, tmp_path, RecordedOperations(gpu))
        assert trainer.run()
        assert not same(expected, weights(trainer))


def test_what_waits_for_the_host_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training continues with ordinary steps, and says so once, in one line."""
    config = scheduled("iodine")
    with PretendGpu() as gpu:
        trainer = make(gpu, config, tmp_path, RecordedOperations(gpu))
        assert isinstance(trainer.take_step, CapturedStep)
        step = trainer.optimiser.step
        first = next(trainer.guide.parameters()).detach()
        monkeypatch.setattr(trainer.optimiser, "step", lambda: (step(), float(first.sum())))
        with pytest.warns(UserWarning, match=r"^cuda_graph: every step is launched kernel by kernel, .*$") as caught:
            assert trainer.run()
    assert len(caught) == 1


@pytest.mark.slow
def test_steps_without_room_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of earlier recordings is released first."""
    config = scheduled("mulmon")
    with PretendGpu() as gpu:
        recorder = RecordedOperations(gpu)
        trainer = make(gpu, config, tmp_path, recorder)
        run = recorder.run
        step = trainer.take_step
        assert isinstance(step, CapturedStep)

        def full(function: Callable[[], Tensor]) -> Tensor:
            if recorder.repeats:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
            return run(function)

        monkeypatch.setattr(recorder, "run", full)
        with pytest.warns(UserWarning, match="out of memory"):
            assert trainer.run()
        assert recorder.repeats, "the premise: one number of views was recorded when the other one came"
        assert not step._recorded


def test_a_batch_of_another_size_is_refused(tmp_path: Path) -> None:
    """It would be broadcast over the memory of the first batch."""
    with PretendGpu() as gpu:
        trainer = make(gpu, scheduled("iodine"), tmp_path, RecordedOperations(gpu))
        trainer._train_step()
        x = torch.rand(4, 3, 16, 16).to(gpu.device)
        with pytest.raises(ValueError, match=r"arguments: expected those of the steps before, .*\(4, 3, 16, 16\)"):
            trainer.take_step(x[:1])


def test_afterwards_weights_are_numbers(tmp_path: Path) -> None:
    with PretendGpu() as gpu:
        config = scheduled("iodine")
        trainer = make(gpu, config, tmp_path, RecordedOperations(gpu))
        trainer._train_step()
        assert isinstance(trainer.guide.kl_weight, Tensor)
        assert trainer.run()
        assert trainer.guide.kl_weight == pytest.approx(1.0)
        assert isinstance(trainer.guide.kl_weight, float)


@pytest.mark.filterwarnings("ignore:cuda_graph")
def test_every_number_of_iterations_has_its_graph() -> None:
    config = scheduled("iodine").replace({"refinement.early_iterations": 1, "refinement.early_steps": 6})
    recorder, recorded = trained(RecordedOperations, config)
    assert len(recorder.recordings) == 2
    assert recorder.repeats == STEPS - 2 * WARM_STEPS
    assert same(trained(Refusing, config)[1], recorded)
    assert not same(trained(Refusing, scheduled("iodine"))[1], recorded)


def test_several_workers_record_nothing(tmp_path: Path) -> None:
    config = preset("tiny", "iodine")
    scenes, folder, workers = load_scenes(config.data, "train"), RunFolder(tmp_path), Workers(0, 2)
    with PretendGpu() as gpu, pytest.raises(ValueError, match="recorder: expected None with several workers"):
        Trainer(build_guide(config), config, scenes, folder, workers=workers, recorder=RecordedOperations(gpu))


def test_schedules_that_change() -> None:
    config = preset("tiny", "monet")
    assert changing(config) == ()
    assert set(changing(config.replace({**SCHEDULED, "attention.mask_warmup_steps": 3}))) == set(schedules(config))
    assert changing(config.replace({**SCHEDULED, "lnms": False})) == ("kl_weight",)
    early = preset("tiny", "iodine").replace({"refinement.early_iterations": 1, "refinement.early_steps": 6})
    assert changing(early) == ()
    assert [schedules(early)["num_iterations"](early, step) for step in (0, 5, 6, 100)] == [1, 1, 2, 2]
    assert "num_iterations" not in schedules(preset("tiny", "iodine"))
    views = {"views.max_observed": 3, "views.observed_warmup_steps": 4, "views.query_warmup_steps": 2}
    scheduled_views = preset("tiny", "mulmon").replace(views)
    found = schedules(scheduled_views)
    assert [found["max_observed"](scheduled_views, step) for step in (0, 1, 2, 3, 4, 9)] == [1, 1, 2, 2, 3, 3]
    assert [found["query_weight"](scheduled_views, step) for step in (0, 1, 2)] == [0, 0.5, 1]
    assert changing(scheduled_views) == ("query_weight",)


def test_a_run_that_began_on_a_gpu_goes_on_without_one(tmp_path: Path) -> None:
    config = scheduled("iodine")
    with PretendGpu() as gpu:
        assert make(gpu, config.replace({"training.steps": 8}), tmp_path, RecordedOperations(gpu)).run()
    scenes = load_scenes(config.data, "train")
    trainer = Trainer(build_guide(config), config, scenes, RunFolder(tmp_path))
    trainer.restore()
    (group,) = trainer.optimiser.param_groups
    assert (group["lr"], group["capturable"]) == (pytest.approx(config.training.learning_rate, rel=1e-3), False)
    assert all(state["step"] == 8 for state in trainer.optimiser.state.values())
    assert trainer.run()

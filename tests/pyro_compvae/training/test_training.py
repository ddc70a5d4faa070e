"""Schedules, minibatches, and a loop that stops, diverges and resumes as it should."""

from __future__ import annotations

import csv
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from helpers.full_disk import largest_file
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_compvae import images
from pyro_compvae.data import load_scenes
from pyro_compvae.errors import DiskFullError
from pyro_compvae.guides import MulmonGuide, build_guide
from pyro_compvae.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.training.minibatches import minibatch
from pyro_compvae.training.schedules import kl_weight, learning_rate, lnms_strength
from pyro_compvae.training.state import DivergenceError
from pyro_compvae.training.trainer import Look, Trainer

CPU = torch.device("cpu")


def make_trainer(run_dir: Path, config: RunConfig) -> Trainer:
    run_dir.mkdir(exist_ok=True)
    torch.manual_seed(config.seed)
    guide = build_guide(config)

    def evaluate(step: int) -> Mapping[str, float]:
        torch.rand(5)  # evaluation may draw; training must not notice
        return {"twice": 2.0 * step}

    scenes = load_scenes(config.data, "train", multi_view=config.guide == "mulmon")
    return Trainer(guide, config, scenes, RunFolder(run_dir), Look(("twice",), evaluate))


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_learning_rate_is_the_papers() -> None:
    training = preset("paper").training
    for step in (0, 1_000, 599_999, 2_000_000):
        expected = max(0.1 * 2e-4 + 0.9 * 2e-4 * (1.0 - step / 1e6), 0.1 * 2e-4)
        assert learning_rate(training, step) == pytest.approx(expected, rel=1e-12)


def test_warm_ups_are_linear() -> None:
    config = preset("tiny").replace(
        {"training.warmup_steps": 10, "training.kl_warmup_steps": 8, "lnms_prior.warmup_steps": 4}
    )
    config = config.replace({"lnms_prior.strength": 3.0})
    assert learning_rate(config.training, 4) == pytest.approx(0.5 * learning_rate(config.training, 10), rel=1e-4)
    assert [kl_weight(config, step) for step in (0, 2, 8, 100)] == [0.0, 0.25, 1.0, 1.0]
    assert [lnms_strength(config, step) for step in (0, 2, 4, 9)] == [0.0, 1.5, 3.0, 3.0]
    assert lnms_strength(config.replace({"lnms": False}), 9) == 0.0


def test_minibatches_are_epochs_of_permutations() -> None:
    epoch = torch.cat([minibatch(10, 3, seed=1, step=step) for step in range(3)])
    assert len(epoch.unique()) == 9
    following = torch.cat([minibatch(10, 3, seed=1, step=step) for step in range(3, 6)])
    assert not torch.equal(epoch, following)
    assert torch.equal(minibatch(10, 3, 1, 5), following[6:])
    assert not torch.equal(minibatch(10, 3, seed=2, step=0), epoch[:3])
    assert len(minibatch(2, 3, seed=1, step=7)) == 2


@pytest.mark.parametrize(
    ("guide", "stop_at"), [("iodine", 2), ("iodine", 3), ("iodine", 5), ("monet", 3), ("mulmon", 3)]
)
def test_resume_is_bitwise_equal_to_an_uninterrupted_run(tmp_path: Path, guide: GuideName, stop_at: int) -> None:
    """This also holds for a log between two checkpoints, and with warm-ups and L-NMS."""
    config = preset("tiny", guide).replace({"training.optimiser": "rmsprop" if guide == "monet" else "adam"})
    config = config.replace(
        {"training.steps": 8, "training.log_every": 4, "training.evaluate_every": 4, "training.kl_warmup_steps": 6}
    )
    whole = make_trainer(tmp_path / "whole", config)
    assert whole.run()

    part = make_trainer(tmp_path / "part", config.replace({"training.steps": 8}))
    step = part._train_step

    def interrupted_step() -> None:
        step()
        if part.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    part._train_step = interrupted_step  # type: ignore[method-assign]
    assert not part.run()
    assert part.step == stop_at
    resumed = make_trainer(tmp_path / "part", config)
    torch.manual_seed(99)
    resumed.restore()
    assert resumed.run()

    for (name, a), b in zip(whole.guide.state_dict().items(), resumed.guide.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    states = [trainer.optimiser.state_dict()["state"] for trainer in (whole, resumed)]
    assert all(torch.equal(states[0][p][k], states[1][p][k]) for p in states[0] for k in states[0][p])
    assert rows(tmp_path / "whole") == rows(tmp_path / "part")


def test_rows_after_the_last_checkpoint_are_written_again(tmp_path: Path) -> None:
    config = preset("tiny")
    trainer = make_trainer(tmp_path, config)
    trainer.run()
    expected = rows(tmp_path)
    content = load_checkpoint(trainer.state.folder.checkpoint)
    assert content["step"] == 4
    last = trainer.log.path.read_text().splitlines()[-1]
    with trainer.log.path.open("a") as file:
        file.write(f"5,{last.partition(',')[2]}\n")
    again = make_trainer(tmp_path, config)
    again.restore()
    assert rows(tmp_path) == expected


@pytest.mark.parametrize("cut", ["", "ste", "step,seconds", "1", "1,9.9,1.0", "14,9.9,1.0,1.0"])
def test_a_row_or_header_that_a_kill_cut_short_is_dropped(tmp_path: Path, cut: str) -> None:
    """A cut row may look like one of an earlier step, such as 1 for 14."""
    config = preset("tiny").replace({"training.log_every": 2})
    trainer = make_trainer(tmp_path, config)
    trainer.run()
    expected = rows(tmp_path)
    assert [row["step"] for row in expected] == ["2", "4"]
    text = trainer.log.path.read_text()
    header_is_cut = not cut[:1].isdigit()
    trainer.log.path.write_text(cut if header_is_cut else text + cut)
    again = make_trainer(tmp_path, config.replace({"training.steps": 6}))
    again.restore()
    assert rows(tmp_path) == ([] if header_is_cut else expected)
    again.run()
    assert [row["step"] for row in rows(tmp_path)] == (["6"] if header_is_cut else ["2", "4", "6"])
    assert trainer.log.path.read_text().splitlines()[0] == text.splitlines()[0]


@pytest.mark.parametrize("damage", [b"\0" * 40, b"\0,*", b"\xff3,*", b"-3,*", b"3,9.9,1.0", b""])
def test_rows_that_are_damaged_are_dropped(tmp_path: Path, damage: bytes) -> None:
    """After a loss of power there may be NUL bytes, with further rows after them; * is the rest of a whole row."""
    config = preset("tiny").replace({"training.log_every": 1})
    trainer = make_trainer(tmp_path, config)
    trainer.run()
    header, *lines = trainer.log.path.read_bytes().splitlines(keepends=True)
    damaged = damage.replace(b"*", lines[2].partition(b",")[2].rstrip()) + b"\n"
    trainer.log.path.write_bytes(b"".join((header, *lines[:2], damaged, *lines[3:])))
    again = make_trainer(tmp_path, config.replace({"training.steps": 5}))
    again.restore()
    assert trainer.log.path.read_bytes() == b"".join((header, *lines[:2], *lines[3:]))
    again.run()
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "4", "5"]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    config = preset("tiny").replace({"training.checkpoint_every": 3})
    make_trainer(tmp_path / "whole", config).run()
    killed = make_trainer(tmp_path / "killed", config)

    def die() -> None:
        raise ZeroDivisionError

    killed.save = die  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        killed.run()
    assert len(rows(tmp_path / "killed")) == 3
    resumed = make_trainer(tmp_path / "killed", config)
    resumed.restore()
    assert rows(tmp_path / "killed") == []
    assert resumed.run()
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guide": {"a": torch.zeros(1)}}, "expected the weights of the guide that config.yaml describes"),
        ({"optimiser": {}}, "expected the state of this optimiser and its random numbers"),
        ({"optimiser": {"state": {}, "param_groups": [3]}}, "expected the state of this optimiser"),
        ({"window": torch.zeros(3)}, "expected the state of this optimiser"),
        ({"random": [{"cpu": torch.zeros(3)}]}, "expected the state of this optimiser"),
        ({"random": [None]}, "expected the state of this optimiser"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    trainer = make_trainer(tmp_path, preset("tiny"))
    path = trainer.state.folder.checkpoint
    trainer.state.save()
    save_checkpoint(path, torch.load(path, weights_only=True) | changes)
    with pytest.raises(CheckpointError, match=message):
        trainer.restore()


def test_a_lost_checkpoint_is_no_reason_to_begin_anew(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, preset("tiny"))
    trainer.run()
    trainer.state.folder.checkpoint.unlink()
    log = trainer.log.path.read_text()
    with pytest.raises(CheckpointError, match=r"checkpoint of a run that was at step 4 and saved its first at step 2"):
        make_trainer(tmp_path, preset("tiny")).restore()
    assert trainer.log.path.read_text() == log


def test_a_trainer_follows_the_rules_of_the_run_folder(tmp_path: Path) -> None:
    """What it trains is a run; three new trainers in one folder would log the steps 1 2 3 4 three times."""
    trainer = make_trainer(tmp_path / "run", preset("tiny"))
    assert trainer.run()
    folder = trainer.folder
    assert folder.config() == trainer.config
    files = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"expected no run there, .* found one that has been trained otherwise"):
        make_trainer(folder.path, preset("tiny")).run()
    folder.checkpoint.rename(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"expected no run there"):
        make_trainer(folder.path, preset("tiny")).run()
    (tmp_path / "checkpoint").rename(folder.checkpoint)
    behind = make_trainer(folder.path, preset("tiny").replace({"training.steps": 6}))
    behind.restore()
    again = make_trainer(folder.path, preset("tiny").replace({"training.steps": 6}))
    again.restore()
    assert files == {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert again.run()
    with pytest.raises(CheckpointError, match=r"at step 4, found one that has been trained otherwise"):
        behind.run()
    assert [row["step"] for row in rows(folder.path)] == ["1", "2", "3", "4", "5", "6"]
    assert folder.config().training.steps == 6


def test_a_trainer_takes_no_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(CheckpointError, match="expected a new or empty run folder, found one that holds files"):
        make_trainer(tmp_path, preset("tiny")).run()
    run_dir = tmp_path / "run"
    RunFolder(run_dir).path.mkdir()
    RunFolder(run_dir).begin(preset("tiny").replace({"seed": 1}))
    with pytest.raises(CheckpointError, match="of this configuration, found another: seed is 1 there and 0 here"):
        make_trainer(run_dir, preset("tiny")).run()
    assert [path.name for path in run_dir.iterdir()] == ["config.yaml"]


def test_a_disk_too_full_for_events_stops_training_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard writes events in a separate thread, which would print a traceback."""
    printed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    hook = threading.excepthook
    trainer = make_trainer(tmp_path, preset("tiny").replace({"training.checkpoint_every": 1000}))
    trainer.folder.begin(trainer.config)
    with largest_file(700), pytest.raises(DiskFullError, match=r"is full .* There is no checkpoint yet") as caught:
        trainer.run()
    assert str(caught.value).startswith(f"{tmp_path}: cannot be written")
    assert trainer.step >= 1
    assert printed == []
    assert threading.excepthook is hook


def test_signals_save_and_stop_and_handlers_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    trainer = make_trainer(tmp_path, preset("tiny").replace({"training.checkpoint_every": 1000}))
    step = trainer._train_step

    def interrupted_step() -> None:
        step()
        os.kill(os.getpid(), signal.SIGINT)

    trainer._train_step = interrupted_step  # type: ignore[method-assign]
    assert trainer.run() is False
    assert load_checkpoint(trainer.state.folder.checkpoint)["step"] == trainer.step == 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("guide", get_args(GuideName))
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_stops_training_and_keeps_the_last_good_checkpoint(tmp_path: Path, guide: GuideName, poison: float) -> None:
    config = preset("tiny", guide).replace({"training.log_every": 2, "training.steps": 6})
    trainer = make_trainer(tmp_path, config)
    step = trainer._train_step

    def poisoned_step() -> None:
        step()
        if trainer.step == 3:
            with torch.no_grad():
                trainer.guide.model.decoder.last.bias.fill_(poison)

    trainer._train_step = poisoned_step  # type: ignore[method-assign]
    with pytest.raises(DivergenceError, match=r"diverged at step 4: .* last good checkpoint is kept"):
        trainer.run()
    content = load_checkpoint(trainer.state.folder.checkpoint)
    assert content["step"] == 2
    assert all(tensor.isfinite().all() for tensor in content["guide"].values())


class Waits(TorchDispatchMode):
    """A mode that collects the operations that would make the host wait for a GPU, on the CPU too."""

    names = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal.default")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found += [str(func) for name in self.names if name in str(func)]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("guide", get_args(GuideName))
def test_a_step_never_waits_for_the_device(tmp_path: Path, guide: GuideName, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting might hide in any control flow: item(), bool(), or masks as indices."""
    trainer = make_trainer(tmp_path, preset("tiny", guide))
    with Waits() as waits:
        float(torch.ones(2).sum())
    assert waits.found, "the premise"
    # On a CPU, where nothing waits, the colours of images are looked at.
    monkeypatch.setattr(images, "_can_look", lambda values: not torch.is_grad_enabled())
    if isinstance(trainer.guide, MulmonGuide):
        trainer.guide.num_observed = 1  # drawn on the host, whatever the device
    trainer._train_step()
    weights = list(trainer.guide.parameters())
    # Adam counts its steps on the host.
    monkeypatch.setattr(trainer.take_step, "optimiser", torch.optim.SGD(weights, lr=0.0))
    with Waits() as waits:
        trainer._train_step()
    assert waits.found == []


def test_explosion_stops_training(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, preset("tiny"))
    trainer.state.first_loss = 1e-3
    with pytest.raises(
        DivergenceError, match=r"diverged at step 1: .*at most 7680, ten times the first .*no checkpoint yet"
    ):
        trainer.run()
    assert not trainer.state.folder.checkpoint.exists()


def test_a_checkpoint_that_lacks_what_a_run_continues_from_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, preset("tiny"))
    trainer.run()
    content = load_checkpoint(trainer.state.folder.checkpoint)
    del content["random"]
    save_checkpoint(trainer.state.folder.checkpoint, content)
    with pytest.raises(CheckpointError, match=r"missing \['random'\]. Was it written by another version\?"):
        make_trainer(tmp_path, preset("tiny")).restore()


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, preset("tiny")).run()
    other = make_trainer(tmp_path, preset("tiny").replace({"latent_dim": 5}))
    with pytest.raises(CheckpointError, match=r"latent_dim is 4 there and 5 here"):
        other.restore()


def test_other_scenes_are_refused_on_resume(tmp_path: Path) -> None:
    """The place of the data may differ, but the data may not."""
    config = preset("tiny").replace({"training.steps": 2})
    trainer = make_trainer(tmp_path, config)
    trainer.run()
    other = make_trainer(tmp_path, config)
    of_the_same_name = replace(other.scenes, images=other.scenes.images.flip(-1))
    for scenes, got in (
        (replace(other.scenes, origin="other files"), "other files"),
        (of_the_same_name, "of this name, but with other images or viewpoints"),
    ):
        other.state.scenes = scenes
        with pytest.raises(
            CheckpointError, match=rf"the scenes that the run was trained on \(64 sprite .*\), got others \({got}"
        ):
            other.restore()
    other.state.scenes = trainer.scenes
    content = load_checkpoint(tmp_path / "checkpoint.pt")
    del content["digests"]
    save_checkpoint(tmp_path / "checkpoint.pt", content)
    other.restore()  # earlier versions recorded no digests

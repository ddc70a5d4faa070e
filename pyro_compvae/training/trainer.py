"""Stochastic variational inference: the training loop, and how it stops and continues."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.device import fits
from pyro_compvae.errors import ArgumentError, ConfigError, DiskFullError
from pyro_compvae.geco import best_log_likelihood
from pyro_compvae.guide import SceneGuide
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.files import naming_full_disk
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.log import RunLog
from pyro_compvae.signals import stop_signals
from pyro_compvae.training.captured_step import CapturedStep, Recorder
from pyro_compvae.training.distributed import ALONE, WorkerError, Workers
from pyro_compvae.training.elbo import SceneElbo
from pyro_compvae.training.minibatches import minibatch
from pyro_compvae.training.schedules import changing, learning_rate, schedules
from pyro_compvae.training.state import TrainingState
from pyro_compvae.training.step import TrainingStep, make_optimiser

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Look:
    """An evaluation of a guide during training."""

    metric_names: tuple[str, ...] = ()
    """The names of the numbers that ``evaluate`` returns."""
    evaluate: Callable[[int], Metrics] = lambda step: {}
    """A function that is called with the step, returns named numbers for the log, and may draw figures. It uses its own
    random numbers and does not disturb those of training."""


NO_LOOK = Look()
"""A look that evaluates nothing."""

TRAINING_COLUMNS = ("step", "seconds", "loss", "grad_norm", "learning_rate")
"""The first columns of the log; the schedules and the metrics of an evaluation follow."""


GECO_COLUMNS = ("geco_constraint", "geco_multiplier")
"""The columns of GECO: C̄ and λ as they are after the step."""


class Trainer:
    """Train a guide and its model by SVI, and keep the run folder, which all scripts take.

    While it trains no other process may train in the folder, and it does not go on where it has not been: a folder that
    holds a run is for a trainer that was restored from its checkpoint.

    Several workers share every minibatch in equal parts, each with its own noise, and the first one keeps the folder. A
    run can continue from its checkpoint with any number of workers; with the same number the continuation is bitwise
    equal.

    Args:
        guide: the guide, which holds its model, on the device that training is to run on.
        config: the run's configuration.
        scenes: the training scenes.
        folder: the run folder, which is made if there is none.
        look: what to evaluate during training.
        workers: this process, and how many train together.
        recorder: records training steps, which are then repeated as a whole; it works without other workers only.

    Raises:
        ConfigError: if minibatches cannot be divided equally among the workers.
        ValueError: for a recorder with several workers.
    """

    def __init__(
        self,
        guide: SceneGuide,
        config: RunConfig,
        scenes: SceneSet,
        folder: RunFolder,
        look: Look = NO_LOOK,
        workers: Workers = ALONE,
        recorder: Recorder | None = None,
    ) -> None:
        size = min(config.training.batch_size, len(scenes))
        if size % workers.size:
            raise ConfigError(
                f"training.batch_size: expected minibatches that the {workers.size} workers can share in equal parts, "
                f"got {size} scenes (batch_size {config.training.batch_size}, {len(scenes)} training scenes)"
            )
        if recorder is not None and workers.size > 1:
            raise ArgumentError(f"recorder: expected None with several workers, got one with {workers.size}")
        self.guide = guide
        self.config = config
        self.device = device = next(guide.parameters()).device
        scenes = scenes.without_masks()  # no guide may see the masks
        self.scenes = scenes.to(device, pinned=False) if fits(scenes.num_bytes, device) else scenes
        self.folder = folder
        self.look = look
        self.schedules = schedules(config)
        if (
            guide.geco is not None
            and workers.is_first
            and guide.geco.target > (best := best_log_likelihood(guide.model.scale))
        ):
            warnings.warn(
                f"training.geco_target: expected at most {best:.3f} nats, the log-density of a colour value at its "
                f"mean with σ = {guide.model.scale:g}, got {guide.geco.target:g}. λ will grow without end.",
                stacklevel=2,
            )
        geco = () if guide.geco is None else GECO_COLUMNS
        self.log = RunLog(folder, (*TRAINING_COLUMNS, *self.schedules, *geco, *look.metric_names))
        self.workers = workers
        parameters = [parameter for parameter in guide.parameters() if parameter.requires_grad]
        # On a GPU the optimiser is the same whether or not steps are recorded, so that the numbers are the same.
        capturable = recorder is not None or device.type == "cuda"
        self.optimiser = make_optimiser(config.training, parameters, capturable)
        loss = workers.replicate(SceneElbo()(guide.model, guide), device)
        step = TrainingStep(guide, loss, self.optimiser, config.training.clip_norm, workers)
        self.take_step: TrainingStep | CapturedStep = step
        if recorder is not None:
            self.take_step = CapturedStep(step, recorder, changing(config), warnings.warn)
        self.state = TrainingState(guide, self.optimiser, config, self.scenes, folder, workers)

    @property
    def step(self) -> int:
        """The number of training steps taken so far."""
        return self.state.step

    @property
    def seconds(self) -> float:
        """The time in seconds that these steps took."""
        return self.state.seconds

    def save(self) -> None:
        """Write the checkpoint; see `TrainingState.save`."""
        self.state.save()

    def restore(self) -> None:
        """Continue from the run's checkpoint; see `TrainingState.restore`."""
        with self._alone():
            self.state.restore(self.log)

    def run(self) -> bool:
        """Train up to ``config.training.steps``; returns True when done, and False if a signal stopped it (after
        saving).

        Raises:
            CheckpointError: if the folder holds files, or a run that this trainer was not restored from.
            LockedError: if another process trains in the folder.
            DivergenceError: if the loss is not finite or has exploded; the last checkpoint is kept.
            WorkerError: if another worker is gone; the last checkpoint is kept.
            DiskFullError: if there is no room for a file; the last checkpoint is kept.
        """
        with self._alone():
            self.state.claim_folder(self.log)
            return self._run_and_save()

    def _alone(self) -> AbstractContextManager[None]:
        return self.folder.alone() if self.workers.is_first else nullcontext()

    def _run_and_save(self) -> bool:
        first = self.workers.is_first
        writer: AbstractContextManager[SummaryWriter | None] = (
            self.log.events(self.step + 1) if first else nullcontext()
        )
        progress = tqdm(
            total=self.config.training.steps,
            initial=self.step,
            desc="training",
            unit="step",
            mininterval=1.0,
            disable=not first,
        )
        try:
            with (
                naming_full_disk(self.folder.path),
                writer as events,
                progress,
                stop_signals() as stop,
                self.workers.losing_none(),
            ):
                self._run(stop, progress, events)
                self.save()
        except (WorkerError, DiskFullError) as error:
            raise type(error)(f"{error}. {self.state.what_is_kept()} Continue with --resume.") from error
        finally:
            self.take_step.finish()
        return self.step >= self.config.training.steps

    def _run(self, stop: list[int], progress: Any, events: SummaryWriter | None) -> None:
        training = self.config.training
        before, started = self.seconds, time.perf_counter()
        while self.step < training.steps and not self.workers.any(bool(stop)):
            self._train_step()
            self.state.seconds = before + time.perf_counter() - started
            progress.update()
            is_evaluation = self.step == training.steps or self.step % training.evaluate_every == 0
            if is_evaluation or self.step % training.log_every == 0:
                row = self._training_row()
                if events is not None:
                    if is_evaluation:
                        row.update(self._evaluate())
                    self.log.append(row, events)
                    progress.set_postfix({"loss": f"{row['loss']:.1f}"})
            if self.step % training.checkpoint_every == 0:
                self.save()

    def _train_step(self) -> None:
        training = self.config.training
        self.guide.train()
        weights = {name: schedule(self.config, self.step) for name, schedule in self.schedules.items()}
        self.take_step.set(learning_rate(training, self.step), weights)
        batch = minibatch(len(self.scenes), training.batch_size, self.config.seed, self.step)
        arguments = self.guide.arguments(self.scenes.part(self.workers.share(batch)).to(self.device)[:])
        with self._alike(arguments):
            self.state.window.append(self.take_step(*arguments))
        self.state.step += 1

    def _alike(self, arguments: tuple[Tensor, ...]) -> AbstractContextManager[Any]:
        """A context in which all workers make the same decision; otherwise every step would wait for the slowest."""
        if self.workers.size == 1:
            return nullcontext()
        return self.guide.planned(
            *arguments, generator=torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        )

    def _training_row(self) -> dict[str, float]:
        losses, norms = self.state.check_finite()
        self.state.window.clear()
        row = {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "loss": float(losses.mean()),
            "grad_norm": float(norms.mean()),
            "learning_rate": learning_rate(self.config.training, self.step - 1),
            **{name: schedule(self.config, self.step - 1) for name, schedule in self.schedules.items()},
        }
        if self.guide.geco is not None:
            row |= dict(
                zip(GECO_COLUMNS, (float(self.guide.geco.constraint), float(self.guide.geco.multiplier)), strict=True)
            )
        return row

    def _evaluate(self) -> dict[str, float]:
        devices = [self.device] if self.device.type == "cuda" else []
        self.guide.eval()
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.config.seed)
            return dict(self.look.evaluate(self.step))

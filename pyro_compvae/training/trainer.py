"""Stochastic variational inference: the loop, its schedules, and how it stops and goes on."""

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
    """A look at a guide in training."""

    metric_names: tuple[str, ...] = ()
    """The names that ``evaluate`` returns."""
    evaluate: Callable[[int], Metrics] = lambda step: {}
    """Called with the step at which to look; returns named numbers for the log, and may draw figures. It runs on random
    numbers of its own and does not disturb those of training."""


NO_LOOK = Look()
"""Nothing is evaluated."""

TRAINING_COLUMNS = ("step", "seconds", "loss", "grad_norm", "learning_rate")
"""First columns of the log; the schedules and the metrics of an evaluation follow."""


class Trainer:
    """Trains a guide and its model by SVI and keeps the run folder.

    Several workers share every minibatch in equal parts, each with noise of its own, and the first keeps the folder.
    Checkpoints serve any number of workers; with as many as before, a run continues bit by bit.

    Args:
        guide: the guide, which holds its model, on the device where to compute.
        config: of the run.
        scenes: training scenes.
        folder: of the run, which exists.
        look: what to evaluate meanwhile.
        workers: this process among those that train together.
        recorder: records training steps, which are then repeated as a whole; not with several workers.

    Raises:
        ConfigError: if minibatches do not divide among the workers.
        ValueError: for a recorder beside other workers.
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
        scenes = scenes.without_masks()  # which no guide may see
        self.scenes = scenes.to(device, pinned=False) if fits(scenes.num_bytes, device) else scenes
        self.folder = folder
        self.look = look
        self.schedules = schedules(config)
        self.log = RunLog(folder, (*TRAINING_COLUMNS, *self.schedules, *look.metric_names))
        self.workers = workers
        parameters = [parameter for parameter in guide.parameters() if parameter.requires_grad]
        # The same on a GPU whether or not steps are recorded, so that it makes no difference to the numbers.
        capturable = recorder is not None or device.type == "cuda"
        self.optimiser = make_optimiser(config.training, parameters, capturable)
        loss = workers.replicate(SceneElbo()(guide.model, guide), device)
        step = TrainingStep(guide, loss, self.optimiser, config.training.clip_norm)
        self.take_step: TrainingStep | CapturedStep = step
        if recorder is not None:
            self.take_step = CapturedStep(step, recorder, changing(config), warnings.warn)
        self.state = TrainingState(guide, self.optimiser, config, self.scenes, folder, workers)

    @property
    def step(self) -> int:
        """Training steps done."""
        return self.state.step

    @property
    def seconds(self) -> float:
        """Seconds that they took."""
        return self.state.seconds

    def save(self) -> None:
        """Write the checkpoint; see `TrainingState.save`."""
        self.state.save()

    def restore(self) -> None:
        """Continue from the run's checkpoint; see `TrainingState.restore`."""
        self.state.restore(self.log)

    def run(self) -> bool:
        """Train up to ``config.training.steps``; True when done, False when a signal stopped it (after saving).

        Raises:
            DivergenceError: if the loss is not finite or has exploded; the last checkpoint stays as it is.
            WorkerError: if another worker is gone; the last checkpoint stays as it is.
            DiskFullError: if there is no room for a file; the last checkpoint stays as it is.
        """
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
        """Let all workers decide the same where scenes share it; or every step would wait for the largest."""
        if self.workers.size == 1:
            return nullcontext()
        return self.guide.planned(
            *arguments, generator=torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        )

    def _training_row(self) -> dict[str, float]:
        losses, norms = self.state.check_finite()
        self.state.window.clear()
        return {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "loss": float(losses.mean()),
            "grad_norm": float(norms.mean()),
            "learning_rate": learning_rate(self.config.training, self.step - 1),
            **{name: schedule(self.config, self.step - 1) for name, schedule in self.schedules.items()},
        }

    def _evaluate(self) -> dict[str, float]:
        devices = [self.device] if self.device.type == "cuda" else []
        self.guide.eval()
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.config.seed)
            return dict(self.look.evaluate(self.step))

"""Stochastic variational inference: the loop, its schedules, and how it stops and goes on."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.device import fits
from pyro_compvae.errors import ArgumentError, CompvaeError, ConfigError, DiskFullError
from pyro_compvae.guide import SceneGuide
from pyro_compvae.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pyro_compvae.runs.config import RunConfig, differences, from_yaml, to_yaml
from pyro_compvae.runs.files import naming_full_disk
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.log import RunLog
from pyro_compvae.training.captured_step import CapturedStep, Recorder
from pyro_compvae.training.distributed import ALONE, WorkerError, Workers
from pyro_compvae.training.elbo import SceneElbo
from pyro_compvae.training.schedules import SCHEDULES, changing, learning_rate
from pyro_compvae.training.signals import stop_signals
from pyro_compvae.training.step import TrainingStep, load_optimiser, make_optimiser

Metrics = Mapping[str, float]


class DivergenceError(CompvaeError, RuntimeError):
    """The loss or its gradient is not finite, or has exploded."""


TRAINING_COLUMNS = ("step", "seconds", "loss", "grad_norm", "learning_rate", *SCHEDULES)


RESUMED = ("config", "scenes", "step", "seconds", "first_loss", "window", "guide", "optimiser", "random")
"""What a run continues from."""


def minibatch(num_scenes: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Indices of the minibatch of a step: an epoch is a permutation, the incomplete last batch is dropped.

    A pure function of the step, so that a resumed run sees the same batches.
    """
    per_epoch = max(num_scenes // batch_size, 1)
    epoch, position = divmod(step, per_epoch)
    return _order(num_scenes, seed, epoch)[position * batch_size : (position + 1) * batch_size].clone()


@lru_cache(maxsize=2)
def _order(num_scenes: int, seed: int, epoch: int) -> Tensor:
    """The order of the scenes in an epoch, drawn once and not in every step."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    with torch.inference_mode(False):  # kept for later calls, which may train
        return torch.randperm(num_scenes, generator=generator)


class Trainer:
    """Trains a guide and its model by SVI and keeps the run folder.

    Several workers share every minibatch in equal parts, each with noise of its own, and the first keeps the folder.
    Checkpoints serve any number of workers; with as many as before, a run continues bit by bit.

    Args:
        guide: the guide, which holds its model.
        config: of the run.
        scenes: training scenes.
        run_dir: the run folder, which exists.
        device: where to compute.
        evaluate: called with the step at which to evaluate; returns named numbers for the log. It may draw figures.
            It runs on random numbers of its own and does not disturb those of training.
        metric_names: the names that evaluate returns.
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
        run_dir: Path,
        device: torch.device,
        evaluate: Callable[[int], Metrics],
        metric_names: tuple[str, ...],
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
        scenes = scenes.without_masks()  # which no guide may see
        self.scenes = scenes.to(device, pinned=False) if fits(scenes.num_bytes, device) else scenes
        self.run_dir = run_dir
        self.device = device
        self.evaluate = evaluate
        self.log = RunLog(run_dir, (*TRAINING_COLUMNS, *metric_names))
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
        self.step = 0
        self.seconds = 0.0
        self.first_loss: float | None = None
        self._window: list[Tensor] = []
        if not workers.is_first:
            self._seed_worker()

    @property
    def checkpoint_path(self) -> Path:
        """Where the run keeps its checkpoint."""
        return RunFolder(self.run_dir).checkpoint

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
                naming_full_disk(self.run_dir),
                writer as events,
                progress,
                stop_signals() as stop,
                self.workers.losing_none(),
            ):
                self._run(stop, progress, events)
                self.save()
        except (WorkerError, DiskFullError) as error:
            raise type(error)(f"{error}. {self._what_is_kept()} Continue with --resume.") from error
        finally:
            self.take_step.finish()
        return self.step >= self.config.training.steps

    def _run(self, stop: list[int], progress: Any, events: SummaryWriter | None) -> None:
        training = self.config.training
        before, started = self.seconds, time.perf_counter()
        while self.step < training.steps and not self.workers.any(bool(stop)):
            self._train_step()
            self.seconds = before + time.perf_counter() - started
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

    def save(self) -> None:
        """Write the checkpoint: everything that a bitwise-equal continuation needs.

        Raises:
            DivergenceError: instead of writing, if training has diverged.
        """
        losses, norms = self._check_finite()
        random = self.workers.gather(self._random_state())
        if not self.workers.is_first:
            return
        content = {
            "config": to_yaml(self.config),
            "scenes": self.scenes.origin,
            "step": self.step,
            "seconds": self.seconds,
            "first_loss": self.first_loss,
            "window": torch.stack((losses, norms), dim=1),
            "guide": self.guide.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": random,
        }
        save_checkpoint(self.checkpoint_path, content)

    def _what_is_kept(self) -> str:
        kept = "The last good checkpoint is kept" if self.checkpoint_path.exists() else "There is no checkpoint yet"
        return f"{kept} ({self.checkpoint_path})."

    def _random_state(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _seed_worker(self) -> None:
        """A random stream of this worker's own, from here on."""
        numbers = np.random.SeedSequence((self.config.seed, self.workers.rank, self.step)).generate_state(1)
        torch.manual_seed(int(numbers[0]))

    def restore(self) -> None:
        """Continue from the run's checkpoint, or start where the run was ended before its first one.

        Raises:
            CheckpointError: if it is lost, or of other scenes or another configuration (the number of steps and the
                place of the data may differ), or has more steps behind it than are asked for.
        """
        if not self.checkpoint_path.exists():
            self._check_not_lost()
            if self.workers.is_first:
                self.log.drop_after(0)
            return
        content = load_checkpoint(self.checkpoint_path, entries=RESUMED)
        changed = differences(from_yaml(content["config"]), self.config)
        if changed:
            raise CheckpointError(
                f"{self.checkpoint_path}: expected a checkpoint of this configuration, got another: "
                f"{'; '.join(changed)}."
            )
        if content["scenes"] != self.scenes.origin:
            raise CheckpointError(
                f"{self.checkpoint_path}: expected the scenes that the run was trained on ({content['scenes']}), got "
                f"others ({self.scenes.origin}). Name the place of the former with --data-root."
            )
        self.guide.load_state_dict(content["guide"])
        load_optimiser(self.optimiser, content["optimiser"])
        self.step, self.seconds, self.first_loss = content["step"], content["seconds"], content["first_loss"]
        if self.step > self.config.training.steps:
            raise CheckpointError(
                f"--steps: expected at least the {self.step} steps that the run has behind it, "
                f"got {self.config.training.steps}"
            )
        self._window = list(content["window"].to(self.device))
        if self.workers.rank < len(content["random"]):
            random = content["random"][self.workers.rank]
            torch.set_rng_state(random["cpu"])
            if self.device.type == "cuda" and "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"], self.device)
        else:
            self._seed_worker()
        if self.workers.is_first:
            self.log.drop_after(self.step)

    def _train_step(self) -> None:
        training = self.config.training
        self.guide.train()
        weights = {name: schedule(self.config, self.step) for name, schedule in SCHEDULES.items()}
        self.take_step.set(learning_rate(training, self.step), weights)
        batch = minibatch(len(self.scenes), training.batch_size, self.config.seed, self.step)
        arguments = self.guide.arguments(self.scenes.part(self.workers.share(batch)).to(self.device)[:])
        with self._alike(arguments):
            self._window.append(self.take_step(*arguments))
        self.step += 1

    def _alike(self, arguments: tuple[Tensor, ...]) -> AbstractContextManager[Any]:
        """Let all workers decide the same where scenes share it; or every step would wait for the largest."""
        if self.workers.size == 1:
            return nullcontext()
        return self.guide.planned(
            *arguments, generator=torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        )

    def _training_row(self) -> dict[str, float]:
        losses, norms = self._check_finite()
        self._window.clear()
        return {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "loss": float(losses.mean()),
            "grad_norm": float(norms.mean()),
            "learning_rate": learning_rate(self.config.training, self.step - 1),
            **{name: schedule(self.config, self.step - 1) for name, schedule in SCHEDULES.items()},
        }

    def _check_finite(self) -> tuple[Tensor, Tensor]:
        """Losses and gradient norms since the last log, once it is certain that all of them are sound."""
        # One reading of the device for all steps since.
        window = torch.stack(self._window).cpu() if self._window else torch.empty(0, 2)
        losses, norms = self.workers.mean(window).unbind(1)
        bad = ~(losses.isfinite() & norms.isfinite())
        if self.first_loss is None and len(losses) and not bad[0]:
            self.first_loss = float(losses[0])
        limit = math.inf
        if self.first_loss is not None:
            # At least ten nats per colour value, as a first loss may happen to be near 0.
            limit = 10 * max(self.first_loss, 3 * math.prod(self.scenes.image_size))
            bad |= losses > limit
        if bad.any():
            index = int(bad.nonzero()[0])
            step = self.step - len(losses) + 1 + index
            raise DivergenceError(
                f"training diverged at step {step}: expected a finite loss of at most {limit:.0f}, ten times the first "
                f"one, and a finite gradient, got loss {float(losses[index])} and gradient norm "
                f"{float(norms[index])}. {self._what_is_kept()} "
                "Try a lower learning rate or a longer warm-up."
            )
        return losses, norms

    def _evaluate(self) -> dict[str, float]:
        devices = [self.device] if self.device.type == "cuda" else []
        self.guide.eval()
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.config.seed)
            return dict(self.evaluate(self.step))

    def _check_not_lost(self) -> None:
        last, first_checkpoint = self.log.last_step, self.config.training.checkpoint_every
        if last > first_checkpoint:
            raise CheckpointError(
                f"{self.checkpoint_path}: expected the checkpoint of a run that was at step {last} and saved its first "
                f"at step {first_checkpoint}, found no such file. Put it back, or start anew in another --run-dir."
            )

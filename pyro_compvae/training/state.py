"""The state from which training continues, and its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.errors import CompvaeError
from pyro_compvae.guide import SceneGuide
from pyro_compvae.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pyro_compvae.runs.config import RunConfig, differences, from_yaml, to_yaml
from pyro_compvae.runs.files import naming_full_disk
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.log import RunLog
from pyro_compvae.runs.weights import check_weights
from pyro_compvae.training.distributed import Workers
from pyro_compvae.training.step import load_optimiser

RESUMED = ("config", "scenes", "step", "seconds", "first_loss", "window", "guide", "optimiser", "random")
"""The entries of a checkpoint that a run needs in order to continue."""


class DivergenceError(CompvaeError, RuntimeError):
    """The loss or its gradient is not finite, or has exploded."""


@dataclass
class TrainingState:
    """Weights, optimiser, random streams, and the progress of training.

    guide: the guide, which holds the weights.
    optimiser: the optimiser of the trained weights.
    config: the run's configuration.
    scenes: the training scenes.
    folder: the run folder, which holds the checkpoint.
    workers: this process, and how many train together.
    step: the number of training steps taken so far.
    seconds: the time that these steps took.
    first_loss: the loss of the first step, in nats per scene.
    window: loss and norm of the gradient, (2,), of every step since the last log.
    is_continued: whether the state was restored from the folder, or has been saved there.
    """

    guide: SceneGuide
    optimiser: torch.optim.Optimizer
    config: RunConfig
    scenes: SceneSet
    folder: RunFolder
    workers: Workers
    step: int = 0
    seconds: float = 0.0
    first_loss: float | None = None
    window: list[Tensor] = field(default_factory=list)
    is_continued: bool = False

    @property
    def device(self) -> torch.device:
        """The device that training runs on."""
        return next(self.guide.parameters()).device

    def __post_init__(self) -> None:
        if not self.workers.is_first:
            self._seed_worker()

    def claim_folder(self, log: RunLog) -> None:
        """Make the folder a run of this configuration.

        Raises:
            CheckpointError: if it holds files, a run of another configuration, or one that has got to another state.
        """
        if not self.workers.is_first:
            return
        if log.last_step > self.step or (self.folder.checkpoint.exists() and not self.is_continued):
            raise CheckpointError(
                f"{self.folder.path}: expected no run there, or one in the state of this one, at step {self.step}, "
                "found one that has been trained otherwise. Continue that one (Trainer.restore, or --resume), or name "
                "another folder; nothing was overwritten."
            )
        if not self.folder.is_run:
            if not self.is_continued:
                self.folder.check_new()
        elif (stored := self.folder.config()) == self.config:
            return
        elif changed := differences(stored, self.config):
            raise CheckpointError(
                f"{self.folder.path}: expected a run of this configuration, found another: {'; '.join(changed)}."
            )
        with naming_full_disk(self.folder.path):
            self.folder.begin(self.config)

    def save(self) -> None:
        """Write the checkpoint, with everything that a bitwise-equal continuation needs.

        Raises:
            DivergenceError: instead of writing, if training has diverged.
        """
        losses, norms = self.check_finite()
        random = self.workers.gather(self._random_state())
        if not self.workers.is_first:
            return
        content = {
            "config": to_yaml(self.config),
            "scenes": self.scenes.origin,
            "digests": self.scenes.digests,
            "step": self.step,
            "seconds": self.seconds,
            "first_loss": self.first_loss,
            "window": torch.stack((losses, norms), dim=1),
            "guide": self.guide.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": random,
        }
        save_checkpoint(self.folder.checkpoint, content)
        self.is_continued = True

    def restore(self, log: RunLog) -> None:
        """Continue from the run's checkpoint, or start anew if the run ended before its first one.

        Raises:
            CheckpointError: if the checkpoint is lost, or belongs to other scenes or another configuration (the number
                of steps and the place of the data may differ), or has more steps than are asked for.
        """
        if not self.folder.checkpoint.exists():
            self._check_not_lost(log)
            if self.workers.is_first:
                log.drop_after(0)
            self.is_continued = True
            return
        content = load_checkpoint(self.folder.checkpoint, entries=RESUMED)
        changed = differences(from_yaml(content["config"]), self.config)
        if changed:
            raise CheckpointError(
                f"{self.folder.checkpoint}: expected a checkpoint of this configuration, got another: "
                f"{'; '.join(changed)}."
            )
        self._check_scenes(content)
        check_weights(self.folder.checkpoint, content["guide"], self.guide.state_dict())
        self.guide.load_state_dict(content["guide"])
        try:
            self._restore_streams(content)
        # These come from torch, for a state of another optimiser or device, or one that is damaged.
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.folder.checkpoint}: expected the state of this optimiser and its random numbers, but it does "
                f"not fit ({error!r}). Was it written by another version?"
            ) from error
        self.step, self.seconds, self.first_loss = content["step"], content["seconds"], content["first_loss"]
        if self.step > self.config.training.steps:
            raise CheckpointError(
                f"training.steps: expected at least the {self.step} steps that the run has behind it, "
                f"got {self.config.training.steps}"
            )
        if self.workers.rank >= len(content["random"]):
            self._seed_worker()
        if self.workers.is_first:
            log.drop_after(self.step)
        self.is_continued = True

    def _restore_streams(self, content: Mapping[str, Any]) -> None:
        """Continue the optimiser, the log's window, and the random stream of this worker, if it had one."""
        load_optimiser(self.optimiser, content["optimiser"])
        window = content["window"].to(self.device)
        self.window = list(window.reshape(len(window), 2))
        if self.workers.rank < len(content["random"]):
            random = content["random"][self.workers.rank]
            torch.set_rng_state(random["cpu"])
            if self.device.type == "cuda" and "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"], self.device)

    def _check_scenes(self, content: Mapping[str, Any]) -> None:
        same = content.get("digests", self.scenes.digests) == self.scenes.digests  # earlier versions recorded none
        if content["scenes"] != self.scenes.origin or not same:
            got = "of this name, but with other images or viewpoints"
            raise CheckpointError(
                f"{self.folder.checkpoint}: expected the scenes that the run was trained on ({content['scenes']}), got "
                f"others ({got if content['scenes'] == self.scenes.origin else self.scenes.origin}). Name the place of "
                "the former with --data-root."
            )

    def check_finite(self) -> tuple[Tensor, Tensor]:
        """The losses and gradient norms since the last log, after a check that all of them are finite and moderate."""
        # The device is read once for all steps since the last log.
        window = torch.stack(self.window).cpu() if self.window else torch.empty(0, 2)
        losses, norms = self.workers.mean(window).unbind(1)
        bad = ~(losses.isfinite() & norms.isfinite())
        if self.first_loss is None and len(losses) and not bad[0]:
            self.first_loss = float(losses[0])
        limit = math.inf
        if self.first_loss is not None:
            # The limit is at least ten nats per colour value, since a first loss may happen to be near 0.
            limit = 10 * max(self.first_loss, 3 * math.prod(self.scenes.image_size))
            bad |= losses > limit
        if bad.any():
            index = int(bad.nonzero()[0])
            step = self.step - len(losses) + 1 + index
            raise DivergenceError(
                f"training diverged at step {step}: expected a finite loss of at most {limit:.0f}, ten times the first "
                f"one, and a finite gradient, got loss {float(losses[index])} and gradient norm "
                f"{float(norms[index])}. {self.what_is_kept()} "
                "Try a lower learning rate or a longer warm-up."
            )
        return losses, norms

    def what_is_kept(self) -> str:
        """A sentence that says which checkpoint is left after a failure of training."""
        kept = "The last good checkpoint is kept" if self.folder.checkpoint.exists() else "There is no checkpoint yet"
        return f"{kept} ({self.folder.checkpoint})."

    def _random_state(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _seed_worker(self) -> None:
        """Give this worker its own random stream, from here on."""
        numbers = np.random.SeedSequence((self.config.seed, self.workers.rank, self.step)).generate_state(1)
        torch.manual_seed(int(numbers[0]))

    def _check_not_lost(self, log: RunLog) -> None:
        last, first_checkpoint = log.last_step, self.config.training.checkpoint_every
        if last > first_checkpoint:
            raise CheckpointError(
                f"{self.folder.checkpoint}: expected the checkpoint of a run that was at step {last} and saved its "
                f"first at step {first_checkpoint}, found no such file. Put it back, or start anew in another "
                "--run-dir."
            )

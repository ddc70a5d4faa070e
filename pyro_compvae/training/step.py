"""One step of stochastic variational inference: loss, gradients, clipping, and the optimiser's step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_compvae.guide import SceneGuide, Weight
from pyro_compvae.runs.sections import TrainingConfig
from pyro_compvae.training.distributed import ALONE, Workers

Loss = Callable[..., Tensor]
"""The loss, summed over scenes in nats, as a function of the arguments of model and guide."""


def make_optimiser(
    config: TrainingConfig, parameters: list[nn.Parameter], capturable: bool = False
) -> torch.optim.Optimizer:
    """The optimiser that a configuration names; a capturable one keeps its state and learning rate on the GPU."""
    options: dict[str, Any] = {"lr": config.learning_rate}
    if capturable:
        options = {"lr": torch.tensor(config.learning_rate, device=parameters[0].device), "capturable": True}
    if config.optimiser == "rmsprop":
        return torch.optim.RMSprop(parameters, **options)
    return torch.optim.Adam(parameters, betas=(config.beta1, 0.999), **options)


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Continue from a state, on whatever device it was saved: a run that began on a GPU may continue on a CPU."""
    own = [{name: group[name] for name in ("lr", "capturable")} for group in optimiser.param_groups]
    groups = [group | kept for group, kept in zip(state["param_groups"], own, strict=True)]
    optimiser.load_state_dict(state | {"param_groups": groups})  # this copies the groups
    for group, saved, kept in zip(optimiser.param_groups, state["param_groups"], own, strict=True):
        is_on_device = isinstance(kept["lr"], Tensor)
        group["lr"] = kept["lr"].fill_(saved["lr"]) if is_on_device else float(saved["lr"])


class TrainingStep:
    """A training step of a guide and its model, whose arguments it takes.

    Args:
        guide: the guide, in train mode.
        loss: the loss of the guide and its model.
        optimiser: the optimiser of the trained parameters.
        clip_norm: the largest norm of the gradient, to which longer ones are clipped.
        workers: this process, and how many take the step together.
    """

    def __init__(
        self,
        guide: SceneGuide,
        loss: Loss,
        optimiser: torch.optim.Optimizer,
        clip_norm: float,
        workers: Workers = ALONE,
    ) -> None:
        self.guide = guide
        self.loss = loss
        self.optimiser = optimiser
        self.clip_norm = clip_norm
        self.workers = workers

    def set(self, learning_rate: float, weights: Mapping[str, Weight]) -> None:
        """Set the learning rate, and the weights of the objective by the names of the guide's attributes."""
        for name, value in weights.items():
            setattr(self.guide, name, value)
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Take the step, with GECO also one of λ; returns the loss in nats per scene and its gradient's norm, (2,)."""
        # Pyro's own checks read every pixel in every step, and would report a NaN in terms of shapes and sites.
        # Parameters stay with their modules, outside of Pyro's global store.
        with pyro.validation_enabled(False), pyro.get_param_store().scope():
            loss = self.loss(*arguments) / len(arguments[0])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.optimiser.step()
        if self.guide.geco is not None:
            self.guide.geco.update(self.workers.mean)
        return torch.stack((loss.detach(), norm))

    def finish(self) -> None:
        """Do nothing: a plain step leaves no state behind."""

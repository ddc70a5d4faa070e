"""The learning rate and the weights of the objective as functions of the training step."""

from __future__ import annotations

from collections.abc import Callable

from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.sections import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """η at step s: linear warm-up, then the paper's max{0.1 η + 0.9 η (1 − s/decay_steps), 0.1 η} (Table 3), or η."""
    decay = 1.0 if config.decay_steps is None else max(0.1 + 0.9 * (1 - step / config.decay_steps), 0.1)
    return config.learning_rate * decay * _ramp(step + 1, config.warmup_steps)


def kl_weight(config: RunConfig, step: int) -> float:
    """β, the weight of the KL divergence, at a step."""
    return config.training.kl_weight * _ramp(step, config.training.kl_warmup_steps)


def lnms_strength(config: RunConfig, step: int) -> float:
    """s, the strength of L-NMS, at a step; 0 without L-NMS."""
    if not config.lnms:
        return 0.0
    return config.lnms_prior.strength * _ramp(step, config.lnms_prior.warmup_steps)


def mask_strength(config: RunConfig, step: int) -> float:
    """γ, the weight of MONet's mask KL, at a step."""
    assert config.attention is not None
    return config.attention.mask_strength * _ramp(step, config.attention.mask_warmup_steps)


def num_iterations(config: RunConfig, step: int) -> int:
    """T, the number of refinement steps, at a step of training."""
    refinement = config.refinement
    assert refinement is not None
    if refinement.early_iterations is None or step >= refinement.early_steps:
        return refinement.num_iterations
    return refinement.early_iterations


def query_weight(config: RunConfig, step: int) -> float:
    """The weight of MulMON's queries at a step."""
    assert config.views is not None
    return _ramp(step, config.views.query_warmup_steps)


def max_observed(config: RunConfig, step: int) -> int:
    """The largest number of views that MulMON observes at a step."""
    assert config.views is not None
    return 1 + int((config.views.max_observed - 1) * _ramp(step, config.views.observed_warmup_steps))


Schedule = Callable[[RunConfig, int], float]
"""A weight of the objective, or a number that decides what is computed, as a function of the step."""

PLANNED = ("num_iterations", "max_observed")
"""Schedules that decide which operations are computed. They belong to the guide's plan."""


def schedules(config: RunConfig) -> dict[str, Schedule]:
    """The schedules of a run, by the attributes of the guide that they set before every step."""
    found: dict[str, Schedule] = {"kl_weight": kl_weight, "lnms_strength": lnms_strength}
    if config.attention is not None:
        found["mask_strength"] = mask_strength
    if config.refinement is not None and config.refinement.early_iterations is not None:
        found["num_iterations"] = num_iterations
    if config.views is not None and config.views.query_warmup_steps:
        found["query_weight"] = query_weight
    if config.views is not None and config.views.observed_warmup_steps:
        found["max_observed"] = max_observed
    return found


def changing(config: RunConfig) -> tuple[str, ...]:
    """The weights of the objective that are not constant throughout a run, which their ends show, since they only rise.

    `PLANNED` are not among them.
    """
    end = config.training.steps
    weights = {name: schedule for name, schedule in schedules(config).items() if name not in PLANNED}
    return tuple(name for name, schedule in weights.items() if schedule(config, 0) != schedule(config, end))


def _ramp(step: int, length: int) -> float:
    return min(1.0, step / length) if length else 1.0

"""Whether the draws and the scenes of a batch are evaluated independently of one another.

If they are not, the sum of a scene's terms is not its log p(x, z), and no number that comes of it shows that. So two
draws of the batch are evaluated together, as an estimator does it, and one of them for one scene alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_compvae.errors import CompvaeError, NotFiniteError
from pyro_compvae.evidence.trace import (
    TraceError,
    particles_trace,
    per_scene_log_prob,
    sample_sites,
    scenes_frame,
)

ROUNDING = {torch.float64: 1e-6, torch.float32: 3e-5, torch.float16: 0.03, torch.bfloat16: 0.1}
"""How far two evaluations of one log joint may differ, as a share of it, by the type of the model's values."""

FROM_THE_RIGHT = "count dimensions from the right: z[..., 0, :] and not z[:, 0]"


def check_independent(
    evaluate: Callable[[], poutine.Trace],
    model: Callable[..., Any],
    arguments: tuple[Any, ...],
    nesting: int,
    latent: Collection[str],
    what: str = "model",
) -> None:
    """Refuse a model that mixes draws, or scenes.

    It costs the evaluation of two draws, and that of one draw of one scene, and takes no random numbers. Where memory
    has no room for two draws, nothing is checked.

    Args:
        evaluate: evaluates the model at two draws for all scenes, as in `particles_trace`.
        model: the model.
        arguments: its arguments, tensors with one entry per scene.
        nesting: the depth of its plates.
        latent: the names of its latent sites.
        what: what error messages call the programs that are evaluated.

    Raises:
        TraceError: for such a model.
    """
    with random_state_kept(arguments):
        try:
            trace = _evaluated(evaluate, what)
        except torch.OutOfMemoryError:  # an estimator takes as few draws at a time as there is room for
            return
        try:
            together = per_scene_log_prob(trace, 2, nesting, "model")[-1]
        except NotFiniteError:  # the estimator meets and names it too, if it is not for this draw alone
            return
        share, scene = rounding_of(trace), len(together) - 1
        drawn = {name: site for name, site in sample_sites(trace) if name in latent}

        def log_joint(arguments: tuple[Any, ...], num_scenes: int, scene: int | None) -> Tensor | None:
            values = {name: _last_draw(name, site, nesting, scene) for name, site in drawn.items()}
            return _without_particles(poutine.condition(model, values), arguments, nesting, num_scenes)

        alone = log_joint(_of_scene(arguments, scene, len(together)), 1, scene)
        if alone is not None and agree(alone[0], together[scene], share):
            return
        whole = log_joint(arguments, len(together), None)
    if whole is not None and not agree(whole[scene], together[scene], share):
        raise TraceError(
            f"model: expected a log joint that does not depend on other draws, got {float(together[scene]):.6g} for a "
            f"draw beside another one and {float(whole[scene]):.6g} for it alone (scene {scene}); {FROM_THE_RIGHT}"
        )
    if alone is not None:
        raise TraceError(
            "model: expected a log joint of every scene that does not depend on other scenes, got "
            f"{float(together[scene]):.6g} for scene {scene} in a batch of {len(together)} and {float(alone[0]):.6g} "
            "for it alone; give arguments with one entry per scene, and let no mean or product run over scenes"
        )


def two_draws(z: Tensor) -> Tensor:
    """Two draws (2, B, K, D) of which the second is of other scenes and slots, from one draw (1, B, K, D)."""
    return torch.cat((z, z.roll(1, 1).flip(-2)))


def rounding_of(trace: poutine.Trace) -> float:
    """How far two evaluations of a program may differ, as a share: that of the coarsest type of its values."""
    return max(ROUNDING.get(site["value"].dtype, 0.0) for _, site in sample_sites(trace)) or ROUNDING[torch.float32]


def agree(one: Tensor, other: Tensor, share: float) -> bool:
    """Whether evaluations of a log joint, nats, are the same up to rounding; NaN, which others report, is no reason."""
    near = ((one - other).abs() <= share * (1 + other.abs())) & other.isfinite()
    return bool((near | (one == other) | one.isnan() | other.isnan()).all())


def random_state_kept(arguments: tuple[Any, ...]) -> Any:
    """A context that takes no random numbers from the streams that an estimate draws from."""
    devices = {argument.device for argument in arguments if isinstance(argument, Tensor)}
    return torch.random.fork_rng([device for device in devices if device.type == "cuda"])


def _of_scene(arguments: tuple[Any, ...], scene: int, num_scenes: int) -> tuple[Any, ...]:
    """The arguments for one of the scenes."""
    return tuple(
        argument[scene : scene + 1]
        if isinstance(argument, Tensor) and argument.dim() and len(argument) == num_scenes
        else argument
        for argument in arguments
    )


def _evaluated(evaluate: Callable[[], poutine.Trace], what: str) -> poutine.Trace:
    """The trace of two draws.

    Raises:
        TraceError: if programs that run for one draw stop with two.
    """
    try:
        return evaluate()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, CompvaeError):
            raise
        reason = str(error).partition("\n")[0]
        raise TraceError(
            f"{what}: expected to take draws in one more dimension, to the left of its plates, but with them it stops "
            f"({reason}); {FROM_THE_RIGHT}"
        ) from error


def _without_particles(
    model: Callable[..., Any], arguments: tuple[Any, ...], nesting: int, num_scenes: int
) -> Tensor | None:
    """The log joint (B,) of a single run; None for a program that cannot be run for this number of scenes."""
    try:
        log_p = per_scene_log_prob(particles_trace(model, arguments, None, nesting), 1, nesting, "model")[0]
    except (NotFiniteError, RuntimeError, ValueError, IndexError):
        return None
    return log_p if len(log_p) == num_scenes else None


def _last_draw(name: str, site: Any, nesting: int, scene: int | None) -> Tensor:
    """The value (plates..., event) of a latent site in the last of several draws."""
    value, event_dim = site["value"], site["fn"].event_dim
    missing = nesting + 1 + event_dim - value.dim()
    value = value.reshape((1,) * missing + value.shape)[-1]
    dim = scenes_frame(name, site, "model").dim - event_dim
    return value if scene is None or value.shape[dim] == 1 else value.narrow(dim, scene, 1)

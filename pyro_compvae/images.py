"""The check of images and viewpoints at the door of every function that takes them.

Shape and type are always checked. Values are checked too, except where that would make the host wait for a GPU in a
training step, or is impossible because the operations are being recorded by ``torch.jit`` or ``torch.compile``.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_compvae.checks import describe, name_of
from pyro_compvae.errors import ArgumentError

VIEWPOINT_DIM = 3
"""How many numbers describe a viewpoint."""

LARGEST_NOISE = 8
"""How many σ a colour may lie outside of [0, 1]. Images that were simulated from a model have its noise, whose mean
excess is 0.4 σ at most."""


class ImageModel(Protocol):
    """What the checks of images ask of a model.

    image_size: (H, W).
    scale: σ, the noise of a colour.
    """

    image_size: tuple[int, int]
    scale: float

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""


def check_images(x: Tensor, model: ImageModel) -> None:
    """Refuse anything but a batch of colour images of the model's size and precision, in [0, 1] up to its noise.

    Raises:
        ArgumentError: unless x is of shape (B, 3, H, W) and of the type of the model's weights, and its colours are in
            [0, 1].
    """
    _check_shape(x, model, "images (B, 3, {}, {})", 4)
    _check_colours(x, model.scale)


def check_views(x: Tensor, viewpoints: Tensor | None, model: ImageModel) -> None:
    """Refuse anything but a batch of scenes of several views with their viewpoints, of the model's size and precision.

    Raises:
        ArgumentError: unless x is of shape (B, V, 3, H, W), viewpoints of shape (B, V, 3), and both of the type of the
            model's weights; for colours outside of [0, 1], and viewpoints that are not finite.
    """
    _check_shape(x, model, "views (B, V, 3, {}, {})", 5)
    if viewpoints is None:
        raise ArgumentError("viewpoints: expected (B, V, 3), got none; a multi-view model cannot do without cameras")
    expected = (*x.shape[:2], VIEWPOINT_DIM)
    if not isinstance(viewpoints, Tensor) or viewpoints.shape != expected or viewpoints.dtype != model.dtype:
        raise ArgumentError(
            f"viewpoints: expected {expected} of {name_of(model.dtype)} to fit x, got {_described(viewpoints)}"
        )
    _check_colours(x, model.scale)
    check_finite(viewpoints)


def check_viewpoints(viewpoints: Tensor, model: ImageModel) -> None:
    """Refuse anything but viewpoints from which a model can simulate scenes.

    Raises:
        ArgumentError: unless they are finite numbers (B, V, 3) of the type of the model's weights.
    """
    if (
        not isinstance(viewpoints, Tensor)
        or viewpoints.dim() != 3
        or viewpoints.shape[2] != VIEWPOINT_DIM
        or 0 in viewpoints.shape
        or viewpoints.dtype != model.dtype
    ):
        raise ArgumentError(
            f"viewpoints: expected (B, V, {VIEWPOINT_DIM}) of {name_of(model.dtype)}, got {_described(viewpoints)}"
        )
    check_finite(viewpoints)


def check_finite(viewpoints: Tensor) -> None:
    """Refuse viewpoints that are NaN or infinite, if their values can be looked at.

    Raises:
        ArgumentError: for such viewpoints, with the scene.
    """
    if _can_look(viewpoints) and not bool((finite := viewpoints.isfinite().flatten(1).all(1)).all()):
        scene = int(finite.long().argmin())
        raise ArgumentError(f"viewpoints: expected finite numbers, got NaN or infinity in scene {scene}")


def _check_shape(x: Any, model: ImageModel, what: str, dims: int) -> None:
    """Refuse other shapes and types, with advice on what to do."""
    height, width = model.image_size
    expected = f"{what.format(height, width)} of {name_of(model.dtype)} in [0, 1]"
    if not isinstance(x, Tensor):
        raise ArgumentError(f"x: expected {expected}, got {_described(x)}; torch.as_tensor makes a tensor of an array")
    if x.dim() == dims and x.shape[-3:] == (3, height, width) and 0 not in x.shape and x.dtype == model.dtype:
        return
    advice = ""
    if x.dim() == dims and x.shape[-3:] == (height, width, 3):
        advice = "; x.movedim(-1, -3) puts the colours first"
    elif x.dim() == dims - 1 and x.shape[-3:] == (3, height, width):
        advice = "; x.unsqueeze(0) is a batch of one"
    elif x.dtype == torch.uint8:
        advice = "; x / 255 makes colours of bytes"
    elif x.dtype != model.dtype and x.is_floating_point():
        advice = f"; x.to(torch.{name_of(model.dtype)}) has the type of the weights"
    raise ArgumentError(f"x: expected {expected}, got {describe(x)}{advice}")


def _check_colours(x: Tensor, scale: float) -> None:
    """Refuse NaN, and colours further outside of [0, 1] than noise of a scale σ puts them."""
    if not _can_look(x):
        return
    excess = (x - x.clamp(0, 1)).abs().flatten(1)
    good = (excess.amax(1) <= LARGEST_NOISE * scale) & (excess.mean(1) <= scale)  # NaN is neither
    if bool(good.all()):
        return
    scene = int(good.long().argmin())
    if not bool(x[scene].isfinite().all()):
        raise ArgumentError(f"x: expected colours in [0, 1], got NaN or infinity in scene {scene}")
    low, high = (float(value) for value in x[scene].aminmax())
    advice = ""
    if low >= 0 and high > 2:
        advice = "; x / 255 makes colours of bytes"
    elif low < -0.5 and high <= 1:
        advice = "; (x + 1) / 2 makes colours of numbers in [-1, 1]"
    raise ArgumentError(f"x: expected colours in [0, 1], got {low:g} to {high:g} in scene {scene}{advice}")


def _can_look(values: Tensor) -> bool:
    """Whether values may be read here; a training step must not wait for a GPU, and a recorder sees no values."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or torch._C._functorch.is_batchedtensor(values):
        return False
    return values.device.type == "cpu" or not torch.is_grad_enabled()


def _described(value: Any) -> str:
    return describe(value) if isinstance(value, Tensor) else type(value).__name__

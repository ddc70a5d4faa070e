"""A pretended GPU: its tensors say that they are on one, hold CPU values, and refuse operations with CPU tensors.

    with PretendGpu() as gpu:
        guide = build_guide(config).to(gpu.device)
    gpu.syncs  # where the host would have waited

Everything runs with real values, so that control flow, `.item()`, SciPy and figures behave as on a GPU. Operations that
CUDA refuses are refused here too: those on tensors of both devices (except 0-dimensional CPU tensors in pointwise
operations, and CPU indices), and `numpy()` of a tensor on the GPU. The GPU has its own random stream.

The type of the device is "meta", whose autograd any build of torch has; "cuda" would need a device guard, which builds
without CUDA lack. So code that depends on ``device.type == "cuda"`` is not tested here.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

ROOT = Path(__file__).parents[2]


class DeviceError(RuntimeError):
    """CUDA would refuse this operation."""


class OnGpu(Tensor):
    """A tensor that says that it is on the GPU, and holds its values on the CPU."""

    values: Tensor
    __slots__ = ("values",)

    @staticmethod
    def __new__(cls, values: Tensor, device: torch.device) -> OnGpu:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device=device,
            requires_grad=False,
        )
        tensor.values = values
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise DeviceError(f"{func}: a tensor of the pretended GPU outside of its mode")

    def tolist(self) -> Any:
        """Copy to the host, which waits like every such copy."""
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refuse the conversion, as CUDA does."""
        if force:
            return self.detach().cpu().numpy()
        raise DeviceError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")

    def __getitem__(self, index: Any) -> Tensor:
        # A list becomes a tensor on this device below the mode.
        parts = index if isinstance(index, tuple) else (index,)
        parts = tuple(torch.tensor(part, device=self.device) if isinstance(part, list) else part for part in parts)
        return super().__getitem__(parts if isinstance(index, tuple) else parts[0])

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnGpu({self.values!r})"


def _lstm_cell(input_gates: Tensor, hidden_gates: Tensor, cx: Tensor, b_i: Any = None, b_h: Any = None) -> Any:
    """The fused cell, which only CUDA has."""
    gates = input_gates + hidden_gates + (0 if b_i is None else b_i + b_h)
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cy = f * cx + i * g
    return o * cy.tanh(), cy, torch.cat((i, f, g, o), 1)


def _lstm_cell_backward(grad_hy: Any, grad_cy: Any, cx: Tensor, cy: Tensor, workspace: Tensor, bias: bool) -> Any:
    i, f, g, o = workspace.chunk(4, 1)
    hy = torch.zeros_like(cy) if grad_hy is None else grad_hy
    c = (0 if grad_cy is None else grad_cy) + hy * o * (1 - cy.tanh().square())
    parts = (c * g * i * (1 - i), c * cx * f * (1 - f), c * i * (1 - g * g), hy * cy.tanh() * o * (1 - o))
    gates = torch.cat(parts, 1)
    return gates, c * f, gates.sum(0) if bias else None


INSTEAD = {"_thnn_fused_lstm_cell": _lstm_cell, "_thnn_fused_lstm_cell_backward_impl": _lstm_cell_backward}

SYNCS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim", "bincount"}
"""Operations that make the host wait for a result."""

WITH_SCALARS = {"fill_", "masked_fill", "masked_fill_", "where", "_foreach_add_", "_foreach_mul_", "_foreach_div_"}
"""Operations other than pointwise ones that take a 0-dimensional CPU tensor together with tensors of the GPU."""


@cache
def _aliases(func: Any) -> bool:
    """Whether an operation's result is, or may share memory with, one of its arguments."""
    return any(item.alias_info is not None for item in (*func._schema.returns, *func._schema.arguments))


def map_only(kind: type, function: Callable[[Any], Any], value: Any) -> Any:
    """Do the same as `tree_map_only` for arguments and results of operations, several times as fast."""
    if isinstance(value, kind):
        return function(value)
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        return value
    if type(value) in (list, tuple):
        return type(value)([map_only(kind, function, part) for part in value])
    if type(value) is dict:
        return {name: map_only(kind, function, part) for name, part in value.items()}
    return tree_map_only(kind, function, value)


def leaves(value: Any) -> list[Any]:
    """Do the same as `tree_leaves` for arguments and results of operations."""
    if type(value) in (list, tuple):
        return [leaf for part in value for leaf in leaves(part)]
    if type(value) is dict:
        return leaves(list(value.values()))
    return [value] if isinstance(value, Tensor) else tree_leaves(value)


class PretendGpu(TorchDispatchMode):
    """A mode that makes `self.device` a separate device while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("meta")
        self.syncs: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.random = torch.Generator().manual_seed(0).get_state()

    def _is_here(self, device: Any) -> bool:
        return device is not None and torch.device(device).type == self.device.type

    def _wrap(self, value: Any) -> Any:
        return map_only(Tensor, lambda t: t if isinstance(t, OnGpu) else OnGpu(t, self.device), value)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        if name == "_assert_async" and len(args) > 1 and len(args[1]) >= 255:
            raise DeviceError(f"Message length must be smaller than 255, got {len(args[1])}")
        flat = leaves((args, kwargs))
        here = [t for t in flat if isinstance(t, OnGpu)]
        there = [t for t in flat if isinstance(t, Tensor) and not isinstance(t, OnGpu)]
        target = kwargs.get("device")
        if func is torch.ops.prim.device.default:
            return self.device if here else args[0].device
        if not here and not self._is_here(target):
            return func(*args, **kwargs)
        plain = map_only(OnGpu, lambda t: t.values, (args, kwargs))
        if self._is_here(target):
            plain[1]["device"] = torch.device("cpu")
        if name == "_to_copy":
            to_gpu = self._is_here(target) if target is not None else bool(here)
            if not to_gpu and here:
                self._note(self.copies, "to CPU")
            elif to_gpu and not here:
                self._note(self.copies, "to GPU")
            out = func(*plain[0], **plain[1])
            if out.data_ptr() == (args[0].values if here else args[0]).data_ptr():
                out = out.clone()
            return self._wrap(out) if to_gpu else out
        if name == "copy_":
            if isinstance(args[0], OnGpu) != isinstance(args[1], OnGpu) and args[1].dim():
                self._note(self.copies, "copy_ to GPU" if isinstance(args[0], OnGpu) else "copy_ to CPU")
            func(*plain[0], **plain[1])
            return args[0]
        if here and there:
            self._check(func, name, args, there)
        if name in SYNCS and here:
            self._note(self.syncs, name)
        if name == "index" and any(isinstance(i, OnGpu) and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            self._note(self.syncs, "index by a mask")
        stays = not (here and target is not None and not self._is_here(target))
        if torch.Tag.nondeterministic_seeded in func.tags and stays:
            out = self._with_own_random(func, plain)
        else:
            out = INSTEAD.get(name, func)(*plain[0], **plain[1])
        if not stays:
            return out
        out = self._wrap(out)
        return return_and_correct_aliasing(func, args, kwargs, out) if here and _aliases(func) else out

    def _with_own_random(self, func: Any, plain: Any) -> Any:
        before = torch.default_generator.get_state()
        torch.default_generator.set_state(self.random)
        try:
            return func(*plain[0], **plain[1])
        finally:
            self.random = torch.default_generator.get_state()
            torch.default_generator.set_state(before)

    def _check(self, func: Any, name: str, args: Any, there: list[Tensor]) -> None:
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            if isinstance(args[0], OnGpu):
                others = [v for v in args[2:3] if isinstance(v, Tensor) and not isinstance(v, OnGpu) and v.dim()]
                if not others:
                    self._note(self.copies, "indices to GPU")
                    return
        elif all(t.dim() == 0 for t in there) and (torch.Tag.pointwise in func.tags or name in WITH_SCALARS):
            return
        raise DeviceError(
            f"{func}: expected all tensors on the same device, found {self.device} and cpu "
            f"{[tuple(t.shape) for t in there]}"
        )

    def _note(self, counter: Counter[str], what: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(ROOT)]
        own = [frame for frame in frames if "site-packages" not in frame.filename and frame.filename != __file__]
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(own[-2:]))
        counter[f"{what} at {where}"] += 1

    def __enter__(self) -> PretendGpu:
        self._patches = ExitStack()
        enter = self._patches.enter_context

        def pin_memory(tensor: Tensor, device: Any = None) -> Tensor:
            if isinstance(tensor, OnGpu):
                raise DeviceError("cannot pin: only dense CPU tensors can be pinned")
            return tensor.clone()

        real_load, real_save = torch.load, torch.save

        def load(*args: Any, map_location: Any = None, **kwargs: Any) -> Any:
            content = real_load(*args, map_location="cpu", **kwargs)
            move = map_location is not None and self._is_here(map_location)
            return tree_map_only(Tensor, lambda t: t.to(self.device), content) if move else content

        def save(content: Any, *args: Any, **kwargs: Any) -> None:
            real_save(tree_map_only(OnGpu, lambda t: t.values.detach().clone(), content), *args, **kwargs)

        real_tensor = torch.tensor

        def tensor(data: Any, *args: Any, **kwargs: Any) -> Tensor:
            # torch.tensor reads tensors in a list one by one, below this mode.
            if isinstance(data, (list, tuple)):
                data = tree_map_only(OnGpu, lambda t: t.tolist(), data)
            if not self._is_here(kwargs.get("device")):
                return real_tensor(data, *args, **kwargs)
            return real_tensor(data, *args, **(kwargs | {"device": "cpu"})).to(self.device)

        enter(mock.patch.object(torch, "tensor", tensor))
        real_autocast = torch.autocast

        def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:  # "meta" has none, not even a disabled one
            return nullcontext() if device_type == "meta" else real_autocast(device_type, *args, **kwargs)

        enter(mock.patch.object(torch, "autocast", autocast))
        enter(mock.patch.object(torch.Tensor, "pin_memory", pin_memory))
        enter(mock.patch.object(torch, "load", load))
        enter(mock.patch.object(torch, "save", save))
        enter(warnings.catch_warnings())
        warnings.filterwarnings("ignore", ".*which is a no-op", UserWarning)  # into "meta" it is, into this one not
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # module.to() makes parameters of this class
        self._patches.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        import torch.optim.optimizer as optimizer
        import torch.utils._foreach_utils as foreach

        for algorithm in ("adam", "rmsprop"):
            where = f"torch.optim.{algorithm}._get_capturable_supported_devices"
            enter(mock.patch(where, return_value=["meta"]))
        for module in (optimizer, foreach):
            enter(mock.patch.object(module, "_foreach_supported_types", [*module._foreach_supported_types, OnGpu]))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

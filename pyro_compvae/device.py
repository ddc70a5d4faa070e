"""The device to compute on, and its memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pyro_compvae.errors import ConfigError


def choose_device(name: str | torch.device) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one. Each worker of ``torchrun`` gets its own GPU.

    Raises:
        ConfigError: for a device that this machine does not have, or if there are fewer GPUs than workers.
    """
    if name not in ("auto", "cuda"):
        return check_device(name)
    if not torch.cuda.is_available():
        if name == "cuda":
            raise ConfigError("device: expected a machine with a GPU for cuda, found none; use cpu or auto")
        return torch.device("cpu")
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= count:
        raise ConfigError(f"--nproc-per-node: expected at most {count}, the GPUs of this machine; got more workers")
    return torch.device("cuda", index)


def check_device(device: torch.device | str) -> torch.device:
    """Return the device of that name, if this machine has it.

    Raises:
        ConfigError: if the machine has no such device.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"device: expected one that this machine has, such as cpu; got {device} ({reason})"
        ) from error


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether data of that size may stay on a device: up to a quarter of a GPU's free memory, and always on a CPU."""
    return device.type != "cuda" or num_bytes <= torch.cuda.mem_get_info(device)[0] // 4


def memory_of(function: Callable[[], object], device: torch.device) -> tuple[int, int]:
    """Bytes of a GPU that a call takes at its peak, and bytes that were free before; 0 on a CPU, which can swap."""
    if device.type != "cuda":
        return 0, 0
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    return torch.cuda.max_memory_allocated(device) - before, free


@contextmanager
def torch_defaults() -> Iterator[None]:
    """A context with torch's own defaults, float32 on the CPU, whatever defaults the calling program has set."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)

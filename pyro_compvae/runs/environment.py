"""The commands, packages and machine that made a run, so that others can make it again."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pyro_compvae.errors import ArgumentError
from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.files import write_text
from pyro_compvae.runs.reading import read_json

PACKAGES = ("pyro-compvae", "torch", "pyro-ppl", "numpy", "scipy", "arviz")


def write_environment(path: Path, command: Sequence[str], device: torch.device, num_workers: int = 1) -> None:
    """Add a command to the environment.json of a run, with the machine and the packages that it uses.

    A run that was resumed has an entry for every call.

    Args:
        path: the file.
        command: the script and its arguments.
        device: the device that the command computes on.
        num_workers: the number of processes that share the work.

    Raises:
        CheckpointError: if the file is damaged.
    """
    calls = read_environment(path)
    cpu = f"{processor()}, {torch.get_num_threads()} threads"
    launcher = ["python"] if num_workers == 1 else ["torchrun", "--nproc-per-node", str(num_workers)]
    made_by = shlex.join([*launcher, *command]) if command[0].endswith((".py", "-m")) else " ".join(command)
    packages: dict[str, str | None] = {name: _version(name) for name in PACKAGES}
    if device.type == "cuda":
        packages |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    call = {
        "command": made_by,
        "workers": num_workers,
        "python": platform.python_version(),
        "packages": packages,
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
    }
    write_text(path, json.dumps([*calls, call], indent=2, ensure_ascii=False) + "\n")


def read_environment(path: Path) -> list[dict[str, Any]]:
    """The calls that made a run; an empty list if there is no such file.

    Raises:
        CheckpointError: if the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        calls = read_json(path, path.parent, ArgumentError)
        if not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
            raise ArgumentError("it is no list of objects")
    except ArgumentError as error:
        raise CheckpointError(
            f"{path}: expected the calls that made the run, but it cannot be read ({error}). Mend the file or delete "
            "it; the run itself was not touched and does not need it."
        ) from error
    return calls


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The name of the processor's model if Linux's /proc has it, and otherwise of its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

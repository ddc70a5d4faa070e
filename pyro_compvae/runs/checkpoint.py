"""Checkpoints, from which training continues."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_compvae.errors import ArgumentError, CompvaeError
from pyro_compvae.runs.files import check_opens, unreadable, write_bytes

NUMBERS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *(f"torch {kind}Storage" for kind in NUMBERS)}
"""All that the pickle of a checkpoint refers to by name. torch allows more, such as arrays of any size."""

MAX_PICKLE = 4 << 20
"""The largest pickle, in bytes, which holds everything but the numbers in tensors; a tensor takes a hundred bytes."""

KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("config", "scenes"), str),
    **{"step": int, "seconds": (int, float), "first_loss": (float, type(None)), "window": Tensor},
    **{"guide": dict, "optimiser": dict, "random": list},
}
"""The types of the entries of a checkpoint."""

MAX_STEP = 10**12


class CheckpointError(CompvaeError, RuntimeError):
    """A checkpoint is missing, damaged, or belongs to another run."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, and lists and dictionaries of them, atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)  # not directly into the file, because torch.save hides why writing failed
    # getvalue makes no copy. A view of the buffer in the traceback of a failure would crash Python 3.12.1 when it
    # collects garbage.
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path, entries: Iterable[str] = ("config", "step", "guide")) -> dict[str, Any]:
    """Read a checkpoint, which must have these entries, without unpickling anything but tensors and containers.

    Its tensors are loaded onto the CPU, whatever device they were saved from. They take no more memory than the file.

    Raises:
        CheckpointError: if the file is missing, cannot be opened, is damaged, lacks an entry, has one of another type,
            or would unpack to more than it holds.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a checkpoint, found no such file. Has the run saved one yet?")
    check_opens(path, CheckpointError)
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_tensors(content)
    except OSError as error:
        raise CheckpointError(unreadable(path, error)) from error
    # torch.load raises errors of many kinds on damaged files.
    except Exception as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint of tensors and plain containers, but it cannot be read ({error}). "
            "It may be damaged, written by another program, or larger than the memory."
        ) from error
    missing = set(entries) - set(content if isinstance(content, dict) else ())
    if missing:
        raise CheckpointError(
            f"{path}: expected the entries {', '.join(entries)}, missing {sorted(missing)}. Was it written by another "
            "version?"
        )
    wrong = [name for name in entries if not isinstance(content[name], KINDS[name])]
    if wrong or not 0 <= content["step"] <= MAX_STEP:
        raise CheckpointError(
            f"{path}: expected the entries of a run, got others under {', '.join(wrong) or 'step'}. Was it written by "
            "another version?"
        )
    return content


def _check_archive(path: Path) -> None:
    """Refuse an archive that would unpack to more than its size, or refers to anything but tensors and containers."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ArgumentError("it is compressed, as no checkpoint is")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ArgumentError("it declares more than it holds")
        pickles = [member for member in members if member.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE:
            raise ArgumentError(f"it has not one pickle of at most {MAX_PICKLE >> 20} MiB")
        named = set()
        for operation, argument, _ in pickletools.genops(archive.read(pickles[0])):
            if operation.name == "GLOBAL":
                named.add(argument)
            elif operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                named.add(operation.name)
    if not named <= NAMES:
        raise ArgumentError(f"it refers to {', '.join(sorted(map(str, named - NAMES))[:5])}")


def _check_tensors(content: Any) -> None:
    """Refuse tensors that repeat their numbers, and so have more of them than the file."""
    rest, seen = [content], set()
    while rest:
        value = rest.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor) and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ArgumentError(f"a tensor of shape {tuple(value.shape)} has more numbers than are stored")
        if isinstance(value, dict):
            rest.extend(value.values())
        elif isinstance(value, list | tuple):
            rest.extend(value)

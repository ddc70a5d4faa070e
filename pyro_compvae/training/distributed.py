"""Processes that share out work: those that ``torchrun`` starts, or one alone."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pyro_compvae.errors import CompvaeError

Item = TypeVar("Item")
Items = TypeVar("Items", list[Any], Tensor)

PATIENCE = {"cpu": timedelta(days=1), "cuda": timedelta(hours=1)}
"""How long workers wait for each other, by device: longer than the first of them evaluates. ``torchrun`` notices at
once when one dies; this is for one that is alive and does not answer."""


class WorkerError(CompvaeError, RuntimeError):
    """Another worker is gone."""


@dataclass(frozen=True)
class Workers:
    """This process among those that share the work.

    rank: 0 is the one that writes files and speaks to the user.
    size: their number.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and speaks to the user."""
        return self.rank == 0

    def share(self, items: Items) -> Items:
        """Every item goes to one worker: this one's."""
        return items[self.rank :: self.size]

    def replicate(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module, whose gradients are the means over workers and whose weights start as those of the first."""
        if self.size == 1:
            return module
        device_ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids, broadcast_buffers=False, gradient_as_bucket_view=True)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over workers of a CPU tensor."""
        if self.size == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.size

    def any(self, flag: bool) -> bool:
        """Whether it is true for one of the workers. It passes through the CPU, so that no GPU is waited for."""
        return bool(self.mean(torch.tensor(float(flag))))

    def gather(self, item: Item) -> list[Item]:
        """Every worker's item, in the order of their ranks, for all of them."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        distributed.all_gather_object(items, item)
        return items

    def wait(self) -> None:
        """Return when all workers have come here."""
        self.mean(torch.zeros(()))

    @contextmanager
    def losing_none(self) -> Iterator[None]:
        """Turn the error of a collective operation within into a `WorkerError` in plain words.

        Raises:
            WorkerError: where another worker is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size > 1 and (isinstance(error, distributed.DistBackendError) or "gloo" in str(error)):
                raise WorkerError("another worker is gone") from error
            raise


ALONE = Workers()
"""The only worker."""


def start_workers(device: torch.device) -> Workers:
    """Join the workers that ``torchrun`` has started; without it, this process is alone.

    Collectives on the CPU go by gloo, those on GPUs by NCCL.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    if not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE[device.type]
        )
        atexit.register(_leave)
    return Workers(distributed.get_rank(), size)


def is_first_worker() -> bool:
    """Whether this process is the one that writes files and speaks to the user."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined_workers(device: torch.device) -> Iterator[Workers]:
    """The workers of `start_workers`, who wait for one another at the end.

    Raises:
        WorkerError: where another worker is gone.
    """
    workers = start_workers(device)
    with workers.losing_none():
        yield workers
        workers.wait()


def _leave() -> None:
    """End the threads of the transport before the interpreter: one that frees a tensor after it aborts the process."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
    gc.collect()  # cycles hold DDP, and DDP the process group

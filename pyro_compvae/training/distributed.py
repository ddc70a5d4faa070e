"""Processes that share the work: those that ``torchrun`` starts, or a single one."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator, Mapping
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
"""How long workers wait for each other, by device. It is longer than an evaluation by the first worker. ``torchrun``
notices at once if a worker dies; this limit is for one that is alive and does not answer."""


class UnlikeWorkersError(CompvaeError, ValueError):
    """Workers that share one piece of work have different data or settings."""


class WorkerError(CompvaeError, RuntimeError):
    """Another worker is gone."""


@dataclass(frozen=True)
class Workers:
    """This process, and how many share the work.

    rank: the number of this process; process 0 writes files and speaks to the user.
    size: the number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def share(self, items: Items) -> Items:
        """This worker's share of the items; every item goes to exactly one worker."""
        return items[self.rank :: self.size]

    def replicate(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Wrap a module, so that its gradients are means over workers and its weights start as the first worker's."""
        if self.size == 1:
            return module
        device_ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids, broadcast_buffers=False, gradient_as_bucket_view=True)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over workers of a tensor, which the transport of its device exchanges."""
        if self.size == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.size

    def any(self, flag: bool) -> bool:
        """Whether the flag is true for one of the workers. It is exchanged on the CPU, without waiting for a GPU."""
        return bool(self.mean(torch.tensor(float(flag))))

    def gather(self, item: Item) -> list[Item]:
        """The items of all workers in the order of ranks; every worker gets the list."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        distributed.all_gather_object(items, item)
        return items

    def check_alike(self, facts: Mapping[str, Any]) -> None:
        """Refuse to share work among workers that differ in facts, such as their settings and digests of their scenes.

        Raises:
            UnlikeWorkersError: on every worker, with the facts in which the first worker and another one differ.
        """
        first, *others = self.gather(dict(facts))
        for rank, other in enumerate(others, 1):
            unlike = [
                f"{name} is {first.get(name)!r} there and {other.get(name)!r} here"
                for name in first | other
                if first.get(name) != other.get(name)
            ]
            if unlike:
                raise UnlikeWorkersError(
                    f"worker {rank}: expected data and settings of worker 0, but {'; '.join(unlike)}. Give all workers "
                    "the same command, and on every machine the same files."
                )

    def wait(self) -> None:
        """Wait until all workers have called this."""
        self.mean(torch.zeros(()))

    @contextmanager
    def losing_none(self) -> Iterator[None]:
        """A context that turns errors of collective operations into a `WorkerError` in plain words.

        Raises:
            WorkerError: if another worker is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size > 1 and (isinstance(error, distributed.DistBackendError) or "gloo" in str(error)):
                raise WorkerError("another worker is gone") from error
            raise


ALONE = Workers()
"""A process that works alone."""


def start_workers(device: torch.device) -> Workers:
    """Join the workers that ``torchrun`` has started; without it, this process works alone.

    Collective operations use gloo on the CPU, and NCCL on GPUs.
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
    """Whether this process writes files and speaks to the user."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined_workers(device: torch.device) -> Iterator[Workers]:
    """A context with the workers of `start_workers`, who wait for one another at the end.

    Raises:
        WorkerError: if another worker is gone.
    """
    workers = start_workers(device)
    with workers.losing_none():
        yield workers
        workers.wait()


def _leave() -> None:
    """End the transport's threads before the interpreter: a thread that frees a tensor later aborts the process."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
    gc.collect()  # DDP holds the process group, and reference cycles hold DDP

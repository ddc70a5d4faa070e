"""Pyro programs that hold weights, and what Pyro's parameter store makes of these."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import nn


class ParameterStoreError(RuntimeError):
    """`pyro.infer.SVI` would train other tensors than those that a program computes with."""


class TrainModeWarning(UserWarning):
    """The terms of a training objective are in numbers that nobody trains on."""


class Program(PyroModule):
    """A Pyro program whose weights `pyro.infer.SVI` trains, or is told that it cannot.

    SVI trains what Pyro's parameter store holds under the names of a program's weights. Where the store has them from
    elsewhere, or had to copy them, the program would go on computing with its own, which nobody trains.
    """

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Run the program, in train mode with a look at what is being trained.

        Raises:
            ParameterStoreError: under SVI, in train mode, if the store holds other tensors than the program's.
        """
        if not self.training or not svi_records_parameters():
            return super().__call__(*arguments, **keywords)
        with poutine.trace(param_only=True) as recorded:
            result = super().__call__(*arguments, **keywords)
        own = {id(parameter) for parameter in self.parameters()}
        sites: dict[str, Any] = recorded.trace.nodes
        stored = {
            name: site["value"].unconstrained() if hasattr(site["value"], "unconstrained") else site["value"]
            for name, site in sites.items()
            if site["type"] == "param"
        }
        foreign = [name for name, value in stored.items() if id(value) not in own]
        if foreign:
            raise ParameterStoreError(self._explain(foreign))
        return result

    def _explain(self, foreign: list[str]) -> str:
        names = ", ".join(name.replace("$$$", ".") for name in foreign[:3])
        if any(not parameter.is_contiguous() for parameter in self.parameters()):
            why = "Pyro copies weights that are not contiguous. Call .to(memory_format=torch.contiguous_format)."
        else:
            why = (
                "They are another program's, or were loaded from a file. Call pyro.clear_param_store() before you "
                "train another program, and take saved weights over with load_state_dict."
            )
        return (
            f"{type(self).__name__}: expected Pyro's parameter store to hold this program's own weights, found "
            f"{len(foreign)} others under their names ({names}{', ...' if len(foreign) > 3 else ''}); SVI would train "
            f"in vain. {why}"
        )


def warn_of_train_mode(program: nn.Module) -> None:
    """Warn where a program in train mode runs and nothing is trained: its objective's terms are in what follows."""
    if program.training and not torch.is_grad_enabled():
        warnings.warn(
            f"{type(program).__name__} runs in train mode without gradients: what is computed holds the terms of its "
            "training objective, and is no bound, no weight and no evidence. Call eval() first.",
            TrainModeWarning,
            stacklevel=4,
        )


@contextmanager
def leaving_no_parameters() -> Iterator[None]:
    """Run Pyro programs that may read Pyro's parameter store, and leave it as it was.

    A program registers its weights there whenever it runs, and they would be in the way of the next one's of the same
    names.
    """
    store = pyro.get_param_store()
    with store.scope(state=store.get_state()):
        yield


def svi_records_parameters() -> bool:
    """Whether somebody outside records parameters and nothing else, as `pyro.infer.SVI` does."""
    return any(isinstance(messenger, TraceMessenger) and messenger.param_only for messenger in _PYRO_STACK)

"""Pyro programs that hold weights, and what Pyro's parameter store makes of these."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from pyro.ops.provenance import detach_provenance
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import nn

from pyro_compvae.decoder import own_precision
from pyro_compvae.errors import CompvaeError


class ParameterStoreError(CompvaeError, RuntimeError):
    """`pyro.infer.SVI` would train other tensors than those that a program computes with."""


class TrainModeWarning(UserWarning):
    """The terms of a training objective are in numbers that nobody trains on."""


class Program(PyroModule):
    """A Pyro program whose weights `pyro.infer.SVI` trains, all that are not frozen, or says that it cannot.

    SVI trains what Pyro's parameter store holds under the names of a program's weights. Where the store has them from
    elsewhere, or had to copy them, the program would go on computing with its own, which nobody trains; and Pyro itself
    registers those only that a run happens to come across. So under SVI a program registers all of its own, and looks
    at what the store has made of them. An autocast around a program has no effect on it.
    """

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Run the program.

        Raises:
            ParameterStoreError: under SVI, if the store holds other tensors than the program's under their names.
        """
        if svi_records_parameters():
            self._register()
        return self._run(*arguments, **keywords)

    @own_precision
    def _run(self, *arguments: Any, **keywords: Any) -> Any:
        return super().__call__(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        """A parameter or a submodule by name; Pyro would have its store unfreeze a frozen parameter."""
        parameter = self.__dict__.get("_parameters", {}).get(name)
        if parameter is not None and not parameter.requires_grad:
            return parameter
        return super().__getattr__(name)

    def _register(self) -> None:
        weights = {name: weight for name, weight in _named_by_pyro(self, self._pyro_name) if weight.requires_grad}
        store = pyro.get_param_store()
        new = [name for name in weights if name not in store]
        stored = {name: detach_provenance(pyro.param(name, weight)) for name, weight in weights.items()}
        foreign = [name for name, weight in weights.items() if stored[name] is not weight]
        if not foreign:
            return
        for name in new:
            del store[name]
        names = ", ".join(name.replace("$$$", ".") for name in foreign[:3])
        if any(not weights[name].is_contiguous() for name in foreign):
            why = "Pyro copies weights that are not contiguous. Call .to(memory_format=torch.contiguous_format)."
        else:
            why = (
                "They are another program's, or were loaded from a file. Call pyro.clear_param_store() before you "
                "train another program, and take saved weights over with load_state_dict."
            )
        raise ParameterStoreError(
            f"{type(self).__name__}: expected Pyro's parameter store to hold this program's own weights, found "
            f"{len(foreign)} others under their names ({names}{', ...' if len(foreign) > 3 else ''}); SVI would train "
            f"in vain. {why}"
        )


def _named_by_pyro(module: PyroModule, prefix: str) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights of a program under the names by which Pyro registers them."""
    prefix = f"{prefix}." if prefix else ""
    for name, parameter in module._parameters.items():
        if parameter is not None and not name.endswith("_unconstrained"):  # which Pyro keeps in step itself
            yield prefix + name, parameter
    for name, child in module._modules.items():
        if isinstance(child, PyroModule):
            yield from _named_by_pyro(child, prefix + name)
        elif child is not None:
            yield from ((f"{prefix}{name}$$${inner}", parameter) for inner, parameter in child.named_parameters())


def warn_of_train_mode(program: nn.Module) -> None:
    """Warn where a program in train mode runs and nothing is trained: its objective's terms are in what follows."""
    if program.training and not torch.is_grad_enabled():
        warnings.warn(
            f"{type(program).__name__} runs in train mode without gradients: what is computed holds the terms of its "
            "training objective, and is no bound, no weight and no evidence. Call eval() first.",
            TrainModeWarning,
            stacklevel=3,
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

"""Pyro programs that hold weights, and how Pyro's parameter store treats these."""

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

from pyro_compvae.errors import CompvaeError
from pyro_compvae.precision import own_precision


class ParameterStoreError(CompvaeError, RuntimeError):
    """`pyro.infer.SVI` would train tensors that are not those with which a program computes."""


class TrainModeWarning(UserWarning):
    """Numbers that nobody trains on contain the terms of a training objective."""


class Program(PyroModule):
    """A Pyro program that makes `pyro.infer.SVI` train all its weights that are not frozen, or refuses to run.

    SVI trains what Pyro's parameter store holds under the names of a program's weights. If the store has other tensors
    under these names, or had to copy the weights, the program would go on computing with its own, which nobody trains;
    and Pyro itself registers only those weights that a run happens to use. So under SVI a program registers all of its
    weights, and checks what the store holds for them. An autocast around a program has no effect on it.
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
        if parameter is not None and not name.endswith("_unconstrained"):  # Pyro updates these itself
            yield prefix + name, parameter
    for name, child in module._modules.items():
        if isinstance(child, PyroModule):
            yield from _named_by_pyro(child, prefix + name)
        elif child is not None:
            yield from ((f"{prefix}{name}$$${inner}", parameter) for inner, parameter in child.named_parameters())


def warn_of_train_mode(program: nn.Module) -> None:
    """Warn if a program in train mode runs without gradients: its results will contain the terms of its objective."""
    if program.training and not torch.is_grad_enabled():
        warnings.warn(
            f"{type(program).__name__} runs in train mode without gradients: what is computed holds the terms of its "
            "training objective, and is no bound, no weight and no evidence. Call eval() first.",
            TrainModeWarning,
            stacklevel=3,
        )


@contextmanager
def leaving_no_parameters() -> Iterator[None]:
    """A context for Pyro programs that may read Pyro's parameter store, which is left as it was.

    A program registers its weights there whenever it runs, and they would conflict with the next program's weights of
    the same names.
    """
    store = pyro.get_param_store()
    with store.scope(state=store.get_state()):
        yield


def svi_records_parameters() -> bool:
    """Whether an enclosing handler records parameters and nothing else, as `pyro.infer.SVI` does."""
    return any(isinstance(messenger, TraceMessenger) and messenger.param_only for messenger in _PYRO_STACK)

"""What all commands share: the parsing of arguments, and what happens on errors and interruptions.

Commands import what they compute with when they run, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import tyro

from pyro_compvae.errors import ArgumentError, CompvaeError
from pyro_compvae.orphans import end_with_parent
from pyro_compvae.plain_text import write_what_can_be_encoded
from pyro_compvae.visible import visible, visible_output

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 plus the number of the signal, as shells define it."""

Arguments = TypeVar("Arguments")


def run(
    arguments_type: type[Arguments] | Any,
    command: Callable[[Arguments], int | None],
    arguments: Sequence[str] | None = None,
    when_interrupted: str = "interrupted",
    quick: Any = None,
) -> int:
    """Parse the command line, run a command and return its exit code.

    A `CompvaeError` becomes one line and exit code 1, and so does a file that the operating system refuses. Ctrl-C
    becomes one line and `INTERRUPTED`. Any other exception is a fault of the program and keeps its traceback. Names in
    files cannot do more to a terminal than show characters (`visible_output`).

    Args:
        arguments_type: dataclass of the command's arguments, or a union of them for subcommands.
        command: what to do with them; it returns an exit code, or None for 0.
        arguments: the arguments on the command line, without the name of the command; None takes the program's own.
        when_interrupted: the message after Ctrl-C, which says what is kept and how to continue.
        quick: the defaults with ``--quick``, of the type of the arguments, in place of those of the type.
    """
    write_what_can_be_encoded()
    try:
        end_with_parent()
        words = sys.argv[1:] if arguments is None else arguments
        check_text(words)
        default = {"default": quick} if quick is not None and "--quick" in words else {}
        given = tyro.cli(arguments_type, args=arguments, **default)
        with visible_output(), _plain_warnings():
            return command(given) or 0
    except KeyboardInterrupt:
        print(when_interrupted, file=sys.stderr)
        return INTERRUPTED
    except CompvaeError as error:
        print(visible(f"{worker_name()}error: {error}"), file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(visible(f"{worker_name()}error: {error.filename}: {error.strerror or error}"), file=sys.stderr)
        return 1


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """A context in which warnings are printed without the place in our code, which says nothing to who typed a
    command."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{worker_name()}warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def check_text(arguments: Sequence[str]) -> None:
    """Refuse arguments that are no text, such as names of files in another encoding, which no file of a run could hold.

    Raises:
        ArgumentError: for such an argument.
    """
    for argument in arguments:
        if any("\udc80" <= character <= "\udcff" for character in argument):
            raise ArgumentError(
                f"expected names in {sys.getfilesystemencoding()}, got {os.fsencode(argument)!r}. Rename the file or "
                "the folder."
            )


def worker_name() -> str:
    """The beginning of messages by one of several workers that ``torchrun`` has started; empty for a single process."""
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    return f"worker {rank} of {size}: " if size != "1" else ""

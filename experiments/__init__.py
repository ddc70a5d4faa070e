"""The command ``compvae``, which has every script of this folder as a subcommand, for users who installed a wheel."""

from __future__ import annotations

import sys
from importlib import import_module

from pyro_compvae import __version__
from pyro_compvae.cli import INTERRUPTED

COMMANDS = {
    "train": ("run_svi", "train a model and its guide by SVI"),
    "evidence": ("estimate_evidence", "estimate log p(x) of a run's test scenes"),
    "ladder": ("gap_ladder", "divide the gap between a guide's ELBO and log p(x) into named parts"),
    "compare": ("compare", "compare runs without and with L-NMS, image by image"),
    "diagnose": ("diagnose", "make posterior draws for ArviZ, predictive checks, NUTS and calibration"),
    "prior": ("repulsive_prior", "compare L-NMS as a normalised prior with independent slots"),
    "report": ("report", "write one page that shows runs and the results of their analysis"),
    "export": ("export", "write the weights of a finished run for others, with a model card"),
    "data": ("make_data", "convert, verify or render scenes"),
    "reproduce": ("reproduce", "reproduce the paper's tables and figures"),
    "benchmark": ("benchmark", "measure time and memory of training steps and of evidence estimates"),
}
"""The subcommands, with the module of each and what it does."""


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand with the arguments that follow its name; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        return 0
    if given[0] == "--version":
        print(__version__)
        return 0
    if given[0] not in COMMANDS:
        print(f"error: expected one of {', '.join(COMMANDS)}, got {given[0]}", file=sys.stderr)
        return 2
    sys.argv[0] = f"compvae {given[0]}"  # the name of the command in its own help
    try:
        return import_module(f"pyro_compvae.experiments.{COMMANDS[given[0]][0]}").main(given[1:])
    except KeyboardInterrupt:  # during the import
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def usage() -> str:
    """The list of subcommands, with a line for each."""
    lines = [f"    {name:12}{does}" for name, (_, does) in COMMANDS.items()]
    return "\n".join(["usage: compvae COMMAND ...", "", *lines, "", "compvae COMMAND --help lists its options."])

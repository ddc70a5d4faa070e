"""Reproduce a table or a figure of the paper: ``python experiments/reproduce.py table1 --data-root DATA``.

Every cell of a study is an ordinary run folder in the folder of the study. The same call does not repeat finished runs,
and continues stopped ones. Beside the runs, each with a log, the folder gets these files:

    table1      table1.csv (a row per run), table1.txt (the paper's Table 1, with its numbers), table1.png, and
                figure3.png (an image decomposed by all models, the paper's Figures 3 and 4)
    forms       forms.csv and forms.txt: the forms of L-NMS against none, ΔL⁺, Δ log p̂(x), Δ gap and Δ duplicates
    figure6     figure6.csv (a row per run and number of slots in testing), figure6.txt (means), figure6.png
"""

from __future__ import annotations

import sys

import tyro

from pyro_compvae.analysis.studies.study import Figure6, Forms, Study, Table1
from pyro_compvae.cli import run

STUDIES = tyro.extras.subcommand_type_from_defaults({"table1": Table1(), "figure6": Figure6(), "forms": Forms()})

TRAIN = (sys.executable, "-m", "pyro_compvae.experiments.run_svi", "--resume")
"""The command that trains a run in a separate process."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(STUDIES, reproduce, arguments, "interrupted; the same call continues")


def reproduce(study: Study) -> int:
    """Train and test what is missing, and print the table; returns the exit code."""
    table, failed = study.run(TRAIN)
    for cell in failed:
        log = study.out / f"{cell.name}.log"
        print(f"error: {cell.name} did not finish, see {log}; the same call tries again", file=sys.stderr)
    if table:
        print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

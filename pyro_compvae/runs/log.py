"""The log of a run in training: rows of a CSV file, and the same numbers as TensorBoard events."""

from __future__ import annotations

import csv
import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from pyro_compvae.checks import is_step
from pyro_compvae.runs.files import write_text
from pyro_compvae.runs.folder import RunFolder

UNPLOTTED = ("step", "seconds")


class RunLog:
    """The rows of a run's ``metrics.csv``. Each row is on disk when `append` returns.

    Args:
        folder: the run folder.
        columns: the names of the columns; "step" is the first.
    """

    def __init__(self, folder: RunFolder, columns: tuple[str, ...]) -> None:
        self.folder = folder
        self.columns = columns

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.folder.metrics

    @property
    def last_step(self) -> int:
        """The step of the last row; 0 if there is none."""
        return max(self._lines(), default=0)

    def append(self, row: Mapping[str, float], events: SummaryWriter) -> None:
        """Add a row, in which values that are missing or NaN stay empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, self.columns, restval="", lineterminator="\n")
            if not file.tell():
                table.writeheader()
            table.writerow({name: "" if math.isnan(value) else value for name, value in row.items()})
            file.flush()
            os.fsync(file.fileno())  # a row must be on disk before a checkpoint of a later step is
        for name, value in row.items():
            if name not in UNPLOTTED and math.isfinite(value):
                events.add_scalar(name, value, int(row["step"]))
        events.flush()  # so that a full disk is noticed here, and not at some later row

    def drop_after(self, step: int) -> None:
        """Remove the rows that an interrupted run wrote after its last checkpoint, since they will be written again."""
        kept = [line for logged, line in self._lines().items() if logged <= step]
        write_text(self.path, "".join((",".join(self.columns) + "\n", *kept)))

    def _lines(self) -> dict[int, str]:
        """The undamaged lines by step."""
        return whole_lines(self.path, len(self.columns)) if self.path.exists() else {}

    @contextmanager
    def events(self, first_step: int) -> Iterator[SummaryWriter]:
        """A context with TensorBoard's writer; from the first step on its events replace an interrupted run's."""
        previous = threading.excepthook

        def hook(args: threading.ExceptHookArgs) -> None:
            # The next call of the writer raises the error of its thread, so there is no need to print it.
            if not isinstance(args.exc_value, OSError):
                previous(args)

        threading.excepthook = hook
        try:
            writer = SummaryWriter(str(self.folder.path), purge_step=first_step)
            try:
                yield writer
            except BaseException:
                with suppress(OSError):  # the first error matters more
                    writer.close()
                raise
            writer.close()
        finally:
            threading.excepthook = previous


def whole_lines(path: Path, num_cells: int) -> dict[int, str]:
    """The lines of a metrics.csv by step, without its header and without those that are damaged.

    A line is cut short if the process was killed, and may be filled with NUL bytes after a loss of power. Such lines do
    not begin with a step, or have fewer cells than the header.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")[1:-1]  # text after the last end of a line is cut short
    cells = [line.split(",") for line in lines]
    return {
        int(row[0]): line + "\n"
        for line, row in zip(lines, cells, strict=True)
        if len(row) == num_cells and is_step(row[0])
    }

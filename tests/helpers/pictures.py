"""Figures that are not drawn, for tests that do not look at them, since drawing takes half of a tiny script's time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure


@contextmanager
def undrawn() -> Iterator[None]:
    """A context in which figures are made, and empty files are written in place of PNGs."""
    draw = Figure.savefig

    def touch(self: Figure, path: Any, **options: Any) -> None:
        if Path(path).suffix == ".png":
            Path(path).write_bytes(b"")
        else:
            draw(self, path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", touch)
        yield

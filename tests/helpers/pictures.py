"""Figures that are not drawn, for tests that do not look at them: drawing is half of what a tiny script takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure


@contextmanager
def undrawn() -> Iterator[None]:
    """Figures are made, and in place of PNGs empty files written."""
    draw = Figure.savefig

    def touch(self: Figure, path: Any, **options: Any) -> None:
        if Path(path).suffix == ".png":
            Path(path).write_bytes(b"")
        else:
            draw(self, path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", touch)
        yield

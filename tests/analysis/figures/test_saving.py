"""Figures whatever the names of runs are."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from pyro_compvae.analysis.figures.style import save_figure


def figure_of(name: str) -> Figure:
    figure = Figure()
    axis = figure.subplots()
    axis.semilogx([1, 1e5], [1, 2], label=name)
    axis.set_xlabel(name)
    axis.set_title(name)
    axis.legend()
    figure.suptitle(name)
    return figure


def test_names_are_no_formulas(tmp_path: Path) -> None:
    """Numbers of logarithmic axes are."""
    name = r"cost $5 {\frac$"
    with pytest.raises(ValueError, match="Expected"):
        figure_of(name).savefig(tmp_path / "premise.svg")
    with rc_context({"svg.fonttype": "none"}):
        save_figure(tmp_path / "figure.svg", figure_of(name))
    text = (tmp_path / "figure.svg").read_text()
    assert text.count(f">{name}</text>") == 4
    assert "mathdefault" not in text.replace("<!-- $\\mathdefault", "")

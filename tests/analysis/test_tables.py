"""Tables for terminals."""

from __future__ import annotations

import pytest

from pyro_compvae.analysis.tables import Table


def test_columns_are_aligned_also_under_hats() -> None:
    table = Table(("name", "k̂", "ESS"), (("a", "0.50", "7"), ("longer", "", "1,000")))
    assert str(table).splitlines() == ["name       k̂    ESS", "a       0.50      7", "longer        1,000"]


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="rows: expected 2 cells, as there are heads"):
        Table(("a", "b"), (("1",),))

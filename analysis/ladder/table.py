"""Tables of gap ladders, and how to read them."""

from __future__ import annotations

import xarray

from pyro_compvae.analysis.evidence.table import interval
from pyro_compvae.analysis.tables import Table


def ladder_table(data: xarray.Dataset) -> str:
    """The tables of `rung_rows` and `gap_rows`, and how to read them."""
    return "\n\n".join([str(rung_rows(data)), str(gap_rows(data)), how_to_read(data)])


def rung_rows(data: xarray.Dataset) -> Table:
    """A row per rung, with 95 % intervals over scenes, and with failures of its fit."""
    B = data.sizes["scene"]
    heads = ("rung", "ELBO", "s.e.", "rise, s.e.", "converged", "below the last", "evaluations", "s / scene")
    rows = []
    for name in data["rung"].values:
        rung = data.sel(rung=name)
        cells = (
            str(name),
            interval(rung["rung_elbo"].values),
            f"{float(rung['rung_standard_error'].median()):.2f}",
            f"{float(rung['rung_rise'].median()):.2f} ± {float(rung['rung_rise_standard_error'].median()):.2f}",
            f"{int(rung['rung_converged'].sum())} of {B}",
            f"{int(rung['rung_failed'].sum())} of {B}",
            f"{int(rung['rung_evaluations'][0]):,}",
            f"{float(rung['rung_seconds'].mean()):.2f}",
        )
        rows.append(cells)
    evidence = (interval(data["log_evidence"].values), f"{float(data['log_evidence_standard_error'].median()):.2f}")
    rows.append(("log p̂(x)", *evidence, "", "", "", "", f"{float(data['evidence_seconds'].mean()):.2f}"))
    return Table(heads, tuple(rows))


def gap_rows(data: xarray.Dataset) -> Table:
    """A row per part of the gap, with 95 % intervals over scenes."""
    rows = []
    total = data["gap"].sum("gap_name")
    for name in data["gap_name"].values:
        gap = data["gap"].sel(gap_name=name)
        error = float(data["gap_standard_error"].sel(gap_name=name).median())
        share = float(gap.mean() / total.mean())
        numbers = (f"{error:.2f}", f"{float(gap.min()):.2f}", f"{float(gap.max()):.2f}", f"{share:.0%}")
        rows.append((str(name), interval(gap.values), *numbers))
    rows.append(("all", interval(total.values), "", "", "", ""))
    return Table(("gap", "nats", "s.e.", "from", "to", "share"), tuple(rows))


def how_to_read(data: xarray.Dataset) -> str:
    """A text that says what the columns mean, and how far log p̂(x) is reliable."""
    reliable = f"{int(data['reliable'].sum())} of {data.sizes['scene']}"
    return HOW_TO_READ.format(reliable=reliable, khat=f"{float(data['khat'].median()):.2f}")


HOW_TO_READ = """\
Nats per scene; ± is a 95 % interval over scenes, and s.e. is the median standard error of a single scene. rise: the
ELBO's rise in the last half of the steps of constant size, before the fit settled. converged: the rise is within two
standard errors or 0.2 nats of zero. below the last: the rung is lower than the one before by more than that, although
the best of a larger family never is: the optimiser failed there. The seconds of log p̂(x) include those of the symmetry
gap. log p̂(x) is low in expectation, so the residual is a lower bound. It is reliable by k̂ for {reliable} scenes; the
median k̂ of all scenes is {khat}."""

NAMES = {
    "amortisation": "amortisation",
    "within_slot": "within slots",
    "independence": "independence of slots",
    "non_gaussian": "no Gaussian (flow)",
    "symmetry": "symmetry",
    "residual": "residual",
}
"""The names of the gaps in figures."""

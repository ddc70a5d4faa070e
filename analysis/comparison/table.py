"""Comparisons of two kinds of runs as tables and sentences."""

from __future__ import annotations

import numpy as np
import xarray

from pyro_compvae.analysis.comparison.compute import METRICS, QUANTITIES, bootstrap, delta, undefined
from pyro_compvae.analysis.ladder.table import NAMES
from pyro_compvae.analysis.metrics.meanings import MEANINGS, left_out
from pyro_compvae.analysis.tables import Table

LABELS = {
    "elbo": "ΔL⁺, the ELBO (Eq. 6)",
    "log_evidence": "Δ log p̂(x)",
    "gap": "Δ gap, log p̂(x) − ELBO",
    "miou": "Δ mIoU",
    "mse": "Δ MSE",
    "duplicates": "Δ duplicates",
    "duplicates_latent": "Δ duplicates_latent",
}


FEW_PAIRS = 10
"""Number of pairs below which intervals are too narrow, since they show too little of how seeds differ."""


def comparison_table(data: xarray.Dataset, parts: xarray.Dataset | None, shared: bool) -> str:
    """A line per quantity and per part of the gap: both sides, the difference with its interval, the share of scenes in
    which it is for the better, and the pairs one by one; then a sentence. Metrics that need masks are left out if there
    are none.

    Args:
        data: the result of `compare`.
        parts: the result of `ladders`.
        shared: whether the runs of every pair have the same θ.
    """
    lines = [f"{'':26}{'0':>10}{'+':>10}{'mean difference':>30}{'median':>10}{'better in':>11}   pairs"]
    missing = undefined(data)
    lines += [_row(LABELS[name], data, name, *_style(name)) for name in QUANTITIES if name not in missing]
    if missing:
        lines.append(f"  {left_out(missing)}")
    if parts is None:
        lines.append("  (for the parts of Δ gap, run compvae ladder on every run, with the same settings and scenes)")
    else:
        n = parts.sizes["scene"]
        lines.append(f"  its parts, by compvae ladder with a separate estimate of log p(x), in {n} scenes:")
        lines += [_row(f"  {label}", part, "gap", 2, False) for label, part in _parts(parts)]
    return "\n".join([*lines, "", how_to_read(data), sentence(data, shared)])


def comparison_rows(data: xarray.Dataset) -> Table:
    """The rows of `comparison_table` with the metrics' names, without parts of the gap."""
    labels = {name: f"Δ {MEANINGS[name].name}" if name in METRICS else LABELS[name] for name in QUANTITIES}
    missing = undefined(data)
    rows = [(labels[name], *_cells(data, name, *_style(name))) for name in QUANTITIES if name not in missing]
    return Table(("+ minus 0", *HEADS), tuple(rows))


def part_rows(parts: xarray.Dataset) -> Table:
    """The parts of the gap in the form of `comparison_rows`, from the result of `ladders`."""
    return Table(
        ("Δ gap, + minus 0", *HEADS), tuple((label, *_cells(part, "gap", 2, False)) for label, part in _parts(parts))
    )


HEADS = ("0", "+", "mean difference", "median", "better in", "pairs")


def _style(name: str) -> tuple[int, bool]:
    """The number of decimals of a quantity, and whether more of it is better."""
    return 4 if name in ("miou", "mse") else 2, name in ("elbo", "log_evidence", "miou")


def _parts(parts: xarray.Dataset) -> list[tuple[str, xarray.Dataset]]:
    named = [(NAMES[str(name)], parts.sel(gap_name=name)) for name in parts["gap_name"].values]
    return [*named, ("all parts", parts.sum("gap_name"))]


def how_to_read(data: xarray.Dataset) -> str:
    """A text that says what the intervals are over, and how far log p̂(x) is reliable."""
    P, N = data.sizes["pair"], data.sizes["scene"]
    over = f"{P} pairs of runs and {N} scenes" if P > 1 else f"{N} scenes, for this one pair of runs"
    few = ", whose small number makes them too narrow" if 1 < P < FEW_PAIRS else ""
    return (
        f"Nats per scene; [ ] are 95 % bootstrap intervals over {over}{few}. log p̂(x) is low in expectation, and "
        f"reliable by k̂ for {float(data['reliable'].mean()):.0%} of the scenes."
    )


def _row(label: str, data: xarray.Dataset, name: str, digits: int, more_is_better: bool) -> str:
    zero, plus, mean, middle, better, pairs = _cells(data, name, digits, more_is_better)
    return f"{label:26}{zero:>10}{plus:>10}{mean:>30}{middle:>10}{better:>11}   {pairs}"


def _cells(data: xarray.Dataset, name: str, digits: int, more_is_better: bool) -> tuple[str, ...]:
    values = delta(data, name)
    sides = (f"{float(data[name].sel(side=side).mean()):.{digits}f}" for side in ("0", "+"))
    better = float(((values > 0) if more_is_better else (values < 0)).mean())
    pairs = " ".join(f"{value:+.{digits}f}" for value in values.mean(1))
    return (*sides, str(bootstrap(values)), f"{np.median(values):+.{digits}f}", f"{better:.0%}", pairs)


def sentence(data: xarray.Dataset, shared: bool) -> str:
    """A sentence on what the difference of the ELBOs consists of."""
    elbo, evidence, gap = (bootstrap(delta(data, name)) for name in ("elbo", "log_evidence", "gap"))
    if shared:
        verdict = {1: "grows", -1: "shrinks", 0: "does not change beyond noise"}[gap.sign]
        return (
            f"Both sides have the same θ, so that log p(x) is the same and ΔL⁺ = {elbo} nats is all posterior: "
            f"the gap {verdict} on the side +."
        )
    model = {1: "a better model", -1: "a worse model", 0: "a model neither better nor worse beyond noise"}
    posterior = {1: "a wider gap", -1: "a narrower gap", 0: "a gap neither wider nor narrower beyond noise"}
    return (
        f"ΔL⁺ = {elbo} nats is Δ log p̂(x) = {evidence} minus Δ gap = {gap}: {model[evidence.sign]}, and "
        f"{posterior[gap.sign]}."
    )

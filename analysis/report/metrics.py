"""Sections of a report: how well its runs learned, and on the way there, all of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pyro_compvae.analysis.figures.curves import curves_figure
from pyro_compvae.analysis.metrics.meanings import MEANINGS, left_out, number
from pyro_compvae.analysis.report.blocks import Block, Numbers, Part, Section
from pyro_compvae.analysis.report.drawing import picture
from pyro_compvae.analysis.report.folders import Missing, ReportedRun
from pyro_compvae.analysis.tables import Table


def overview(folders: Sequence[ReportedRun]) -> Section:
    """Metrics on all test scenes, a column for every run; without those that no run has, as it has no masks."""
    summaries, missing = [], []
    for reported in folders:
        try:
            summaries.append(reported.summary())
        except Missing as reason:
            missing.append(Missing(f"{reported.name}: {reason.why}", reason.command))
            summaries.append({})
    named = [name for name in MEANINGS if any(name in summary for summary in summaries)]
    undefined = [name for name in named if all(summary.get(name) is None for summary in summaries)]
    rows = [
        (meaning, *(number(summary.get(name)) for summary in summaries))
        for name, (meaning, _) in MEANINGS.items()
        if name in named and name not in undefined
    ]
    heads = ("metric", *(reported.name for reported in folders))
    notes = [left_out(undefined)] if undefined else []
    blocks = [Numbers("Means over the test scenes", Table(heads, tuple(rows)), notes)] if rows else []
    return Section("overview", "Overview", "Metrics of unseen scenes.", [Part("", blocks, missing)])


def curves(folders: Sequence[ReportedRun]) -> Section:
    """Training curves of all runs in one figure."""
    rows, missing = {}, []
    for reported in folders:
        try:
            rows[reported.name] = reported.metrics()
        except Missing as reason:
            missing.append(Missing(f"{reported.name}: {reason.why}", reason.command))
    blocks: list[Block] = []
    if rows:
        last = "; ".join(f"{name} ends at step {values[-1]['step']:.0f}" for name, values in rows.items() if values)
        alt = f"Training curves: loss, and metrics of validation scenes, against the step. {last}."
        blocks.append(picture(partial(curves_figure, rows=rows), "curves", alt))
    return Section("curves", "Training", "Loss, and metrics of validation scenes.", [Part("", blocks, missing)])

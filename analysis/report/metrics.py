"""Sections of a report: how well its runs learned, and on the way there, all of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pyro_compvae.analysis.figures.curves import curves_figure
from pyro_compvae.analysis.metrics.meanings import MEANINGS, left_out, with_interval
from pyro_compvae.analysis.report.blocks import Block, Headline, Numbers, Part, Section, Text, Verdict, part_of
from pyro_compvae.analysis.report.drawing import picture
from pyro_compvae.analysis.report.folders import Missing, ReportedRun
from pyro_compvae.analysis.tables import Table

HEADLINES = ("elbo", "miou", "ari_fg", "mse", "duplicates", "query_miou", "query_mse")
"""The metrics with which the page begins."""


def summary_of(reported: ReportedRun) -> dict[str, Any]:
    """The summary of a run, if it is of the weights that everything else on the page is of.

    Raises:
        Missing: if there is none, or it belongs to other weights.
    """
    summary, config = reported.summary(), reported.config
    known = {"guide": config.guide, "lnms": config.lnms, "dataset": config.data.name, "seed": config.seed}
    if reported.run is not None:
        known["steps"] = reported.run.step
    wrong = [
        f"{name} is {summary[name]!r} there and {value!r} in the run"
        for name, value in known.items()
        if name in summary and summary[name] != value
    ]
    if wrong:
        command = f"compvae train --resume --run-dir {reported.quoted}"
        raise Missing(f"summary.json is of other weights: {'; '.join(wrong)}.", command)
    return summary


def headlines(reported: ReportedRun) -> list[Block]:
    """Metrics on all test scenes."""
    summary = summary_of(reported)
    of = f"{summary['num_test_scenes']} test scenes" if "num_test_scenes" in summary else "test scenes"
    return [
        Headline(MEANINGS[name].arrow, with_interval(summary, name), of)
        for name in HEADLINES
        if summary.get(name) is not None
    ]


def progress(reported: ReportedRun) -> list[Block]:
    """How far a run is, if it has not ended."""
    step, steps = reported.loaded().step, reported.config.training.steps
    return [Verdict(f"in training: step {step:,} of {steps:,}.")] if step < steps else []


def overview(folders: Sequence[ReportedRun]) -> Section:
    """Metrics on all test scenes, a column for every run; without those that no run has, as it has no masks."""
    summaries: list[dict[str, Any]] = []
    for reported in folders:
        try:
            summaries.append(summary_of(reported))
        except Missing:  # the reason is in the run's own part
            summaries.append({})
    named = [name for name in MEANINGS if any(name in summary for summary in summaries)]
    undefined = [name for name in named if all(summary.get(name) is None for summary in summaries)]
    rows = [
        (MEANINGS[name].arrow, *(with_interval(summary, name) for summary in summaries))
        for name in named
        if name not in undefined
    ]
    heads = ("metric", *(reported.name for reported in folders))
    notes = [left_out(MEANINGS[name].name for name in undefined)] if undefined else []
    hints = "\n".join(f"{MEANINGS[name].name}: {MEANINGS[name].hint}" for name in named if MEANINGS[name].hint)
    table = Numbers("Means over all test scenes, with 95 % intervals over scenes", Table(heads, tuple(rows)), notes)
    blocks: list[Block] = [table, Text("How to read the metrics", hints, folded=True)] if rows else []
    parts = [part_of(reported, headlines, progress) for reported in folders]
    return Section("metrics", "Metrics", "Metrics of unseen scenes.", [Part("", blocks), *parts])


def curves(folders: Sequence[ReportedRun]) -> Section:
    """Training curves of all runs in one figure."""
    rows, missing = {}, []
    for reported in folders:
        try:
            rows[reported.name] = reported.metrics()
        except Missing as reason:
            missing.append(type(reason)(f"{reported.name}: {reason.why}", reason.command))
    blocks: list[Block] = []
    if rows:
        ends = [(f, rows[f.name][-1]["step"]) for f in folders if rows.get(f.name)]
        last = "; ".join(f"{f.name} ends at step {step:,.0f}{_differs(f, step)}" for f, step in ends)
        alt = f"Training curves: loss, and metrics of validation scenes, against the step. {last}."
        blocks.append(picture(partial(curves_figure, rows=rows), "curves", alt))
    return Section("curves", "Training", "Loss, and metrics of validation scenes.", [Part("", blocks, missing)])


def _differs(reported: ReportedRun, step: float) -> str:
    return f", its weights are of {reported.at_step}" if reported.run is not None and reported.run.step != step else ""

"""The sections of a report: what each shows of a run, and the command that computes what is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from pyro_compvae.analysis import results
from pyro_compvae.analysis.calibration import table as calibration_table
from pyro_compvae.analysis.calibration.figure import calibration_figure
from pyro_compvae.analysis.evidence.data_set import estimates_of
from pyro_compvae.analysis.evidence.figure import evidence_figure
from pyro_compvae.analysis.evidence.table import comparisons, evidence_rows, how_to_read, sandwich_table
from pyro_compvae.analysis.figures.curves import curves_figure
from pyro_compvae.analysis.ladder import table as ladder_table
from pyro_compvae.analysis.ladder.figure import ladder_figure
from pyro_compvae.analysis.metrics.meanings import MEANINGS, left_out, number
from pyro_compvae.analysis.posterior.figure import checks_figure, khat_figure, khats_of, marginals_figure
from pyro_compvae.analysis.posterior.loo import loo_table
from pyro_compvae.analysis.posterior.marginals import agreement
from pyro_compvae.analysis.posterior.predictive_checks import checks_table
from pyro_compvae.analysis.report.blocks import Block, Numbers, Part, Section, Show, Text, part_of
from pyro_compvae.analysis.report.drawing import picture
from pyro_compvae.analysis.report.folders import Missing, ReportedRun
from pyro_compvae.analysis.tables import Table
from pyro_compvae.runs.config import flatten, to_yaml


def sections(folders: Sequence[ReportedRun]) -> list[Section]:
    """All sections but that of the decompositions, in their order."""
    return [
        overview(folders),
        curves(folders),
        _section("evidence", "Evidence", EVIDENCE, folders, evidence, sandwich),
        _section("ladder", "Gap ladder", LADDER, folders, ladder),
        _section("posterior", "Posterior", POSTERIOR, folders, khat, nuts, checks),
        _section("calibration", "Calibration", CALIBRATION, folders, calibration),
        *([_section("loo", "Views left out", LOO, folders, loo)] if any(f.config.multi_view for f in folders) else []),
        _section("comparison", "Comparison", COMPARISON, folders, comparison_among(folders)),
        configuration(folders),
        _section("environment", "Environment and commands", ENVIRONMENT, folders, environment, settings),
    ]


EVIDENCE = (
    "Estimates of log p(x) of test scenes, nats. Each is low in expectation, by an unknown amount where k̂ says that it "
    "is not reliable; the highest is the best."
)
LADDER = "The gap between ELBO and log p̂(x) in named parts: each rung is a better family of posteriors."
POSTERIOR = (
    "How far draws are the posterior's: k̂ of their weights, marginals of one scene against NUTS, and whether the model "
    "would have made the pixels that were observed."
)
CALIBRATION = (
    "Ranks of exact draws among those of a posterior, for scenes simulated from the model. Slots drawn from the prior "
    "make scenes that no guide was trained on, so this is a hard test."
)
LOO = "How well each view is predicted by the others."
COMPARISON = "Two runs of this page on the same scenes: is a difference of ELBOs one of models or of posteriors?"
ENVIRONMENT = "What made the runs."


def _section(key: str, title: str, lead: str, folders: Sequence[ReportedRun], *shows: Show) -> Section:
    return Section(key, title, lead, [part_of(reported, *shows) for reported in folders])


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


def evidence(reported: ReportedRun) -> list[Block]:
    """Estimates of log p(x)."""
    data = reported.read("evidence", reported.command("estimate_evidence"))
    estimates = estimates_of(data)
    scenes = len(estimates["guide"].log_evidence)
    dimensions = 3 * reported.config.data.image_size**2 * json.loads(data.attrs["settings"]).get("num_views", 1)
    notes = [*comparisons(estimates), how_to_read(estimates)]
    table = evidence_rows(estimates, dimensions)
    alt = f"Estimates of log p(x) of {scenes} scenes against the number of draws; the table has their values."
    figure = picture(partial(evidence_figure, estimates=estimates), f"evidence-{reported.name}", alt)
    return [Numbers(f"{scenes} test scenes, nats", table, notes), figure]


def sandwich(reported: ReportedRun) -> list[Block]:
    """Bounds on log p(x) of simulated scenes."""
    data = reported.read("sandwich", reported.command("estimate_evidence", "--bdmc"))
    return [Text("Simulated scenes, between two bounds, nats", sandwich_table(data))]


def ladder(reported: ReportedRun) -> list[Block]:
    """Rungs and gaps."""
    data = reported.read("ladder", reported.command("gap_ladder"))
    mean = ", ".join(
        f"{ladder_table.NAMES[str(name)]} {float(data['gap'].sel(gap_name=name).mean()):.1f}"
        for name in data["gap_name"].values
    )
    alt = f"Parts of the gap of {data.sizes['scene']} scenes as stacked bars; means in nats: {mean}."
    return [
        picture(partial(ladder_figure, data=data), f"ladder-{reported.name}", alt),
        Numbers("Parts of the gap, nats", ladder_table.gap_rows(data)),
        Numbers("Rungs, nats", ladder_table.rung_rows(data), [ladder_table.how_to_read(data)]),
    ]


def khat(reported: ReportedRun) -> list[Block]:
    """k̂ of the weights of all draws there are."""
    command = reported.command("diagnose")
    khats = {name: khats_of(reported.read(f"posterior_{name}", command)) for name in ("guide", "importance")}
    alt = "; ".join(f"{name}: {values} scenes" for name, values in khats.items())
    return [picture(partial(khat_figure, khats=khats), f"khat-{reported.name}", alt)]


def nuts(reported: ReportedRun) -> list[Block]:
    """Marginals of one scene against NUTS."""
    command = reported.command("diagnose")
    found = agreement(
        {
            name: {group: reported.read(f"posterior_{name}", command, group) for group in ("posterior", "sample_stats")}
            for name in ("nuts", "guide", "importance")
        }
    )
    alt = f"Latents of scene {found.scene} by NUTS, the guide and importance; the table has their distances."
    draw = partial(marginals_figure, draws=found.draws, distances=found.distances)
    table = Numbers(f"Scene {found.scene} against NUTS", found.rows, found.notes)
    return [table, picture(draw, f"marginals-{reported.name}", alt)]


def checks(reported: ReportedRun) -> list[Block]:
    """Posterior-predictive checks."""
    command = reported.command("diagnose")
    data = reported.read("predictive_checks", command)
    draws = [reported.read(f"posterior_{name}", command).attrs["settings"] for name in ("guide", "importance")]
    if json.loads(data.attrs["settings"])["draws"] != draws:
        raise Missing("predictive_checks.nc is of other draws than those here.", command)
    images = reported.read("posterior_guide", command, "observed_data")["image"].values
    text = checks_table(data)
    figure = partial(checks_figure, checks=data, images=images)
    return [picture(figure, f"checks-{reported.name}", text)]


def calibration(reported: ReportedRun) -> list[Block]:
    """Ranks and coverage."""
    data = reported.read("calibration", reported.command("diagnose"))
    sentences = calibration_table.calibration_sentences(data)
    alt = f"ECDF differences of ranks with 99 % bands. {'; '.join(sentences)}. The table has means and p-values."
    figure = partial(calibration_figure, data=data)
    notes = [*sentences, calibration_table.how_to_read(data)]
    return [
        picture(figure, f"calibration-{reported.name}", alt),
        Numbers("Ranks", calibration_table.calibration_rows(data), notes),
    ]


def loo(reported: ReportedRun) -> list[Block]:
    """Views left out."""
    if not reported.config.multi_view:
        raise Missing("Single images have no views to leave out.")
    data = reported.read("loo", reported.command("diagnose"))
    text = loo_table(data)
    figure = partial(khat_figure, khats={"views left out": khats_of(data)})
    return [picture(figure, f"loo-{reported.name}", f"k̂ of every view. {text}")]


def comparison_among(folders: Sequence[ReportedRun]) -> Show:
    """What shows the comparisons of a run with others of these."""

    def comparison(reported: ReportedRun) -> list[Block]:
        """Comparisons of this run with others of the page, as ``compare.py`` printed them."""
        others = [other for other in folders if other is not reported]
        found: list[Block] = []
        for path in sorted(reported.folder.path.glob("against-*/comparison.nc")):
            sides = json.loads(results.read(path).attrs.get("settings", "[]"))
            for other in others:
                if sides == [[other.loaded().identity, reported.loaded().identity]]:
                    text = path.with_suffix(".txt").read_text(encoding="utf-8")
                    found.append(Text(f"{other.name} (0) and {reported.name} (+)", text))
        if not found and not reported.config.lnms and any(other.config.lnms for other in others):
            raise Missing("Without L-NMS this is the side 0 of comparisons, which are shown with the other.")
        if not found:
            first = others[0].quoted if others else "RUN_0"
            command = f"python experiments/compare.py {first} {reported.quoted}"
            raise Missing("Not compared, as the run with L-NMS, with any other run of this page.", command)
        return found

    return comparison


def configuration(folders: Sequence[ReportedRun]) -> Section:
    """Where the configurations differ, and all of each."""
    flat = [flatten(reported.config) for reported in folders]
    names = list(dict.fromkeys(name for content in flat for name in content))
    rows = tuple(
        (name, *(_value(content.get(name)) for content in flat))
        for name in names
        if len({_value(content.get(name)) for content in flat}) > 1
    )
    parts = []
    if rows:
        heads = ("field", *(reported.name for reported in folders))
        parts.append(Part("", [Numbers("Fields that differ", Table(heads, rows))]))
    parts += [Part(f.name, [Text("config.yaml", to_yaml(f.config), folded=True)]) for f in folders]
    return Section("configuration", "Configuration", "Everything that defines the runs.", parts)


def _value(value: object) -> str:
    return "–" if value is None else str(value)


def environment(reported: ReportedRun) -> list[Block]:
    """Calls, packages, machine."""
    calls = reported.environment()
    last = calls[-1]
    details = {"device": last["device"], "system": last["system"], "python": last["python"], **last["packages"]}
    rows = tuple((name, str(value)) for name, value in details.items())
    commands = "\n".join(call["command"] for call in calls)
    return [Text("Commands", commands), Numbers("Environment", Table(("what", "value"), rows))]


def settings(reported: ReportedRun) -> list[Block]:
    """With what settings the files of the run folder were computed."""
    lines = [
        f"{path.name}: {results.read(path).attrs.get('settings')}" for path in sorted(reported.folder.path.glob("*.nc"))
    ]
    return [Text("Settings of the files", "\n".join(lines), folded=True)] if lines else []

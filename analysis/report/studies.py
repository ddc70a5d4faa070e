"""What a report shows of each study of a run, or the command that makes the study where it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pyro_compvae.analysis import results
from pyro_compvae.analysis.calibration import table as calibration_table
from pyro_compvae.analysis.calibration.figure import calibration_figure
from pyro_compvae.analysis.evidence.data_set import estimates_of
from pyro_compvae.analysis.evidence.figure import evidence_figure
from pyro_compvae.analysis.evidence.table import comparisons, evidence_rows, how_to_read, sandwich_table
from pyro_compvae.analysis.ladder import table as ladder_table
from pyro_compvae.analysis.ladder.figure import ladder_figure
from pyro_compvae.analysis.posterior.figure import checks_figure, khat_figure, khats_of, marginals_figure
from pyro_compvae.analysis.posterior.loo import loo_table
from pyro_compvae.analysis.posterior.marginals import agreement
from pyro_compvae.analysis.posterior.predictive_checks import checks_table
from pyro_compvae.analysis.report.blocks import Block, Numbers, Show, Text
from pyro_compvae.analysis.report.drawing import picture
from pyro_compvae.analysis.report.folders import Missing, ReportedRun


def evidence(reported: ReportedRun) -> list[Block]:
    """Estimates of log p(x)."""
    data = reported.read("evidence", reported.command("evidence"))
    estimates = estimates_of(data)
    scenes = len(estimates["guide"].log_evidence)
    dimensions = 3 * reported.config.data.image_size**2 * results.recorded(data).get("num_views", 1)
    notes = [*comparisons(estimates), how_to_read(estimates)]
    table = evidence_rows(estimates, dimensions)
    alt = f"Estimates of log p(x) of {scenes} scenes against the number of draws; the table has their values."
    figure = picture(partial(evidence_figure, estimates=estimates), f"evidence-{reported.name}", alt)
    return [Numbers(f"{scenes} test scenes, nats", table, notes), figure]


def sandwich(reported: ReportedRun) -> list[Block]:
    """Bounds on log p(x) of simulated scenes."""
    data = reported.read("sandwich", reported.command("evidence", "--bdmc"))
    return [Text("Simulated scenes, between two bounds, nats", sandwich_table(data))]


def ladder(reported: ReportedRun) -> list[Block]:
    """Rungs and gaps."""
    data = reported.read("ladder", reported.command("ladder"))
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
    if results.recorded(data)["draws"] != draws:
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
        """Comparisons of this run with others of the page, as ``compvae compare`` printed them."""
        others = [other for other in folders if other is not reported]
        found: list[Block] = []
        for path in sorted(reported.folder.path.glob("against-*/comparison.nc")):
            data = results.read(path)
            for other in others:
                if results.recorded(data).get("pairs") == [[other.loaded().identity, reported.loaded().identity]]:
                    reported.check(path, data, {}, f"compvae compare {other.quoted} {reported.quoted}")
                    text = path.with_suffix(".txt").read_text(encoding="utf-8")
                    found.append(Text(f"{other.name} (0) and {reported.name} (+)", text))
        if not found and not reported.config.lnms and any(other.config.lnms for other in others):
            raise Missing("Without L-NMS this is the side 0 of comparisons, which are shown with the other.")
        if not found:
            first = others[0].quoted if others else "RUN_0"
            command = f"compvae compare {first} {reported.quoted}"
            raise Missing("Not compared, as the run with L-NMS, with any other run of this page.", command)
        return found

    return comparison

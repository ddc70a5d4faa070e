"""What a report shows of each study of a run, or the command that makes the study where it is missing."""

from __future__ import annotations

from functools import partial

from pyro_compvae.analysis import results
from pyro_compvae.analysis.calibration import table as calibration_table
from pyro_compvae.analysis.calibration.figure import calibration_figure
from pyro_compvae.analysis.evidence.compute import OBSERVED
from pyro_compvae.analysis.evidence.data_set import estimates_of
from pyro_compvae.analysis.evidence.figure import evidence_figure
from pyro_compvae.analysis.evidence.table import (
    comparisons,
    evidence_rows,
    how_to_read,
    interval,
    sandwich_rows,
    sandwich_sentence,
)
from pyro_compvae.analysis.ladder import table as ladder_table
from pyro_compvae.analysis.ladder.figure import ladder_figure
from pyro_compvae.analysis.posterior.figure import checks_figure, khat_figure, khats_of, marginals_figure
from pyro_compvae.analysis.posterior.loo import loo_table
from pyro_compvae.analysis.posterior.marginals import agreement
from pyro_compvae.analysis.posterior.predictive_checks import checks_table
from pyro_compvae.analysis.report.blocks import Block, Headline, Numbers, Verdict
from pyro_compvae.analysis.report.drawing import picture
from pyro_compvae.analysis.report.folders import Missing, ReportedRun
from pyro_compvae.analysis.report.said import scenes_of


def evidence(reported: ReportedRun) -> list[Block]:
    """Estimates of log p(x)."""
    data = reported.read("evidence", reported.command("evidence"))
    estimates, said = estimates_of(data), scenes_of(data)
    name, best = [(name, estimate) for name, estimate in estimates.items() if name != OBSERVED][-1]
    found, reliable = interval(best.log_evidence), f"reliable for {int(best.reliable.sum())} of {len(best.reliable)}"
    dimensions = 3 * reported.config.data.image_size**2 * results.recorded(data).get("num_views", 1)
    notes = [*comparisons(estimates), how_to_read(estimates)]
    alt = f"Estimates of log p(x) of {said} against the number of draws; the table has their values."
    return [
        Headline("log p̂(x), nats ↑", found, f"{said}, {reliable}"),
        Verdict(f"log p̂(x) by {name} is {found} nats per scene on {said}; {best.verdict()}."),
        Numbers(f"{said}, nats", evidence_rows(estimates, dimensions), notes),
        picture(partial(evidence_figure, estimates=estimates), f"evidence-{reported.name}", alt),
    ]


def sandwich(reported: ReportedRun) -> list[Block]:
    """Bounds on log p(x) of simulated scenes."""
    data = reported.read("sandwich", reported.command("evidence", "--bdmc"))
    caption = f"{scenes_of(data, 'simulated scenes')}, between two bounds, nats"
    return [Numbers(caption, sandwich_rows(data), [sandwich_sentence(data)])]


def ladder(reported: ReportedRun) -> list[Block]:
    """Rungs and gaps."""
    data = reported.read("ladder", reported.command("ladder"))
    said, total = scenes_of(data), data["gap"].sum("gap_name")
    parts = data["gap"].mean("scene")
    means = {ladder_table.NAMES[str(part["gap_name"].values)]: float(part) for part in parts}
    largest = max(means, key=means.__getitem__)
    listed = ", ".join(f"{name} {mean:.1f}" for name, mean in means.items())
    alt = f"Parts of the gap of {said} as stacked bars; means in nats: {listed}."
    figure = partial(ladder_figure, data=data)
    return [
        Headline("gap, nats ↓", interval(total.values), said),
        Verdict(
            f"the gap log p̂(x) − ELBO is {interval(total.values)} nats per scene on {said}; the largest part is "
            f"{largest}, {means[largest]:.1f} nats."
        ),
        Numbers(f"Parts of the gap, {said}, nats", ladder_table.gap_rows(data)),
        Numbers(f"Rungs, {said}, nats", ladder_table.rung_rows(data), [ladder_table.how_to_read(data)]),
        picture(figure, f"ladder-{reported.name}", alt),
    ]


def khat(reported: ReportedRun) -> list[Block]:
    """k̂ of the weights of all draws there are."""
    command = reported.command("diagnose")
    draws = {name: reported.read(f"posterior_{name}", command) for name in ("guide", "importance")}
    khats = {name: khats_of(data) for name, data in draws.items()}
    said = [f"{name}: {values} {scenes_of(draws[name])}" for name, values in khats.items()]
    figure = picture(partial(khat_figure, khats=khats), f"khat-{reported.name}", "; ".join(said))
    return [*(Verdict(f"draws, {sentence}.") for sentence in said), figure]


def nuts(reported: ReportedRun) -> list[Block]:
    """Marginals of one scene against NUTS."""
    command, groups = reported.command("diagnose"), ("posterior", "sample_stats")
    draws = {
        name: {group: reported.read(f"posterior_{name}", command, group) for group in groups}
        for name in ("nuts", "guide", "importance")
    }
    scene = int(draws["nuts"]["sample_stats"]["scene"].values[0])
    for name in ("guide", "importance"):
        others = draws[name]["sample_stats"]
        if scene not in others["scene"].values:
            why = f"posterior_nuts.nc is of test scene {scene + 1}, and posterior_{name}.nc of {scenes_of(others)}."
            raise Missing(why, command)
    found = agreement(draws)
    said = f"Test scene {scene + 1} (--nuts-scene {scene})"
    alt = f"Latents of test scene {scene + 1} by NUTS, the guide and importance; the table has their distances."
    draw = partial(marginals_figure, draws=found.draws, distances=found.distances)
    table = Numbers(f"{said} against NUTS", found.rows, found.notes)
    return [table, picture(draw, f"marginals-{reported.name}", alt)]


def checks(reported: ReportedRun) -> list[Block]:
    """Posterior-predictive checks."""
    command = reported.command("diagnose")
    data = reported.read("predictive_checks", command)
    draws = [reported.read(f"posterior_{name}", command).attrs["settings"] for name in ("guide", "importance")]
    if results.recorded(data)["draws"] != draws:
        raise Missing("predictive_checks.nc is of other draws than those here.", command)
    images = reported.read("posterior_guide", command, "observed_data")["image"].values
    text = f"{scenes_of(data)}; {checks_table(data)}"
    figure = partial(checks_figure, checks=data, images=images)
    return [picture(figure, f"checks-{reported.name}", text)]


def calibration(reported: ReportedRun) -> list[Block]:
    """Ranks and coverage."""
    data = reported.read("calibration", reported.command("diagnose"))
    sentences = calibration_table.calibration_sentences(data)
    said = scenes_of(data, "simulated scenes")
    alt = f"ECDF differences of ranks with 99 % bands, {said}. The table has means and p-values."
    rows, notes = calibration_table.calibration_rows(data), [calibration_table.how_to_read(data)]
    return [
        *(Verdict(f"{sentence}.") for sentence in sentences),
        Numbers(f"Ranks, {said}", rows, notes),
        picture(partial(calibration_figure, data=data), f"calibration-{reported.name}", alt),
    ]


def loo(reported: ReportedRun) -> list[Block]:
    """Views left out."""
    if not reported.config.multi_view:
        raise Missing("Single images have no views to leave out.")
    data = reported.read("loo", reported.command("diagnose"))
    said, sentence = scenes_of(data), loo_table(data)
    figure = partial(khat_figure, khats={"views left out": khats_of(data)})
    return [Verdict(f"{said}: {sentence}."), picture(figure, f"loo-{reported.name}", f"k̂ of every view of {said}")]

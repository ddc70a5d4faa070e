"""The sections of a report in their order, and what each is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyro_compvae.analysis.report.blocks import Part, Section, Show, part_of
from pyro_compvae.analysis.report.comparisons import comparisons_among
from pyro_compvae.analysis.report.folders import Missing, ReportedRun
from pyro_compvae.analysis.report.metrics import curves, overview
from pyro_compvae.analysis.report.provenance import configuration, environment, settings
from pyro_compvae.analysis.report.studies import (
    calibration,
    checks,
    evidence,
    khat,
    ladder,
    loo,
    nuts,
    sandwich,
)


def sections(folders: Sequence[ReportedRun]) -> list[Section]:
    """All sections but that of the decompositions, in their order."""
    return [
        _whole("comparison", "Comparison", folders, comparisons_among),
        _whole("overview", "Overview", folders, overview),
        _whole("curves", "Training", folders, curves),
        _section("evidence", "Evidence", EVIDENCE, folders, evidence, sandwich),
        _section("ladder", "Gap ladder", LADDER, folders, ladder),
        _section("posterior", "Posterior", POSTERIOR, folders, khat, nuts, checks),
        _section("calibration", "Calibration", CALIBRATION, folders, calibration),
        *([_section("loo", "Views left out", LOO, folders, loo)] if any(f.config.multi_view for f in folders) else []),
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
ENVIRONMENT = "What made the runs."


def _whole(
    key: str, title: str, folders: Sequence[ReportedRun], make: Callable[[Sequence[ReportedRun]], Section]
) -> Section:
    """A section on all runs together, or the reason why it cannot be made."""
    try:
        return make(folders)
    except Exception as error:  # as in `part_of`
        return Section(key, title, "", [Part("", (), [Missing(f"This cannot be shown: {error!r}.")])])


def _section(key: str, title: str, lead: str, folders: Sequence[ReportedRun], *shows: Show) -> Section:
    return Section(key, title, lead, [part_of(reported, *shows) for reported in folders])

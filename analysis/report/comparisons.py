"""The comparisons among the runs of a report, with the verdict of each before its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import xarray

from pyro_compvae.analysis import results
from pyro_compvae.analysis.comparison.compute import check_comparable, ladders, same_model, undefined
from pyro_compvae.analysis.comparison.table import comparison_rows, how_to_read, part_rows, sentence
from pyro_compvae.analysis.metrics.meanings import MEANINGS, left_out
from pyro_compvae.analysis.report.blocks import Block, Numbers, Part, Section, Verdict
from pyro_compvae.analysis.report.folders import Missing, NotComputed, ReportedRun
from pyro_compvae.analysis.report.said import scenes_of

LEAD = (
    "Runs without (0) and with L-NMS (+) on the same scenes: is a difference of ELBOs one of models or of posteriors?"
)

Pairs = list[tuple[ReportedRun, ReportedRun]]


def comparisons_among(folders: Sequence[ReportedRun]) -> Section:
    """A part for every comparison whose runs are all on the page, in their present state."""
    parts = []
    compared: set[str] = set()
    for path in [path for f in folders for path in sorted(f.folder.path.glob("against-*/comparison.nc"))]:
        name = f"{path.parent.parent.name}/{path.parent.name}"
        try:
            data = results.read(path)
            pairs = _pairs(data, folders)
            compared |= {run.name for pair in pairs for run in pair}
            part = _part(path, data, pairs)
        except Missing as reason:
            part = Part(name, (), [reason])
        # A file that is damaged, or does not fit the others, must not break the rest of the page.
        except Exception as error:
            part = Part(name, (), [Missing(f"{path.name} cannot be shown: {error!r}.")])
        parts.append(part)
    missing = [] if len(folders) < 2 else _not_compared([f for f in folders if f.name not in compared])
    return Section("comparison", "Comparison", LEAD, [*parts, Part("", (), missing)])


def _part(path: Path, data: xarray.Dataset, pairs: Pairs) -> Part:
    first = pairs[0][0]
    first.check(path, data, {}, _command(pairs))
    runs = [(zero.loaded(), plus.loaded()) for zero, plus in pairs]
    others = [phrase for pair in runs for phrase in check_comparable(pair)]
    shared = all(same_model(pair) for pair in runs)
    notes = [how_to_read(data)]
    if missing := undefined(data):
        notes.append(left_out(MEANINGS[name].name for name in missing))
    if others:
        notes.append(f"The runs differ in more than L-NMS: {'; '.join(others)}.")
    share = float(data["reliable"].mean())
    doubt = "" if share == 1 else f" This is not certain: log p̂(x) is reliable for {share:.0%} of the scenes."
    blocks: list[Block] = [Verdict(sentence(data, shared) + doubt)]
    blocks.append(Numbers(f"{scenes_of(data)}, nats per scene", comparison_rows(data), notes))
    parts = ladders(runs, first.scenes)
    if parts is not None:
        caption = f"Parts of Δ gap by compvae ladder, with a separate estimate of log p(x); {scenes_of(parts)}, nats"
        blocks.append(Numbers(caption, part_rows(parts)))
    name = "; ".join(f"{zero.name} (0) and {plus.name} (+)" for zero, plus in pairs)
    steps = sorted({run.step for pair in runs for run in pair})
    return Part(name, blocks, (), "step " + ", ".join(f"{step:,}" for step in steps))


def _pairs(data: xarray.Dataset, folders: Sequence[ReportedRun]) -> Pairs:
    """The runs of the page whose identities a comparison recorded.

    Raises:
        Missing: if it recorded none, or they are not all here, or have been trained on.
    """
    identities = results.recorded(data).get("pairs")
    if identities is None:
        raise Missing("The comparison is of an earlier version, and does not say of which scenes it is.")
    known = [(f, f.run.identity) for f in folders if f.run is not None]
    sides = [dict(side) for pair in identities for side in pair] if isinstance(identities, list) else []
    found = [f for side in sides for f in [f for f, identity in known if identity.items() <= side.items()][:1]]
    if not found or len(found) < len(sides):
        raise Missing("The comparison is of runs that are not on this page, or that have been trained on since.")
    return list(zip(found[::2], found[1::2], strict=True))


def _not_compared(folders: Sequence[ReportedRun]) -> list[Missing]:
    """The command that compares runs without L-NMS and runs with it, of as many pairs as there are."""
    zeros, pluses = ([f for f in folders if f.config.lnms is lnms] for lnms in (False, True))
    pairs = list(zip(zeros, pluses, strict=False))
    return [NotComputed("the runs have not been compared", _command(pairs))] if pairs else []


def _command(pairs: Pairs) -> str:
    return "compvae compare " + " ".join(f"{zero.quoted} {plus.quoted}" for zero, plus in pairs)

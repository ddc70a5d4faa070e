"""The forms of L-NMS against none: what each does to the model, the posterior and the decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray

from pyro_compvae.analysis.batches import Batches
from pyro_compvae.analysis.comparison.compute import bootstrap, compare, delta, undefined
from pyro_compvae.analysis.comparison.table import LABELS, how_to_read
from pyro_compvae.analysis.evidence.compute import EvidenceConfig
from pyro_compvae.analysis.runs import load_run
from pyro_compvae.analysis.studies.grid import Cell
from pyro_compvae.analysis.tables import Table, csv_text
from pyro_compvae.errors import ConfigError
from pyro_compvae.lnms import LnmsForm, strength_of_sum
from pyro_compvae.runs.config import RunConfig

NONE = "none"
"""The name of the side without L-NMS."""

QUANTITIES = ("elbo", "log_evidence", "gap", "miou", "duplicates")
"""The quantities of the table, as in `comparison.compute.QUANTITIES`."""


@dataclass(frozen=True)
class FormResult:
    """A form, its strength, and the comparison of its runs with those without L-NMS (`compare`)."""

    form: str
    strength: float
    data: xarray.Dataset


def forms_cells(
    config: RunConfig, forms: Sequence[LnmsForm], strengths: Sequence[float], seeds: Sequence[int]
) -> list[Cell]:
    """A run without L-NMS and one for every form, for every seed, ordered by seed.

    Without strengths every form has that of the configuration, which is of the sum, and the mean as many times that as
    there are pairs of slots, so that the two are the same.

    Raises:
        ConfigError: for another number of strengths than forms.
    """
    if strengths and len(strengths) != len(forms):
        raise ConfigError(f"strengths: expected one for each of the forms {', '.join(forms)}, got {len(strengths)}")
    strength, slots = config.lnms_prior.strength, config.num_slots
    by_form = strengths or [
        strength / strength_of_sum(1.0, form, slots) if form == "mean" else strength for form in forms
    ]
    sides: list[tuple[str, dict[str, Any]]] = [(NONE, {"lnms": False})]
    for form, own in zip(forms, by_form, strict=True):
        sides.append((form, {"lnms": True, "lnms_prior.form": form, "lnms_prior.strength": own}))
    return [
        Cell(f"{side}-seed{seed}", config.replace(changes | {"seed": seed}), {"form": side, "seed": seed})
        for seed in seeds
        for side, changes in sides
    ]


def compare_forms(
    out: Path, done: Sequence[Cell], evidence: EvidenceConfig, batches: Batches, device: torch.device
) -> list[FormResult]:
    """Compare the finished runs of every form with those without L-NMS of the same seeds.

    Evidence is kept in the run folders, and not estimated again.

    Raises:
        ConfigError: if no seed has both.
    """
    names = {cell.name: cell for cell in done}
    results = []
    for form in dict.fromkeys(str(cell.place["form"]) for cell in done if cell.place["form"] != NONE):
        seeds = [cell.place["seed"] for cell in done if cell.place["form"] == form]
        seeds = [seed for seed in seeds if f"{NONE}-seed{seed}" in names]
        if not seeds:
            continue
        zeros, pluses = ([load_run(out / f"{side}-seed{seed}", device) for seed in seeds] for side in (NONE, form))
        data = compare(list(zip(zeros, pluses, strict=True)), zeros[0].scenes("test"), evidence, batches)
        strength = names[f"{form}-seed{seeds[0]}"].config.lnms_prior.strength
        results.append(FormResult(form, strength, data))
    if not results:
        raise ConfigError("forms: expected a seed with a run without L-NMS and one with it, found none that is done")
    return results


def forms_table(results: Sequence[FormResult]) -> str:
    """A row per form: the mean differences to none with their 95 % intervals; then how to read them."""
    missing = set.intersection(*(set(undefined(result.data)) for result in results))
    names = [name for name in QUANTITIES if name not in missing]
    rows = [
        (
            result.form,
            f"{result.strength:g}",
            str(result.data.sizes["pair"]),
            *(str(bootstrap(delta(result.data, name))) for name in names),
        )
        for result in results
    ]
    table = Table(("form", "s", "pairs", *(LABELS[name].partition(",")[0] for name in names)), tuple(rows))
    return f"{table}\n\n{how_to_read(results[0].data)}"


def forms_csv(results: Sequence[FormResult]) -> str:
    """A row per form and quantity: the mean difference to none, and the ends of its 95 % interval."""
    rows = [
        (result.form, result.strength, result.data.sizes["pair"], name, *bootstrap(delta(result.data, name)))
        for result in results
        for name in QUANTITIES
        if name not in undefined(result.data)
    ]
    return csv_text(("form", "strength", "pairs", "quantity", "mean", "low", "high"), rows)

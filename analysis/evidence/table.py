"""Tables of evidence estimates, and how to read them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import xarray
from numpy.typing import NDArray
from torch import Tensor

from pyro_compvae.analysis.evidence.compute import OBSERVED
from pyro_compvae.analysis.tables import Table
from pyro_compvae.evidence import EvidenceEstimate, conditional_log_evidence
from pyro_compvae.evidence.estimate import reliable_khat


def evidence_table(estimates: Mapping[str, EvidenceEstimate], dimensions: int) -> str:
    """The table of `evidence_rows`, comparisons of the estimates, and how to read them."""
    return "\n".join([str(evidence_rows(estimates, dimensions)), *comparisons(estimates), how_to_read(estimates)])


def evidence_rows(estimates: Mapping[str, EvidenceEstimate], dimensions: int) -> Table:
    """A row per estimator with means over scenes, in nats and bits per dimension, k̂ and ESS.

    Args:
        estimates: the estimates by name, for all scenes.
        dimensions: the number of observed numbers per scene, 3HW, times V with several views.
    """
    heads = ("estimator", "ELBO", "log p(x)", "s.e.", "smoothed", "bits/dim", "k̂ median, 90 %", "reliable", "ESS")
    rows = []
    for name, e in estimates.items():
        bits = "" if name == OBSERVED else f"{-float(e.log_evidence.mean()) / (dimensions * math.log(2)):.4f}"
        khat = "few draws" if bool(e.khat.isnan().all()) else " ".join(f"{q:.2f}" for q in _quantiles(e.khat))
        cells = (
            name,
            interval(e.elbo),
            interval(e.log_evidence),
            f"{float(e.standard_error.median()):.2f}",
            f"{float(e.smoothed().mean()):.2f}",
            bits,
            khat,
            f"{float(e.reliable.double().mean()):.0%}",
            f"{float(e.ess.median()):.1f}",
        )
        rows.append(cells)
    return Table(heads, tuple(rows))


def how_to_read(estimates: Mapping[str, EvidenceEstimate]) -> str:
    """A text that says what the columns mean, with the thresholds of k̂ for the numbers of draws."""
    thresholds = sorted({len(e.log_weights) for e in estimates.values()}, reverse=True)
    bands = ", ".join(f"{reliable_khat(L):.2f} with {L:,} draws" for L in thresholds if L > 1)
    return HOW_TO_READ.format(bands=bands)


HOW_TO_READ = """\
Nats per scene; ± is a 95 % interval over scenes, and s.e. is the median standard error of a single scene's log p(x),
which ignores regions that no draw has seen. Every log p(x) is low in expectation; it is reliable if k̂ is below {bands}.
bits/dim belongs to a density over colours in [0, 1]; add 8 for colours from 0 to 255."""


def comparisons(estimates: Mapping[str, EvidenceEstimate]) -> list[str]:
    """Comparisons of the estimates, in sentences."""
    guide = estimates["guide_symmetric"]
    symmetry = guide.elbo - estimates["guide"].elbo
    lines = [f"symmetry term, ELBO of q̄ − ELBO of q: {interval(symmetry)} nats, {_range(symmetry)}"]
    refined = [name for name in estimates if name.endswith("_covering")][-1]
    # Both are lower bounds in expectation, so the larger one is better.
    best = torch.stack([estimates[name].log_evidence for name in (refined, "ais") if name in estimates]).amax(0)
    gap = best - guide.elbo
    lines.append(f"gap of the guide, log p̂(x) − ELBO of q̄: at least {interval(gap)} nats, {_range(gap)}")
    if "ais" in estimates:
        difference = estimates["ais"].log_evidence - estimates[refined].log_evidence
        near, reliable = difference.abs() < 1, estimates[refined].reliable
        lines.append(
            f"ais − {refined}: {interval(difference)} nats, {_range(difference)}; within 1 nat on {int(near.sum())} "
            f"of {len(near)} scenes, and on {int((near & reliable).sum())} of the {int(reliable.sum())} where "
            f"{refined} is reliable"
        )
    if OBSERVED in estimates:
        conditional = conditional_log_evidence(estimates[refined], estimates[OBSERVED])
        lines.append(
            f"log p(query views | observed views): {interval(conditional.log_evidence)} nats per scene, reliable for "
            f"{int(conditional.reliable.sum())} of {len(conditional.reliable)} scenes; {OBSERVED!r} above is log p of "
            "the observed views alone"
        )
    return lines


def sandwich_table(data: xarray.Dataset) -> str:
    """The table of `sandwich_rows`, and the sentence of `sandwich_sentence`."""
    return "\n".join([str(sandwich_rows(data)), sandwich_sentence(data)])


def sandwich_rows(data: xarray.Dataset) -> Table:
    """A row per simulated scene, with both bounds, and with where the importance estimate lies, up to two standard
    errors.

    Args:
        data: the result of `sandwich_data`.
    """
    rows = []
    for b in range(data.sizes["scene"]):
        row = {str(name): float(values) for name, values in data.isel(scene=b).items()}
        below, above = row["lower"] - row["importance"], row["importance"] - row["upper"]
        error = math.hypot(row["width_standard_error"], row["importance_standard_error"])
        inside = max(below, above) <= (0.0 if math.isnan(error) else 2 * error)  # it is NaN for a single chain
        where = "inside" if inside else f"{below:.2f} below" if below > above else f"{above:.2f} above"
        if not inside and not row["reliable"]:
            where += ", as k̂ warns"
        width = row["upper"] - row["lower"]
        numbers = (row["lower"], row["upper"], width, row["width_standard_error"], row["importance"], row["khat"])
        rows.append((str(b + 1), *(f"{number:.2f}" for number in numbers), where))
    heads = ("simulated scene", "lower", "upper", "width", "s.e.", "importance", "k̂", "it lies")
    return Table(heads, tuple(rows))


def sandwich_sentence(data: xarray.Dataset) -> str:
    """A sentence on how far apart the bounds are."""
    width = torch.from_numpy((data["upper"] - data["lower"]).values)
    return (
        f"width: median {float(width.median()):.2f} nats, {_range(width)}; it is below zero by noise if the bounds meet"
    )


def _quantiles(khat: Tensor) -> list[float]:
    return [float(khat.nanquantile(p)) for p in (0.5, 0.9)]


def half_interval(values: Tensor) -> Tensor:
    """1.96 standard errors of the mean over scenes, the last dimension; zero for a single scene."""
    B = values.shape[-1]
    return 1.96 * values.std(-1) / math.sqrt(B) if B > 1 else torch.zeros_like(values[..., 0])


def interval(values: Tensor | NDArray) -> str:
    """The mean with a 95 % interval over scenes, as a text; for a single scene, the value."""
    values = torch.as_tensor(values)
    error = f" ± {float(half_interval(values)):.2f}" if len(values) > 1 else ""
    return f"{float(values.mean()):.2f}{error}"


def _range(values: Tensor) -> str:
    return f"from {float(values.min()):.2f} to {float(values.max()):.2f}"

"""The names and meanings of the numbers in a ``summary.json``, for reports, figures and model cards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Meaning(NamedTuple):
    """What a metric is called everywhere, and how to read it.

    name: the name, without a unit.
    unit: the unit, or an empty text.
    hint: how to read the number.
    better: 1 if high is good, −1 if low is good, and 0 if neither is.
    """

    name: str
    unit: str
    hint: str
    better: int

    @property
    def label(self) -> str:
        """The name with the unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def arrow(self) -> str:
        """The name with an arrow in the good direction."""
        return f"{self.label} {ARROWS[self.better]}".rstrip()


ARROWS = {1: "↑", -1: "↓", 0: ""}

MEANINGS = {
    "elbo": Meaning("ELBO", "nats", "per scene, a lower bound on log p(x), β = 1 and no L-NMS; high", 1),
    "miou": Meaning("mIoU", "", "1 is perfect; the background counts as an object", 1),
    "ari_fg": Meaning("foreground ARI", "", "1 is perfect, 0 is chance", 1),
    "ari": Meaning("ARI", "", "of all pixels; 1 is perfect, 0 is chance; mostly about the background", 1),
    "mse": Meaning("MSE", "", "0 is perfect, colours in [0, 1]; the model assumes noise of σ²", -1),
    "duplicates": Meaning("duplicates", "pairs", "of slots on one object, or on the background; 0 is perfect", -1),
    "duplicates_latent": Meaning("latent duplicates", "pairs", "of slots of cosine > 0.9; 0 is perfect", -1),
    "active_slots": Meaning("active slots", "", "slots with 1 % of the pixels; objects + 1 is perfect", 0),
    "mask_entropy": Meaning("entropy of masks", "nats", "0 is decided, log K says nothing", -1),
    "query_log_likelihood": Meaning("query log-likelihood", "nats", "of views that were not observed; high", 1),
    "query_mse": Meaning("query MSE", "", "of views that were not observed; 0 is perfect", -1),
    "query_miou": Meaning("query mIoU", "", "of views that were not observed; 1 is perfect", 1),
    "query_ari_fg": Meaning(
        "query foreground ARI", "", "of views that were not observed; 1 is perfect, 0 is chance", 1
    ),
    "steps": Meaning("training steps", "", "", 0),
    "seconds": Meaning("training", "seconds", "wall clock", 0),
    "num_test_scenes": Meaning("test scenes", "", "unseen in training", 0),
}
"""The metrics by the names that they have in files."""


def number(value: float | None) -> str:
    """A metric as a text with the digits that a reader needs."""
    if value is None:
        return "–"
    if abs(value) < 10 or not math.isfinite(value):
        return f"{value:.4g}"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def with_interval(summary: Mapping[str, Any], name: str) -> str:
    """A metric of a summary with its 95 % interval over test scenes, to two digits of the latter.

    Summaries of older versions have no "standard_errors", and give the metric alone.
    """
    error = (summary.get("standard_errors") or {}).get(name)
    if summary.get(name) is None or error is None:
        return number(summary.get(name))
    half = 1.96 * error
    digits = min(max(1 - math.floor(math.log10(half)), 0), 6) if half > 0 else 2
    return f"{summary[name]:,.{digits}f} ± {half:,.{digits}f}"


def left_out(names: Iterable[str]) -> str:
    """The note in place of metrics that need masks, if there are none."""
    return f"no masks: {', '.join(names)} are left out"

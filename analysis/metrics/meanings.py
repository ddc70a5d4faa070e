"""The meanings of the numbers in a ``summary.json``, for reports and model cards."""

from __future__ import annotations

import math
from collections.abc import Iterable

MEANINGS = {
    "elbo": ("ELBO, nats per scene", "a lower bound on log p(x), β = 1 and no L-NMS; high"),
    "miou": ("mIoU, background included", "1 is perfect"),
    "ari_fg": ("foreground ARI", "1 is perfect, 0 is chance"),
    "ari": ("ARI of all pixels", "1 is perfect, 0 is chance; mostly about the background"),
    "mse": ("MSE of colours", "0 is perfect, colours in [0, 1]; the model assumes noise of σ²"),
    "duplicates": ("pairs of slots on one object", "0 is perfect; the background counts as an object"),
    "duplicates_latent": ("pairs of slots of cosine > 0.9", "0 is perfect"),
    "active_slots": ("slots with 1 % of the pixels", "objects + 1 is perfect"),
    "mask_entropy": ("entropy of masks, nats", "0 is decided, log K says nothing"),
    "query_log_likelihood": ("log-likelihood of query views, nats", "high"),
    "query_mse": ("MSE of query views", "0 is perfect"),
    "query_miou": ("mIoU of query views", "1 is perfect"),
    "query_ari_fg": ("foreground ARI of query views", "1 is perfect, 0 is chance"),
    "steps": ("training steps", ""),
    "seconds": ("seconds of training", "wall clock"),
    "num_test_scenes": ("test scenes", "unseen in training"),
}
"""The metrics by name, each with a title and a hint on how to read it."""


def number(value: float | None) -> str:
    """A metric as a text with the digits that a reader needs."""
    if value is None:
        return "–"
    if abs(value) < 10 or not math.isfinite(value):
        return f"{value:.4g}"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def left_out(names: Iterable[str]) -> str:
    """The note in place of metrics that need masks, if there are none."""
    return f"no masks: {', '.join(names)} are left out"

"""Pictures inside a page: figures as SVG in the page's colours, and images as data URIs."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from numpy.typing import NDArray
from PIL import Image

from pyro_compvae.analysis.report.blocks import Picture

INK = "#010203"
"""The colour that stands for that of text while matplotlib draws; no figure uses it for anything else."""

STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "none"),
    "legend.framealpha": 0.0,
    "legend.edgecolor": "none",
    "svg.fonttype": "none",
}


def picture(draw: Callable[[Path], None], key: str, alt: str) -> Picture:
    """Draw a figure as SVG, whose text stays text, and whose axes and black parts take the colour of the page's text.

    Args:
        draw: a function that writes the figure into the file that it is given.
        key: a text that makes the ids of this figure different from those of all others in the page.
        alt: a description of the figure for readers who do not see it.
    """
    with tempfile.TemporaryDirectory() as folder, rc_context({**STYLE, "svg.hashsalt": key}):
        path = Path(folder) / "figure.svg"
        draw(path)
        svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(f"{INK}|#000000", "currentColor", svg)
    # Ids that are referred to are salted and kept; all others repeat from figure to figure and are removed.
    referred = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match.group() if match.group(1) in referred else "", svg)
    # The page sets the size; the figure's own width, in points of 4/3 pixels, is the largest.
    start, end = svg.split(">", 1)
    width = re.search(r'\bwidth="([\d.]+)pt"', start)
    limit = f' style="--width: {float(width.group(1)) * 4 / 3:.0f}px"' if width else ""
    start = re.sub(r' (width|height)="[^"]*"', "", start).replace("<svg", f'<svg aria-hidden="true"{limit}')
    return Picture(f"{start}>{end}", alt)


def data_uri(pixels: NDArray) -> str:
    """An image (H, W, 3) with colours in [0, 1] as the data URI of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def label_string(labels: NDArray) -> str:
    """Labels (H, W) below 36 as a text with one character for each pixel, row after row."""
    return "".join(np.base_repr(int(label), 36) for label in labels.ravel())

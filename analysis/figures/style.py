"""What all figures share: the colours, and how a figure is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from pyro_compvae.runs.files import atomic_path

# This is Okabe & Ito's palette, which is safe for the colour-blind; black is kept for the true background.
PALETTE = np.array(
    [
        (0.00, 0.45, 0.70),
        (0.90, 0.62, 0.00),
        (0.00, 0.62, 0.45),
        (0.80, 0.47, 0.65),
        (0.34, 0.71, 0.91),
        (0.84, 0.37, 0.00),
        (0.94, 0.89, 0.26),
        (0.60, 0.60, 0.60),
    ]
)


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure in the format of the file's suffix, atomically, whatever backend is set.

    Its texts are not read as formulas.
    """
    FigureCanvasAgg(figure)
    numbers = {label for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    for text in figure.findobj(Text):
        if text not in numbers:  # of which those on logarithmic axes are formulas
            text.set_parse_math(False)  # a run may be named a$b
    with atomic_path(path) as temporary:
        figure.savefig(temporary)

"""Ten images of the published Tetrominoes, with EfficientMORL's own output on them, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

TETROMINOES = Path(__file__).parents[3] / "shared/data/tetrominoes/published_samples.npz"

needs_published_images = pytest.mark.skipif(
    not TETROMINOES.is_file(), reason=f"the ten published images are not here ({TETROMINOES.name})"
)
"""A mark of tests that need the images."""

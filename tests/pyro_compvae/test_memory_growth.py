"""Long runs take no more memory than short ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.memory import growth

pytestmark = [
    pytest.mark.slow(seconds=40),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc"),
]


@pytest.mark.parametrize(
    ("what", "guide", "calls"),
    [("training", "iodine", 200), ("training", "mulmon", 200), ("evidence", "iodine", 120)],
)
def test_memory_does_not_grow(what: str, guide: str, calls: int) -> None:
    """Memory grows by less than a quarter of a batch per call; a planted leak of a batch per call is noticed."""
    found = growth(what, guide, calls, leaking_calls=50)
    print(found)
    assert found.leaking > 0.75 * found.batch, "the premise"
    assert found.clean < 0.25 * found.batch

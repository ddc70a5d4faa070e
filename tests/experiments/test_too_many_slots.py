"""Scripts that need all orders of the slots, for a run with more slots than can be summed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.scripts import load_script

SLOTS = ("--set", "num_slots=17")


@pytest.mark.parametrize("script", ["estimate_evidence", "gap_ladder", "diagnose", "repulsive_prior", "compare"])
def test_they_say_so_at_once_and_what_to_do(
    script: str, tiny_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tiny_run("iodine", *SLOTS)
    before = sorted(path for path in run_dir.rglob("*") if path.is_file())
    runs = [str(run_dir)] * (2 if script == "compare" else 1)
    assert load_script(script).main([*runs, "--num-scenes", "8"]) == 1
    error = capsys.readouterr().err
    assert "error: " in error
    assert "slots" in error
    assert "got 17. No weight depends on K: load the run with fewer slots, load_run(" in error
    assert sorted(path for path in run_dir.rglob("*") if path.is_file()) == before

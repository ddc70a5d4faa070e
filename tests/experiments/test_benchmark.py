"""The benchmark's tables and file, at the tiny size; never how long anything took."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

from analysis.step_cost import VARIANTS, Case, Measurement


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("benchmark")


@pytest.mark.slow
def test_quick_run_prints_and_writes_consistent_numbers(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(["--quick", "--json", str(tmp_path / "b.json"), "--rounds", "1", "--device", "cpu"]) == 0
    content = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert content["machine"]["threads"] >= 1
    assert [row["variant"] for row in content["steps"]] == list(VARIANTS)
    baseline = content["steps"][0]
    for row in content["steps"]:
        assert row["step_ms"] > 0
        assert row["memory_mib"] > 0
        assert row["speed_up"] == pytest.approx(baseline["step_ms"] / row["step_ms"])
        assert row["memory_share"] == pytest.approx(row["memory_mib"] / baseline["memory_mib"])
    growth = [(row["variant"], row["num_iterations"]) for row in content["memory_against_iterations"]]
    assert growth == [(variant, T) for variant in ("plain two-pass", "single pass") for T in (2, 5, 10)]
    assert all(row["memory_mib"] > 0 for row in content["memory_against_iterations"])
    table = capsys.readouterr().out.splitlines()
    for row in content["steps"]:
        assert any(line.startswith(f"{row['variant']:24}") and f"{row['step_ms']:.1f}" in line for line in table)


def test_medians_and_ratios(benchmark: ModuleType) -> None:
    plain, single = (Case("tiny", variant, 2, "cpu") for variant in ("plain two-pass", "single pass"))
    results = {
        plain: [Measurement([4.0, 9.0], 300 * 2**20), Measurement([6.0], 500 * 2**20)],
        single: [Measurement([1.5], 100 * 2**20)],
    }
    first, second = benchmark.compare(results)
    assert (first["step_ms"], first["memory_mib"], first["speed_up"], first["memory_share"]) == (6000, 400, 1, 1)
    assert (second["step_ms"], second["memory_mib"], second["speed_up"], second["memory_share"]) == (1500, 100, 4, 0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds: expected at least 1, got 0"),
        (["--json", "/no/such/folder/b.json"], "--json: expected a file in an existing folder, got /no/such"),
    ],
)
def test_impossible_arguments_fail_before_measuring(
    benchmark: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(arguments) == 1
    assert message in capsys.readouterr().err

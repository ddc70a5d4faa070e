"""The benchmark's tables and file at the tiny size; the tests never ask how long anything took."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from helpers.scripts import load_script

from pyro_compvae.analysis.benchmark import suite
from pyro_compvae.analysis.benchmark.evidence_cost import OURS_WAY, PYRO_WAY
from pyro_compvae.analysis.benchmark.step_cost import BASELINE, COMPILED, OURS, VARIANTS, Case, Measurement

UNCOMPILED = [variant for variant in VARIANTS if variant != COMPILED]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("benchmark")


@pytest.mark.slow(seconds=65)
def test_quick_run_prints_and_writes_consistent_numbers(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One guide is enough here, as every measurement starts a process; tables of the others are tested below."""
    options = ["--quick", "--guides", "iodine", "--json", str(tmp_path / "b.json"), "--rounds", "1", "--device", "cpu"]
    assert benchmark.main(options) == 0
    content = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert content["machine"]["threads"] >= 1
    kinds = [(row["guide"], row["variant"]) for row in content["steps"]]
    assert kinds == [("iodine", variant) for variant in UNCOMPILED]
    for i, row in enumerate(content["steps"]):
        baseline = content["steps"][i - i % len(UNCOMPILED)]
        assert row["size"] == "tiny"
        assert row["step_ms"] > 0
        assert row["memory_mib"] > 0
        assert row["speed_up"] == pytest.approx(baseline["step_ms"] / row["step_ms"])
        assert row["memory_share"] == pytest.approx(row["memory_mib"] / baseline["memory_mib"])
    growth = [(row["guide"], row["variant"], row["axis"], row["values"]) for row in content["growth"]]
    assert growth == [("iodine", variant, "T", [2, 4, 8]) for variant in (BASELINE, OURS)]
    assert all(min(row["memory_mib"]) > 0 for row in content["growth"])
    samples = [(row["way"], row["num_samples"]) for row in content["importance_sampling"]]
    assert samples == [(PYRO_WAY, 40), (OURS_WAY, 40), (OURS_WAY, 100), (OURS_WAY, 10_000)]
    assert [row["permanent_share"] > 0 for row in content["importance_sampling"]] == [False, True, True, True]
    table = capsys.readouterr().out.splitlines()
    for row in content["steps"]:
        assert any(line.startswith(f"{row['variant']:24}") and f"{row['step_ms']:.1f}" in line for line in table)


def test_there_is_a_table_per_size_and_guide(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "measure_in_new_process", lambda case: Measurement([1.5], 2**20, 10**9, 0.75))
    assert benchmark.main(["--guides", "monet", "mulmon", "--sizes", "paper", "--device", "cpu", "--compile"]) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = [i for i, line in enumerate(lines) if ", paper: " in line]
    assert [lines[i] for i in tables] == [
        "monet, paper: 64×64 pixels, K 7, D 16, decoder 32-32-64-64, batch 8",
        "mulmon, paper: 64×64 pixels, K 7, D 16, decoder 32-32-32-32, batch 8, T 5, 10 views, 4 of them observed",
    ]
    for i in tables:
        assert [line[:24].strip() for line in lines[i + 2 : i + 2 + len(VARIANTS)]] == list(VARIANTS)
    assert "grows" not in "".join(lines[tables[0] :]), "without IODINE there is no such table"
    assert "importance sampling" not in "".join(lines)


def test_medians_and_ratios(benchmark: ModuleType) -> None:
    plain, ours = (Case("tiny", "mulmon", variant, "cpu") for variant in (BASELINE, OURS))
    results = {
        plain: [Measurement([4.0, 9.0], 300 * 2**20, 4 * 10**9, 1.2), Measurement([6.0], 500 * 2**20, 4 * 10**9, 1.8)],
        ours: [Measurement([1.5], 100 * 2**20, 2 * 10**9, 0.75)],
    }
    first, second = suite.compare(results)
    assert (first["step_ms"], first["memory_mib"], first["speed_up"], first["memory_share"]) == (6000, 400, 1, 1)
    assert (second["step_ms"], second["memory_mib"], second["speed_up"], second["memory_share"]) == (1500, 100, 4, 0.25)
    assert (first["gflop"], first["limit_share"]) == (4, 0.25)
    assert (second["gflop"], second["limit_share"]) == (2, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "rounds: expected at least 1, got 0"),
        (["--guides"], "--guides: expected one or more, each once; got none"),
        (["--sizes", "paper", "paper"], "--sizes: expected one or more, each once; got paper paper"),
        (["--json", "/no/such/folder/b.json"], "--json: expected a file in an existing folder, got /no/such"),
    ],
)
def test_impossible_arguments_fail_before_measuring(
    benchmark: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(arguments) == 1
    assert message in capsys.readouterr().err

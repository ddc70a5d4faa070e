"""The script that exports a run, and other scripts on its export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.scripts import load_script

from pyro_compvae.analysis.results import read


@pytest.mark.usefixtures("no_pictures")
def test_other_scripts_take_an_export_for_its_run(
    tmp_path: Path, tiny_copy: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tiny_copy(), tmp_path / "export"
    assert load_script("export").main([str(run), "--out", str(out)]) == 0
    assert (
        f"{(out / 'model.safetensors').stat().st_size:,} bytes  {out / 'model.safetensors'}" in capsys.readouterr().out
    )
    tiny = ["--num-scenes", "2", "--num-samples", "20", "--fit-steps", "3", "--cover-steps", "2", "--ais-chains", "0"]
    for folder in (run, out):
        assert load_script("estimate_evidence").main([str(folder), *tiny]) == 0
    assert read(run / "evidence.nc").equals(read(out / "evidence.nc"))
    assert load_script("report").main([str(out), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The run cannot be loaded" not in page
    frozen = ["--preset", "tiny", "--steps", "1", "--frozen-model", str(out), "--run-dir", str(tmp_path / "guide")]
    assert load_script("run_svi").main(frozen) == 0


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("export")
    assert script.main([str(tmp_path / "nowhere")]) == 1
    assert "expected a run folder with a config.yaml, found none" in capsys.readouterr().err
    assert script.main([str(tmp_path), "--out", str(Path(__file__).parent)]) == 1
    assert "expected a new or empty folder" in capsys.readouterr().err

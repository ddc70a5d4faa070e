"""Every script can be told where a run's data are now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from helpers.scripts import load_script

from pyro_compvae.analysis.report import folders
from pyro_compvae.analysis.studies import study
from pyro_compvae.errors import CompvaeError
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset


class ToldError(CompvaeError):
    """The place of the data that `load_run` was told."""


def told(path: Path, *args: object, data_root: Path | None = None) -> None:
    """What takes the place of `load_run`."""
    raise ToldError(f"told {data_root}")


@pytest.mark.parametrize("name", ["estimate_evidence", "gap_ladder", "diagnose", "repulsive_prior", "compare"])
def test_scripts(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script: ModuleType = load_script(name)
    monkeypatch.setattr(script, "load_run", told)
    runs = ["run", "other"] if name == "compare" else ["run"]
    assert script.main([*runs, "--data-root", "elsewhere"]) == 1
    assert "told elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize(("dataset", "place"), [("file", "elsewhere"), ("sprites", "None")])
def test_reports(dataset: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs whose scenes are made on the spot may stand beside others."""
    monkeypatch.setattr(folders, "load_run", told)
    RunFolder(tmp_path / "run").begin(preset("tiny", "monet", dataset))
    (run,), _ = folders.open_folders([tmp_path / "run"], Path("elsewhere"))
    assert run.problem == f"told {place}"


def test_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was interrupted before the data moved is told too, since cells pass their place on."""
    roots: list[str | None] = []

    def train_cells(cells: list, out: Path, command: Sequence[str], at_once: int) -> list:
        roots.append(cells[0].config.data.root)
        return cells  # none of them has finished

    monkeypatch.setattr(study, "train_cells", train_cells)
    arguments = ["figure6", "--preset", "tiny", "--dataset", "file", "--out", str(tmp_path)]
    for option in ([], ["--data-root", "elsewhere"]):
        assert load_script("reproduce").main([*arguments, *option]) == 1
    assert roots == [None, str(Path("elsewhere").resolve())]

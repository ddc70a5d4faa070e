"""The command ``compvae``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

import pyro_compvae
from pyro_compvae.experiments import COMMANDS, main

SCRIPTS = Path(__file__).parents[2] / "experiments"


def test_every_script_is_a_subcommand() -> None:
    assert sorted(module for module, _ in COMMANDS.values()) == sorted(
        path.stem for path in SCRIPTS.glob("*.py") if path.stem != "__init__"
    )
    for module, _ in COMMANDS.values():
        assert callable(import_module(f"pyro_compvae.experiments.{module}").main)


def test_subcommands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["compvae"])
    assert main([]) == 0
    assert "usage: compvae COMMAND" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == pyro_compvae.__version__
    assert main(["trian"]) == 2
    assert "expected one of train, evidence" in capsys.readouterr().err
    assert main(["export", str(tmp_path)]) == 1
    assert "expected a run folder with a config.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["report", "--help"])
    assert "usage: compvae report" in capsys.readouterr().out

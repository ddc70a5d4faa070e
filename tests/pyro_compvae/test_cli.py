"""The endings of commands by errors and interruptions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.scripts import load_script

from pyro_compvae.cli import run
from pyro_compvae.errors import ArgumentError, CompvaeError, ConfigError, DiskFullError, FileError, NotFiniteError


@dataclass
class Arguments:
    """Do nothing."""

    number: int = 1
    """A number."""


def end_with(error: BaseException | None) -> int:
    def command(args: Arguments) -> None:
        if error is not None:
            raise error

    return run(Arguments, command, [], "interrupted; go on")


def test_errors_of_users_become_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert end_with(None) == 0
    for kind in (ArgumentError, ConfigError, DiskFullError, FileError, NotFiniteError):
        assert issubclass(kind, CompvaeError)
        assert end_with(kind("x: expected y, got z")) == 1
        assert capsys.readouterr().err == "error: x: expected y, got z\n"
    assert end_with(FileNotFoundError(2, "No such file or directory", "a.h5")) == 1
    assert capsys.readouterr().err == "error: a.h5: No such file or directory\n"
    assert end_with(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted; go on\n"


@pytest.mark.parametrize("fault", [ValueError("bug"), RuntimeError("bug"), OSError("bug"), FloatingPointError("bug")])
def test_faults_of_the_program_keep_their_traceback(fault: Exception) -> None:
    with pytest.raises(type(fault), match="bug"):
        end_with(fault)


def test_workers_say_which_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert end_with(ConfigError("no")) == 1
    assert capsys.readouterr().err == "worker 1 of 2: error: no\n"


@pytest.mark.parametrize("script", ["estimate_evidence", "gap_ladder", "diagnose"])
def test_quick_is_other_defaults_and_options_beside_it_are_kept(script: str) -> None:
    module = load_script(script)

    def parsed(*options: str) -> dict[str, Any]:
        found: list[Any] = []
        assert run(module.Arguments, found.append, ["RUN", *options], quick=module.QUICKLY) == 0
        content = dataclasses.asdict(found[0])
        for part in {"evidence", "ladder", "diagnosis"} & content.keys():
            content |= content.pop(part)
        return content

    usual, quick, more = parsed(), parsed("--quick"), parsed("--fit-steps", "77", "--quick", "--num-scenes", "3")
    assert (usual["quick"], quick["quick"]) == (False, True)
    assert quick["run_dir"] == Path("RUN")
    assert quick["num_scenes"] <= usual["num_scenes"] / 4
    assert quick["fit_steps"] < usual["fit_steps"]
    assert more == quick | {"fit_steps": 77, "num_scenes": 3}

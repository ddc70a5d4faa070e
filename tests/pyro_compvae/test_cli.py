"""The endings of commands by errors and interruptions."""

from __future__ import annotations

import dataclasses
import io
import sys
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


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "k̂ ≥ 0.7: −3 ± σ² → log₁₀ L, Müller, ΔL⁺"),
        ("cp1252", "k-hat >= 0.7: -3 ± sigma² -> log10 L, Müller, DeltaL+"),
        ("ascii", "k-hat >= 0.7: -3 +- sigma2 -> log10 L, Muller, DeltaL+"),
    ],
)
def test_output_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str, expected: str) -> None:
    """A codec error would come after hours of estimates."""
    written = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, buffer in written.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding, write_through=True))

    def command(args: Arguments) -> None:
        print("k̂ ≥ 0.7: −3 ± σ² → log₁₀ L, Müller, ΔL⁺")
        raise ArgumentError("name: got \udcfc‖字")

    assert run(Arguments, command, []) == 1
    assert written["stdout"].getvalue().decode(encoding) == expected + "\n"
    if encoding == "ascii":
        assert written["stderr"].getvalue() == b"error: name: got \\udcfc||?\n"


def test_names_that_are_no_text_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """No file of a run could hold them."""
    assert run(Arguments, lambda args: None, ["--number", "1\udcfc"]) == 1
    assert capsys.readouterr().err == "error: expected names in utf-8, got b'1\\xfc'. Rename the file or the folder.\n"


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

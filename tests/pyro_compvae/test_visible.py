"""Names from files cannot do more to a terminal than show characters."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers.scripts import load_script
from tqdm import tqdm

from pyro_compvae.cli import run
from pyro_compvae.data import DataError, write_scenes
from pyro_compvae.data.records import StoredScene
from pyro_compvae.visible import visible

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\x9b31m\u202egnp.exe\u2028\ud800"


@dataclass
class Arguments:
    """No arguments."""


def test_hidden_characters_are_written_out() -> None:
    assert visible(HOSTILE) == r"\x1b]0;title\x07\x1b[2J\r\x9b31m\u202egnp.exe\u2028\ud800"
    for text in ("", "k̂ = 0.7, Δ −1.5 ± 0.2 × 10³, σ²", "two\nlines", "a\u00a0b", "日本語 é"):
        assert visible(text) == text


def test_commands_print_no_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    def command(args: Arguments) -> None:
        print("name:", HOSTILE)
        print(HOSTILE, file=sys.stderr)
        for _ in tqdm(range(2), desc=HOSTILE[:4]):
            pass

    assert run(Arguments, command, []) == 0
    said = capsys.readouterr()
    assert said.out == "name: " + visible(HOSTILE) + "\n"
    assert "\x1b" not in said.err
    assert "\\x1b]0;" in said.err
    assert "\r" in said.err, "progress bars still return to the beginning of the line"
    assert "100%" in said.err


@pytest.mark.parametrize("error", [DataError(f"{HOSTILE}: expected a file"), FileNotFoundError(2, "no", HOSTILE)])
def test_errors_print_no_escape_sequences(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def command(args: Arguments) -> None:
        raise error

    assert run(Arguments, command, []) == 1
    said = capsys.readouterr().err
    assert visible(HOSTILE) in said
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()


def test_a_name_in_a_file_of_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user meets it: `compvae data verify` on somebody's file."""
    scene = StoredScene(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), 1)
    write_scenes(tmp_path / "a.h5", "\x1b[2Jname", {"test": ("\x1b[31morigin", [scene])}, {"from": "\x1b[1m"})
    assert load_script("make_data").main(["verify", str(tmp_path / "a.h5")]) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "\\x1b[2Jname" in said.out

"""Text files of run folders by strangers: links, pipes, and content of any kind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pyro_compvae.errors import ArgumentError
from pyro_compvae.runs import reading
from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.environment import read_environment
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.log import whole_lines
from pyro_compvae.runs.reading import read_text
from pyro_compvae.runs.summary import SummaryError

SOUND = {
    "guide": "iodine",
    "lnms": True,
    "steps": 3,
    "splits": {"test": "here"},
    "num_test_scenes": 4,
    "elbo": -1.5,
    "miou": None,
    "ari": float("nan"),
    "query_mse_by_observed_views": {"1": 0.5},
    "seconds": 1.5,
    "device": "cpu",
}


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "run" / "a.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "run" / "inner").symlink_to(tmp_path)
    for name in ("a.txt", "inner/secret.txt"):
        with pytest.raises(ArgumentError, match="expected a file of its folder, got a link to elsewhere"):
            read_text(tmp_path / "run" / name, tmp_path / "run", ArgumentError)
    (tmp_path / "run" / "b.txt").write_text("ours")
    (tmp_path / "run" / "c.txt").symlink_to("b.txt")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for folder in (tmp_path / "run", tmp_path / "link"):
        assert read_text(folder / "c.txt", folder, ArgumentError) == "ours", "a run folder may itself be a link"


def test_pipes_devices_folders_large_files_and_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "zero", "loop", "missing", "."):
        with pytest.raises(ArgumentError, match="expected a text file, found none"):
            read_text(tmp_path / name, tmp_path, ArgumentError)
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(ArgumentError, match="expected text in UTF-8"):
        read_text(tmp_path / "bytes", tmp_path, ArgumentError)
    monkeypatch.setattr(reading, "MAX_TEXT", 1 << 20)
    (tmp_path / "large").write_bytes(bytes(3 << 20))
    with pytest.raises(ArgumentError, match="expected at most 1 MiB of text, got 3 MiB"):
        read_text(tmp_path / "large", tmp_path, ArgumentError)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000, "\x00"])
def test_what_is_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    (tmp_path / "environment.json").write_text(text)
    with pytest.raises(SummaryError, match=r"summary.json: expected JSON, but it cannot be read"):
        RunFolder(tmp_path).summary()
    with pytest.raises(CheckpointError, match="expected the calls that made the run, but it cannot be read"):
        read_environment(tmp_path / "environment.json")


def test_a_sound_summary_comes_back(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_summary(SOUND)
    assert str(RunFolder(tmp_path).summary()) == str(SOUND), "NaN does not equal itself"


@pytest.mark.parametrize("content", [None, 3, "text", [], [{}], True])
def test_a_summary_that_is_no_object(tmp_path: Path, content: object) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(content))
    with pytest.raises(SummaryError, match="expected the metrics of a run by name, got"):
        RunFolder(tmp_path).summary()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("elbo", "high"),
        ("elbo", 10**400),
        ("elbo", [1]),
        ("elbo", {"a": {"b": 1}}),
        ("steps", None),
        ("steps", "3"),
        ("seconds", None),
        ("num_test_scenes", {}),
        ("device", None),
        ("guide", 3),
        ("splits", None),
        ("splits", {"test": 3}),
        ("splits", ["test"]),
        ("query_mse_by_observed_views", {"1": "x"}),
        ("\x1b[2J" * 100, "x" * 1000),
    ],
)
def test_a_summary_with_another_kind_of_value(tmp_path: Path, name: str, value: Any) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(SOUND | {name: value}))
    with pytest.raises(SummaryError, match="expected the metrics of a run, got") as caught:
        RunFolder(tmp_path).summary()
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("content", [None, 3, "text", {}, [3], [[]], [None]])
def test_calls_that_are_no_list_of_objects(tmp_path: Path, content: object) -> None:
    (tmp_path / "environment.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="it is no list of objects"):
        read_environment(tmp_path / "environment.json")


def test_a_step_of_any_number_of_digits_is_no_step(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(f"step,loss\n1,2\n{'9' * 5000},2\n")
    assert whole_lines(tmp_path / "metrics.csv", 2) == {1: "1,2\n"}

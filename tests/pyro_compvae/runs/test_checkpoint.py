"""Atomic files and checkpoints."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from copy import copy
from pathlib import Path

import pytest
import torch
from helpers.full_disk import largest_file

from pyro_compvae.errors import DiskFullError
from pyro_compvae.runs import checkpoint
from pyro_compvae.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pyro_compvae.runs.files import STALE, atomic_path, write_text

CONTENT = {"config": "a: 1", "step": 3, "guide": {"weight": torch.arange(3.0)}}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    content = load_checkpoint(path)
    assert content["step"] == 3
    assert torch.equal(content["guide"]["weight"], torch.arange(3.0))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        write_half()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_a_full_disk_is_named_and_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    large = {**CONTENT, "guide": {"weight": torch.zeros(10_000)}}
    with (
        largest_file(20_000),
        pytest.raises(DiskFullError, match=r"checkpoint.pt: cannot be written, the disk is full"),
    ):
        save_checkpoint(path, large)
    assert torch.equal(load_checkpoint(path)["guide"]["weight"], torch.arange(3.0))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    with pytest.raises(FileNotFoundError):  # no other file is taken for a leftover
        save_checkpoint(tmp_path / "nowhere" / "checkpoint.pt", CONTENT)


def test_what_killed_processes_left_is_deleted_after_a_while(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.touch()
    now = path.stat().st_mtime
    kept = ["checkpoint.pt", ".checkpoint-being_w.pt", ".checkpoint-abcdefgh.yaml", ".config-abcdefgh.pt"]
    for name in (*kept[1:], ".checkpoint-abcdefgh.pt"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now, now - (0.5 if "being" in name else 2.0) * STALE))
    save_checkpoint(path, CONTENT)
    assert {file.name for file in tmp_path.iterdir()} == set(kept)


def test_files_have_ordinary_permissions(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    write_text(tmp_path / "atomic", "text")
    assert (tmp_path / "atomic").stat().st_mode == ordinary.stat().st_mode


class Malicious:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("unpickled"),))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pt"
    torch.save({**CONTENT, "extra": Malicious()}, path)
    with pytest.raises(CheckpointError, match="expected a checkpoint of tensors and plain containers"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(CheckpointError, match="expected a checkpoint of tensors and plain containers"):
        load_checkpoint(path)
    assert not (tmp_path / "unpickled").exists()


def test_missing_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(CheckpointError, match=r"checkpoint.pt: expected a checkpoint, found no such file"):
        load_checkpoint(path)
    save_checkpoint(path, CONTENT)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="may be damaged"):
        load_checkpoint(path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"missing \['config', 'guide', 'step'\]"):
        load_checkpoint(path)
    torch.save(torch.zeros(1), path)
    with pytest.raises(CheckpointError, match=r"missing \['config', 'guide', 'step'\]"):
        load_checkpoint(path)


def repack(path: Path, change: Callable[[zipfile.ZipFile, list[tuple[zipfile.ZipInfo, bytes]]], None]) -> None:
    """Write the archive again, member by member, as `change` does it."""
    with zipfile.ZipFile(path) as archive:
        members = [(member, archive.read(member)) for member in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        change(archive, members)


def test_an_archive_that_unpacks_to_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT | {"guide": {"weight": torch.zeros(1 << 20)}})

    def compress(archive: zipfile.ZipFile, members: list) -> None:
        for member, content in members:
            archive.writestr(member.filename, content, zipfile.ZIP_DEFLATED)

    repack(path, compress)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(CheckpointError, match=r"cannot be read \(it is compressed, as no checkpoint is\)"):
        load_checkpoint(path)

    save_checkpoint(path, CONTENT | {"guide": {"weight": torch.zeros(1 << 10)}})

    def repeat(archive: zipfile.ZipFile, members: list) -> None:
        for member, content in members:
            archive.writestr(member.filename, content)
        for number in range(100):  # further names for the bytes of the largest member
            again = copy(max(archive.filelist, key=lambda member: member.file_size))
            again.filename = f"checkpoint/data/{1000 + number}"
            archive.filelist.append(again)

    repack(path, repeat)
    with pytest.raises(CheckpointError, match="it declares more than it holds"):
        load_checkpoint(path)


class Array:
    def __reduce__(self) -> tuple:
        return bytearray, (10**10,)


def test_a_pickle_that_makes_arrays_of_any_size(tmp_path: Path) -> None:
    torch.save(CONTENT | {"guide": {"weight": Array()}}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"it refers to \S+ bytearray"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_tensors_that_repeat_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT | {"optimiser": {"state": [{"exp_avg": torch.zeros(1).expand(10**12)}]}})
    with pytest.raises(CheckpointError, match=r"a tensor of shape \(1000000000000,\) has more numbers than are stored"):
        load_checkpoint(path)


def test_more_tensors_than_any_run_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    monkeypatch.setattr(checkpoint, "MAX_PICKLE", 100)
    with pytest.raises(CheckpointError, match="it has not one pickle of at most"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "changes", [{"config": 3}, {"step": "3"}, {"step": -1}, {"step": 10**400}, {"step": None}, {"guide": [1]}]
)
def test_entries_of_other_types_are_refused(tmp_path: Path, changes: dict) -> None:
    save_checkpoint(tmp_path / "checkpoint.pt", CONTENT | changes)
    with pytest.raises(CheckpointError, match=f"expected the entries of a run, got others under {next(iter(changes))}"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_containers_that_hold_themselves_and_one_another(tmp_path: Path) -> None:
    cycle: list = []
    cycle.append(cycle)
    doubled: list = []
    for _ in range(60):
        doubled = [doubled, doubled]
    save_checkpoint(tmp_path / "checkpoint.pt", CONTENT | {"more": [cycle, doubled]})
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 3

"""A full disk is named in the message and costs no saved work, and the run continues once there is room."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import xarray
from helpers import formats
from helpers.full_disk import largest_file, small_disk
from helpers.scripts import load_script

from pyro_compvae.analysis.batches import Batches, ShowProgress, in_batches
from pyro_compvae.analysis.posterior.data_set import bundle, load_groups, save_inference_data
from pyro_compvae.data import SceneSet
from pyro_compvae.errors import DiskFullError
from pyro_compvae.runs.checkpoint import load_checkpoint

TINY = ["--preset", "tiny", "--device", "cpu", "--set", "data.num_train=8", "--set", "data.num_test=2"]
TINY += ["--set", "training.evaluate_every=100"]
ADVICE = "What was there before is kept; free some space, then give the same command again"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("run_svi")


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(
    script: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    arguments = [*TINY, "--run-dir", str(run_dir)]
    assert script.main([*arguments, "--steps", "2"]) == 0
    before = (run_dir / "checkpoint.pt").read_bytes()
    capfd.readouterr()
    with largest_file(len(before) // 2):
        assert script.main([*arguments, "--steps", "4", "--resume"]) == 1
    error = capfd.readouterr().err
    assert f"error: {run_dir}/checkpoint.pt: cannot be written, the disk is full (File too large). {ADVICE}" in error
    assert f"The last good checkpoint is kept ({run_dir}/checkpoint.pt). Continue with --resume." in error
    assert "Traceback" not in error
    assert (run_dir / "checkpoint.pt").read_bytes() == before
    assert list(run_dir.rglob(".*")) == [], "no temporary file is left"

    assert script.main([*arguments, "--steps", "4", "--resume"]) == 0
    assert script.main([*TINY, "--steps", "4", "--run-dir", str(tmp_path / "whole")]) == 0
    weights = [load_checkpoint(tmp_path / name / "checkpoint.pt")["guide"] for name in ("run", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


@pytest.mark.slow
def test_wherever_a_real_disk_is_full(script: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The room grows page by page, from none at all to enough for the first files but not for the last."""
    disk = tmp_path / "disk"
    with small_disk(disk, 1 << 20):
        run_dir, filler = disk / "run", disk / "filler"
        arguments = [*TINY, "--run-dir", str(run_dir)]
        assert script.main([*arguments, "--steps", "2"]) == 0
        before, unwritten = (run_dir / "checkpoint.pt").read_bytes(), set()
        for pages in (*range(4), *range(4, 80, 2)):
            fill(filler, disk, 4096 * pages)
            capfd.readouterr()
            code = script.main([*arguments, "--steps", "4", "--resume"])
            error = capfd.readouterr().err
            if code == 0:
                break
            assert code == 1
            assert "Traceback" not in error
            assert error.count("error: ") == 1
            (message,) = (line for line in error.splitlines() if line.startswith("error: "))
            assert f"cannot be written, the disk is full (No space left on device). {ADVICE}" in message
            unwritten.add(Path(message.split(":")[1].strip()).name)
            assert list(run_dir.rglob(".*")) == []
            content = load_checkpoint(run_dir / "checkpoint.pt")
            assert content["step"] in (2, 4)
            assert content["step"] == 4 or (run_dir / "checkpoint.pt").read_bytes() == before
            for events in run_dir.glob("events*"):
                events.unlink()
        else:
            raise AssertionError("never enough room")
        print(unwritten)
        assert {"metrics.csv", "checkpoint.pt"} <= unwritten
        filler.unlink()
        assert script.main([*arguments, "--steps", "4", "--resume"]) == 0
        weights = load_checkpoint(run_dir / "checkpoint.pt")["guide"]
    assert script.main([*TINY, "--steps", "4", "--run-dir", str(tmp_path / "whole")]) == 0
    whole = load_checkpoint(tmp_path / "whole" / "checkpoint.pt")["guide"]
    assert all(torch.equal(weights[name], whole[name]) for name in whole)


def fill(filler: Path, disk: Path, room: int) -> None:
    """Fill the disk, except for this much room."""
    filler.write_bytes(b"")
    space = os.statvfs(disk)
    filler.write_bytes(bytes(space.f_bavail * space.f_frsize - room))


def test_a_batch_that_finds_no_room_leaves_those_before(tmp_path: Path) -> None:
    computed, path = [], tmp_path / "evidence.nc"
    draws, scenes = [10, 10_000, 10], SceneSet(torch.zeros(3, 3, 4, 4, dtype=torch.uint8))

    def compute(start: int, stop: int, show: ShowProgress) -> xarray.Dataset:
        computed.append(start)
        return xarray.Dataset({"log_weight": (("scene", "draw"), torch.rand(1, draws[start]).numpy())})

    with (
        largest_file(30_000),
        pytest.raises(DiskFullError, match=r"scenes_00001_00002_\w+.nc: cannot be written, the disk"),
    ):
        in_batches(path, compute, Batches(3, 1), {}, scenes)
    assert computed == [0, 1]
    assert [file.name[:18] for file in (tmp_path / "evidence").iterdir()] == ["scenes_00000_00001"]
    draws[1] = 10
    assert in_batches(path, compute, Batches(3, 1), {}, scenes)["log_weight"].shape == (3, 10)
    assert computed == [0, 1, 1, 2]


def test_scripts_that_write_numbers_name_a_full_disk(
    tiny_copy: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = tiny_copy()
    quick = ["--num-samples", "40", "--fit-steps", "3", "--cover-steps", "2", "--ais-chains", "0", "--num-scenes", "1"]
    capfd.readouterr()
    with largest_file(1_000):
        assert load_script("estimate_evidence").main([str(run_dir), *quick]) == 1
    error = capfd.readouterr().err
    assert f"error: {run_dir}/evidence/scenes_00000_00001_" in error
    assert ".nc: cannot be written, the disk is full" in error
    assert "Traceback" not in error
    assert list((run_dir / "evidence").iterdir()) == []


def test_draws_that_find_no_room_leave_those_before(tmp_path: Path) -> None:
    path = tmp_path / "draws.nc"
    few, many = (
        bundle({name: xarray.Dataset({"z": ("draw", torch.rand(size).numpy())}) for name in ("posterior", "prior")})
        for size in (5, 50_000)
    )
    save_inference_data(path, few)
    before = path.read_bytes()
    with (
        largest_file(len(before)),
        pytest.raises(DiskFullError, match=r"draws.nc: cannot be written, the disk is full"),
    ):
        save_inference_data(path, many)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("draws.nc", before)]
    groups = load_groups(path, "posterior", "prior")
    assert all(
        torch.equal(torch.from_numpy(groups[n]["z"].values), torch.from_numpy(few[n]["z"].values)) for n in groups
    )


def test_a_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """HDF5 would crash the process; nothing is left behind, and the rest of the source is not read."""
    formats.efficient_morl(tmp_path / "source.h5", {"train": 400, "test": 1})
    target = tmp_path / "target.h5"
    with largest_file(100_000):
        assert load_script("make_data").main(["convert", str(tmp_path / "source.h5"), str(target)]) == 1
    error = capsys.readouterr().err
    assert f"error: {target}: cannot be written, the disk is full (File too large)" in error
    assert [path.name for path in tmp_path.iterdir()] == ["source.h5"]
    with small_disk(tmp_path / "disk", 300_000):
        target = tmp_path / "disk" / "target.h5"
        assert load_script("make_data").main(["convert", str(tmp_path / "source.h5"), str(target)]) == 1
        assert "the disk is full (No space left on device)" in capsys.readouterr().err
        assert not list(target.parent.iterdir())

"""kill -9 at any moment costs a run no more than the steps since its last checkpoint, and changes nothing."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray
import yaml
from helpers.killed import SINGLE, Nursery
from helpers.scripts import EXPERIMENTS
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pyro_compvae.runs.checkpoint import load_checkpoint
from pyro_compvae.training.state import RESUMED

CHECKPOINT_EVERY = 3
TINY = ["--preset", "tiny", "--device", "cpu", "--set", "data.num_train=8", "--set", "data.num_test=2"]
TINY += ["--set", f"training.checkpoint_every={CHECKPOINT_EVERY}"]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery("run_svi", "estimate_evidence") as nursery:
        yield nursery


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def summary(run_dir: Path) -> dict[str, Any]:
    content = json.loads((run_dir / "summary.json").read_text())
    del content["seconds"]
    return content


def assert_whole(run_dir: Path) -> None:
    """Assert that all files but hidden ones are complete; the last row of the log may be cut short."""
    for path in run_dir.rglob("[!.]*"):
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".json":
            assert json.loads(path.read_text())
        elif path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text())["preset"] == "tiny"
        elif path.suffix == ".pt":
            load_checkpoint(path, entries=RESUMED)


def assert_equal(a: Any, b: Any, name: str = "") -> None:
    """Assert that two contents are equal bit by bit, except for the seconds."""
    assert type(a) is type(b), name
    if isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a.keys() - {"seconds"}:
            assert_equal(a[key], b[key], f"{name}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), name
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{name}/{index}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), name
    else:
        assert a == b, name


def assert_same_run(killed: Path, whole: Path) -> None:
    """Assert equal weights, optimiser, random state, log, events and summary, and that kills have left no files."""
    assert_whole(killed)
    assert_equal(*(load_checkpoint(path / "checkpoint.pt", entries=RESUMED) for path in (killed, whole)))
    assert rows(killed) == rows(whole)
    assert summary(killed) == summary(whole)
    names = [{str(file.relative_to(path)) for file in path.rglob("*")} for path in (killed, whole)]
    assert {name for name in names[0] ^ names[1] if "tfevents" not in name} == set()
    events = EventAccumulator(str(killed)).Reload().Scalars("loss")
    logged = [(int(row["step"]), float(row["loss"])) for row in rows(whole)]
    assert [event.step for event in events] == [step for step, _ in logged]
    assert [event.value for event in events] == pytest.approx([loss for _, loss in logged], rel=1e-6)


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_writes_goes_on(nursery: Nursery, tmp_path: Path) -> None:
    """The run is killed at every kind of file, one after the other."""
    log, run_dir = tmp_path / "log", tmp_path / "killed"
    start = [*TINY, "--set", "training.evaluate_every=5", "--steps", "7", "--run-dir"]
    assert nursery.run("run_svi", [*start, str(tmp_path / "whole")], log) == 0

    def die(fault: str, where: str | int, *options: str) -> None:
        arguments = [*start, str(run_dir), *options]
        assert nursery.run("run_svi", arguments, log, fault=fault, where=where) == -signal.SIGKILL, log.read_text()
        assert_whole(run_dir)

    def steps_behind() -> int | None:
        path = run_dir / "checkpoint.pt"
        return load_checkpoint(path)["step"] if path.exists() else None

    die("in_the_middle_of", "config.yaml")
    (leftover,) = (path for path in run_dir.iterdir() if path.name != ".lock")
    assert leftover.name.startswith(".config-")
    assert nursery.run("run_svi", [*start, str(run_dir), "--resume"], log) == 1
    assert "found no config.yaml there; begin one without --resume" in log.read_text()
    die("in_the_middle_of_row", 0)  # the header
    assert (run_dir / "metrics.csv").read_text().startswith("step,")
    die("before_renaming", "environment.json", "--resume")
    die("in_the_middle_of_row", 1, "--resume")
    assert (run_dir / "metrics.csv").read_text().count("\n") == 1
    die("in_the_middle_of", "checkpoint.pt", "--resume")
    assert rows(run_dir)[-1]["step"] == "3"
    assert steps_behind() is None
    die("before_renaming", "checkpoint.pt", "--resume")
    assert steps_behind() is None
    die("before_renaming", "step_0000005.png", "--resume")
    assert steps_behind() == 3
    die("in_the_middle_of_row", 3, "--resume")
    die("in_the_middle_of", "summary.json", "--resume")
    assert steps_behind() == 7
    assert not (run_dir / "summary.json").exists()
    assert nursery.run("run_svi", [*start, str(run_dir), "--resume"], log) == 0
    assert_same_run(run_dir, tmp_path / "whole")


@pytest.mark.slow(seconds=80)
def test_fifty_kills_change_nothing(nursery: Nursery, tmp_path: Path) -> None:
    """Half of the kills come after a random time, from the first imports to the summary, and half at a random file."""
    log, run_dir = tmp_path / "log", tmp_path / "killed"
    arguments = [*TINY, "--set", "training.evaluate_every=10", "--steps", "60", "--run-dir"]
    assert nursery.run("run_svi", [*arguments, str(tmp_path / "whole")], log) == 0
    arguments = [*arguments, str(run_dir)]
    dice = random.Random(0)

    kills, stages, behind = 0, set(), 0
    while kills < 50:
        resume = ["--resume"] if (run_dir / "config.yaml").exists() else []
        got_to = int(rows(run_dir)[-1]["step"]) if behind else 0
        if kills in (5, 25):
            code = killed_script([*arguments, *resume], log, dice.uniform(4.0, 8.0))
        elif kills % 2:
            code = nursery.run(
                "run_svi", [*arguments, *resume], log, fault="at_operation", where=int(2 ** dice.uniform(0, 6.5))
            )
        else:
            code = nursery.run("run_svi", [*arguments, *resume], log, kill_after=dice.uniform(0.05, 1.5))
        assert code in (0, -signal.SIGKILL), log.read_text()
        kills += code != 0
        assert_whole(run_dir)
        started = re.search(r": steps (\d+) to 60 on cpu", log.read_text())
        if started:
            first = int(started[1])
            assert behind <= first, "what was saved is kept"
            assert first >= got_to - CHECKPOINT_EVERY, "no more than the steps since the last checkpoint are done again"
        checkpoint = run_dir / "checkpoint.pt"
        behind = load_checkpoint(checkpoint)["step"] if checkpoint.exists() else 0
        stages.add("done" if code == 0 else "summary" if behind == 60 else "training" if started else "start")
    print(kills, stages)
    assert {"start", "training"} <= stages
    if not stages & {"summary", "done"}:  # on a busy machine runs get less far
        code = nursery.run("run_svi", [*arguments, "--resume"], log, fault="in_the_middle_of", where="summary.json")
        assert code == -signal.SIGKILL, log.read_text()
        assert_whole(run_dir)
    assert nursery.run("run_svi", [*arguments, "--resume"], log) == 0
    assert_same_run(run_dir, tmp_path / "whole")


def killed_script(arguments: list[str], log: Path, seconds: float) -> int:
    """The exit code of run_svi.py, started as by a user and killed after some seconds.

    What processes before it have left has the age at which it is cleared away.
    """
    for leftover in Path(arguments[arguments.index("--run-dir") + 1]).rglob(".*"):
        os.utime(leftover, (0, 0))
    with log.open("w") as output:
        command = [sys.executable, str(EXPERIMENTS / "run_svi.py"), *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=SINGLE)
    time.sleep(seconds)
    process.kill()
    return process.wait()


@pytest.mark.slow
def test_kills_change_no_evidence(nursery: Nursery, tmp_path: Path) -> None:
    log, dice = tmp_path / "log", random.Random(1)
    for name in ("whole", "killed"):
        assert nursery.run("run_svi", [*TINY, "--set", "data.num_test=6", "--run-dir", str(tmp_path / name)], log) == 0
    quick = ["--num-samples", "40", "--fit-steps", "10", "--cover-steps", "5", "--ais-chains", "0"]
    quick += ["--batch-scenes", "1"]
    assert nursery.run("estimate_evidence", [str(tmp_path / "whole"), *quick], log) == 0
    killed, kills, batches = tmp_path / "killed", 0, 0
    while kills < 12:
        fault = {"fault": "at_operation", "where": dice.randint(1, 12)} if kills % 2 else {}
        after = None if fault else dice.uniform(0.05, 1.0)
        code = nursery.run("estimate_evidence", [str(killed), *quick], log, after, **fault)  # type: ignore[arg-type]
        assert code in (0, -signal.SIGKILL), log.read_text()
        kills += code != 0
        (killed / "evidence.nc").unlink(missing_ok=True)  # a call that finds it has nothing to do
        assert len(list((killed / "evidence").glob("[!.]*.nc"))) >= batches, "batches that are done are kept"
        batches = len(list((killed / "evidence").glob("[!.]*.nc")))
    assert nursery.run("estimate_evidence", [str(killed), *quick], log) == 0
    data = [xarray.load_dataset(tmp_path / name / "evidence.nc", group="sample_stats") for name in ("whole", "killed")]
    xarray.testing.assert_identical(*data)
    assert list(killed.rglob(".*")) == []

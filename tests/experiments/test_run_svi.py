"""The main script, run as a user would, for a few steps."""

from __future__ import annotations

import csv
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers.scripts import EXPERIMENTS, load_script

from pyro_compvae.analysis import export_run, load_run
from pyro_compvae.data.solids.clevr_mv_writer import write_clevr_mv
from pyro_compvae.data.solids.config import SolidsConfig
from pyro_compvae.data.solids.scenes import solid_scenes
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.checkpoint import CheckpointError
from pyro_compvae.runs.folder import RunFolder

TINY = ["--preset", "tiny", "--device", "cpu"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("run_svi")


def clevr_mv_folder(root: Path, num_objects: int = 2, num_views: int = 3) -> Path:
    """A data folder in the published format with four random scenes of 32 pixels in each split."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        scenes = []
        for index in range(4):
            path = Path("data") / f"CLEVR_{split}_{index:06d}.npy"
            (root / "clevr_mv" / "data").mkdir(parents=True, exist_ok=True)
            images = rng.integers(0, 256, (num_views, 32, 32, 3), dtype=np.uint8)
            masks = rng.integers(0, num_objects + 1, (num_views, 32, 32, 1 + num_objects), dtype=np.uint8)
            with (root / "clevr_mv" / path).open("wb") as file:
                np.savez(file, images=images, masks=masks)
            orders = [rng.permutation(num_objects).tolist() for _ in range(num_views)]
            locations = [[3.0 + view, 4.0, 3.5] for view in range(num_views)]
            scenes.append({"data_path": str(path), "depth_orders": orders, "camera": {"location": locations}})
        (root / "clevr_mv" / f"clevr_mv_{split}.json").write_text(json.dumps({"scenes": scenes}))
    return root


@pytest.mark.parametrize("lnms", ["--lnms", "--no-lnms"])
def test_a_run_gives_the_promised_files(script: ModuleType, tmp_path: Path, lnms: str) -> None:
    run_dir = tmp_path / "run"
    assert script.main([*TINY, lnms, "--seed", "3", "--steps", "3", "--run-dir", str(run_dir)]) == 0

    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["guide"], summary["dataset"], summary["seed"], summary["steps"]) == ("iodine", "sprites", 3, 3)
    assert summary["lnms"] is (lnms == "--lnms")
    assert summary["device"].startswith("cpu")
    assert summary["seconds"] > 0
    assert summary["num_test_scenes"] == 16
    for name in ("elbo", "mse", "miou", "ari", "ari_fg", "duplicates", "active_slots", "kl_slot_4"):
        assert np.isfinite(summary[name]), name
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert [bool(row["miou"]) for row in rows] == [False, True, True]
    for figure in ("step_0000002.png", "step_0000003.png"):
        assert (run_dir / "figures" / figure).read_bytes().startswith(b"\x89PNG")
    assert list(run_dir.glob("events.out.tfevents.*"))
    assert (run_dir / "config.yaml").read_text().count(f"lnms: {str(lnms == '--lnms').lower()}") == 1


IMAGE_METRICS = ("mse", "miou", "ari", "ari_fg", "duplicates", "duplicates_latent", "active_slots", "mask_entropy")
QUERY_METRICS = ("query_log_likelihood", "query_mse", "query_miou", "query_ari", "query_ari_fg")


@pytest.mark.parametrize(
    ("guide", "dataset", "lnms"), [("monet", "sprites", "--lnms"), ("mulmon", "solids", "--no-lnms")]
)
def test_runs_of_monet_and_mulmon_give_the_promised_files(
    script: ModuleType, tmp_path: Path, guide: str, dataset: str, lnms: str
) -> None:
    run_dir = tmp_path / "run"
    assert script.main([*TINY, "--guide", guide, lnms, "--slots", "5", "--steps", "2", "--run-dir", str(run_dir)]) == 0

    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["guide"], summary["dataset"], summary["steps"]) == (guide, dataset, 2)
    assert summary["lnms"] is (lnms == "--lnms")
    assert summary["num_test_scenes"] == {"sprites": 16, "solids": 4}[dataset]
    multi_view = guide == "mulmon"
    metrics = ["elbo", *IMAGE_METRICS, *(QUERY_METRICS if multi_view else ()), *(f"kl_slot_{k}" for k in range(1, 6))]
    for name in metrics:
        assert np.isfinite(summary[name]), name
    assert "kl_slot_6" not in summary
    assert ("query_mse_by_observed_views" in summary) is multi_view
    assert ("query_mse" in summary) is multi_view
    if multi_view:
        assert list(summary["query_mse_by_observed_views"]) == ["1", "2", "3", "4", "5"]
        assert all(0 < mse < 1 for mse in summary["query_mse_by_observed_views"].values())
    with (run_dir / "metrics.csv").open() as file:
        (_, row) = csv.DictReader(file)
    assert set(metrics) < set(row)
    assert all(row[name] for name in metrics)
    for figure in ("step_0000002.png", "traversal.png"):
        assert (run_dir / "figures" / figure).read_bytes().startswith(b"\x89PNG")


def test_mulmon_on_a_set_on_disk(script: ModuleType, tmp_path: Path) -> None:
    """The set is in the format of CLE-MV, written by `make_data.py`."""
    config = SolidsConfig(image_size=16, num_views=4)
    splits = {"train": solid_scenes("train", 10, config=config), "test": solid_scenes("test", 2, config=config)}
    write_clevr_mv(tmp_path / "data", "clevr_mv", splits)
    run_dir = tmp_path / "run"
    arguments = ["--guide", "mulmon", "--dataset", "clevr-mv", "--data-root", str(tmp_path / "data"), "--steps", "2"]
    assert script.main([*TINY, *arguments, "--run-dir", str(run_dir)]) == 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["dataset"], summary["num_test_scenes"]) == ("clevr-mv", 2)  # scenes, not their views
    assert list(summary["query_mse_by_observed_views"]) == ["1", "2", "3"]
    assert all(np.isfinite(summary[name]) for name in QUERY_METRICS)
    assert (run_dir / "figures" / "traversal.png").exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_run_loads_for_evaluation(script: ModuleType, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert script.main([*TINY, "--set", "training.kl_warmup_steps=8", "--run-dir", str(run_dir)]) == 0
    run = load_run(run_dir)
    assert run.guide.kl_weight == 3 / 8  # of the last step
    assert (run.step, run.config.preset) == (4, "tiny")
    assert not run.guide.training
    assert not run.model.training
    assert run.guide.posterior(torch.rand(2, 3, 16, 16)).loc.shape == (2, 4, 4)

    text = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    with pytest.raises(CheckpointError, match=r"expected checkpoint.pt and config.yaml of the same run"):
        load_run(run_dir)
    with pytest.raises(CheckpointError, match=r"expected a run folder with a config.yaml, found none"):
        load_run(tmp_path)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    "guide", ["iodine", pytest.param("monet", marks=pytest.mark.slow), pytest.param("mulmon", marks=pytest.mark.slow)]
)
def test_resume_continues_and_may_extend(script: ModuleType, tmp_path: Path, guide: str) -> None:
    """A run resumed by the command line is bitwise equal to an uninterrupted one."""
    start = [*TINY, "--guide", guide, "--no-lnms", "--set", "training.evaluate_every=100"]
    for run_dir, steps in (("whole", 5), ("parts", 2)):
        assert script.main([*start, "--steps", str(steps), "--run-dir", str(tmp_path / run_dir)]) == 0
    assert script.main(["--resume", "--steps", "5", "--run-dir", str(tmp_path / "parts")]) == 0
    whole, parts = load_run(tmp_path / "whole"), load_run(tmp_path / "parts")
    assert parts.step == whole.step == 5
    assert parts.config == whole.config
    for (name, a), b in zip(whole.guide.state_dict().items(), parts.guide.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "parts")]
    for summary in summaries:
        summary.pop("seconds")
    assert summaries[0] == summaries[1]


@pytest.mark.usefixtures("no_pictures")
def test_threads_are_as_many_as_asked_for(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)  # two would wait for each other on a busy machine
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert script.main([*TINY, "--steps", "1", "--threads", "2", "--run-dir", str(tmp_path / "run")]) == 0
    assert "steps 0 to 1 on cpu with 2 threads\n" in capsys.readouterr().out
    assert script.main(["--steps", "2", "--resume", "--run-dir", str(tmp_path / "run")]) == 0
    assert "steps 1 to 2 on cpu with 1 thread\n" in capsys.readouterr().out
    assert chosen == [2, 8, 1, 8], "as before at the end"
    assert script.main([*TINY, "--threads", "0", "--run-dir", str(tmp_path / "other")]) == 1
    assert "threads: expected at least 1, got 0" in capsys.readouterr().err


def test_two_processes_never_train_in_one_folder(
    script: ModuleType, tiny_copy: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tiny_copy("monet")
    files = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    held, ended = threading.Event(), threading.Event()

    def hold() -> None:  # a thread, which is refused like another process and starts sooner
        with RunFolder(run_dir).alone():
            held.set()
            ended.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    try:
        for arguments in (["--resume", "--steps", "9"], [*TINY, "--guide", "monet"]):
            capsys.readouterr()
            assert script.main([*arguments, "--run-dir", str(run_dir)]) == 1
            error = capsys.readouterr().err
            assert f"error: {run_dir}: expected a folder that nobody is working in, but process {os.getpid()}" in error
    finally:
        ended.set()
        holder.join()
    assert files == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("no_pictures")
def test_real_data_in_the_published_format(script: ModuleType, tmp_path: Path) -> None:
    root = clevr_mv_folder(tmp_path / "data")
    run_dir = tmp_path / "run"
    arguments = [*TINY, "--dataset", "clevr-mv", "--data-root", str(root), "--steps", "2", "--run-dir", str(run_dir)]
    assert script.main(arguments) == 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["dataset"], summary["num_test_scenes"]) == ("clevr-mv", 12)


@pytest.mark.usefixtures("no_pictures")
def test_fewer_slots_than_objects_is_a_warning(script: ModuleType, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="num_slots: expected at least 4 for scenes of up to 3 objects .* got 3"):
        assert script.main([*TINY, "--slots", "3", "--steps", "1", "--run-dir", str(tmp_path / "run")]) == 0


def test_nothing_is_overwritten(
    script: ModuleType, tiny_copy: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tiny_copy("iodine", "--no-lnms", "--seed", "1")
    files = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    assert script.main([*TINY, "--steps", "1", "--run-dir", str(run_dir)]) == 1
    assert "expected a new or empty run folder, found one that holds files" in capsys.readouterr().err
    for change, message in (
        (["--slots", "5"], "num_slots is 4 there and 5 here"),
        (["--lnms", "--seed", "0"], "lnms is False there and True here; seed is 1 there and 0 here"),
        (["--set", "training.learning_rate=1e-3"], "training.learning_rate is 0.0002 there and 0.001 here"),
        (["--guide", "monet"], "guide is 'iodine' there and 'monet' here"),
    ):
        assert script.main([*change, "--resume", "--run-dir", str(run_dir)]) == 1
        assert message in capsys.readouterr().err
    assert script.main(["--steps", "1", "--resume", "--run-dir", str(run_dir)]) == 1
    assert "training.steps: expected at least the 2 steps that the run has behind it, got 1" in capsys.readouterr().err
    assert files == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("no_pictures")
def test_resume_compares_fields_that_only_the_guide_of_the_run_has(
    script: ModuleType, tiny_copy: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tiny_copy("monet")
    resume = ["--resume", "--steps", "3", "--run-dir", str(run_dir)]
    assert script.main([*resume, "--set", "attention.bottleneck=9"]) == 1
    assert "attention.bottleneck is 8 there and 9 here" in capsys.readouterr().err
    assert script.main([*resume, "--set", "attention.bottleneck=8"]) == 0
    assert json.loads((run_dir / "summary.json").read_text())["steps"] == 3


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("preset: expected one of default, paper, tiny; got 'huge'", ["--preset", "huge"]),
        ("got 'training.speed'", [*TINY, "--set", "training.speed=3"]),
        ("image_size: expected at least 16 pixels, got 8", [*TINY, "--set", "data.image_size=8"]),
        ("kernel_size: expected an odd number", [*TINY, "--set", "decoder.kernel_size=4"]),
        ('field "training.steps"', [*TINY, "--set", "training.steps=["]),
        ("--set: expected FIELD=VALUE, got 'seed'", [*TINY, "--set", "seed"]),
        ("data.root: expected the folder that holds clevr_mv/, got nothing", [*TINY, "--dataset", "clevr-mv"]),
        ("clevr_aug", [*TINY, "--dataset", "dolphin", "--data-root", "nowhere"]),
        ("resume: expected a run in", [*TINY, "--resume"]),
        ("batch_size: expected a positive number, got 0", [*TINY, "--batch-size", "0"]),
        ("sprites have no cameras; MulMON needs", [*TINY, "--guide", "mulmon", "--dataset", "sprites"]),
        ("expected scenes of at least 2 views", [*TINY, "--guide", "mulmon", "--set", "data.num_views=1"]),
        ("RunConfig.num_slots: expected at least 2, got 1", [*TINY, "--guide", "monet", "--slots", "1"]),
        ("RunConfig.num_slots: expected at least 2, got 0", [*TINY, "--guide", "mulmon", "--slots", "0"]),
        ("got 'attention.bottleneck'", [*TINY, "--guide", "mulmon", "--set", "attention.bottleneck=8"]),
        ("got 'latent_dim.a.b'", [*TINY, "--set", "latent_dim.a.b=3"]),
        (
            "image_size: expected at least 32 pixels in height and width for 5 attention",
            [*TINY, "--guide", "monet", "--set", "attention.channels=[4, 4, 4, 4, 4]"],
        ),
        (
            "image_size: expected 35 for tetrominoes",
            [*TINY, "--dataset", "tetrominoes", "--set", "data.image_size=36"],
        ),
        (
            "geco_target: expected a finite target and no warm-up of β",
            [*TINY, "--set", "training.geco_target=1", "--set", "training.kl_warmup_steps=5"],
        ),
    ],
)
def test_bad_arguments_are_one_paragraph_and_leave_nothing(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], message: str, arguments: list[str]
) -> None:
    run_dir = tmp_path / "run"
    assert script.main([*arguments, "--run-dir", str(run_dir)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not run_dir.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_named(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--preset", "tiny", "--device", "cuda", "--run-dir", str(tmp_path / "run")]
    assert script.main(arguments) == 1
    assert "device: expected a machine with a GPU for cuda, found none" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signals_save_and_exit_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """Signals go to a real process that would train for hours."""
    run_dir = tmp_path / "run"
    command = [sys.executable, str(EXPERIMENTS / "run_svi.py"), *TINY, "--steps", "1000000", "--run-dir", str(run_dir)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        while not (run_dir / "checkpoint.pt").exists():
            assert process.poll() is None, "the run ended by itself"
            time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err  # so that a loop of a shell ends too
    assert "Traceback" not in err
    assert "continue with --resume --run-dir" in out
    run = load_run(run_dir)
    assert run.step >= 2
    assert not (run_dir / "summary.json").exists()


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    "guide", ["iodine", *(pytest.param(name, marks=pytest.mark.slow) for name in ("monet", "mulmon"))]
)
def test_only_the_guide_is_trained_on_a_frozen_model(
    script: ModuleType,
    tmp_path: Path,
    tiny_run: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    guide: str,
) -> None:
    tiny = [*TINY, "--guide", guide]
    shutil.copytree(tiny_run(guide, "--no-lnms"), tmp_path / "source")
    frozen = ["--frozen-model", str(tmp_path / "source"), "--run-dir", str(tmp_path / "frozen"), "--seed", "1"]
    assert script.main([*tiny, *frozen, "--steps", "2"]) == 0
    source = load_run(tmp_path / "source")
    (tmp_path / "source").rename(tmp_path / "elsewhere")  # the checkpoint holds the model too
    assert script.main([*tiny, "--run-dir", str(tmp_path / "frozen"), "--steps", "4", "--resume"]) == 0
    run = load_run(tmp_path / "frozen")
    assert run.step == 4
    model = {f"model.{name}" for name in source.model.state_dict()}
    start = build_guide(run.config).state_dict()
    for name, value in run.guide.state_dict().items():
        assert torch.equal(value, source.guide.state_dict()[name]) == (name in model), name
        assert name in start
    capsys.readouterr()
    other = ["--frozen-model", str(tmp_path / "elsewhere"), "--run-dir", str(tmp_path / "other")]
    assert script.main([*tiny, *other, "--slots", "9"]) == 1
    assert "but num_slots is" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_was_killed_before_its_first_checkpoint_takes_over_its_model_again(
    script: ModuleType, tmp_path: Path
) -> None:
    tiny = [*TINY, "--set", "data.num_test=2", "--set", "training.evaluate_every=100"]
    assert script.main([*tiny, "--steps", "1", "--run-dir", str(tmp_path / "source")]) == 0
    run_dir = tmp_path / "frozen"
    frozen = [*tiny, "--steps", "1", "--frozen-model", str(tmp_path / "source"), "--run-dir", str(run_dir)]
    assert script.main([*frozen, "--seed", "1"]) == 0
    whole = load_run(run_dir).guide.state_dict()
    for name in ("checkpoint.pt", "metrics.csv"):
        (run_dir / name).unlink()
    assert script.main(["--resume", "--run-dir", str(run_dir)]) == 0
    again = load_run(run_dir).guide.state_dict()
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.usefixtures("no_pictures")
def test_commands_and_environment_are_recorded(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--preset", "tiny", "--steps", "1", "--run-dir", str(tmp_path / "a run")]
    assert script.main(arguments) == 0
    monkeypatch.setattr(sys, "argv", ["compvae train"])  # as the command sets it
    assert script.main([*arguments[2:], "--resume"]) == 0
    first, second = json.loads((tmp_path / "a run" / "environment.json").read_text())
    assert shlex.split(first["command"]) == ["python", "experiments/run_svi.py", *arguments]
    assert shlex.split(second["command"]) == ["python", "-m", "pyro_compvae", "train", *arguments[2:], "--resume"]
    assert first["packages"]["torch"] == version("torch")
    assert first["device"]
    assert first["python"] == platform.python_version()


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("text", ["{", "{}", "[3]", "\0\0"])
def test_a_damaged_environment_is_named_and_the_run_is_not_touched(
    script: ModuleType, tiny_copy: Callable[..., Path], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    run_dir = tiny_copy()
    (run_dir / "environment.json").write_text(text)
    files = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    resume = ["--resume", "--steps", "3", "--run-dir", str(run_dir)]
    assert script.main(resume) == 1
    error = capsys.readouterr().err
    assert f"{run_dir / 'environment.json'}: expected the calls that made the run" in error
    assert "Mend the file or delete it; the run itself was not touched" in error
    assert files == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    (run_dir / "environment.json").unlink()
    assert script.main(resume) == 0


def test_an_export_is_not_trained_on(
    script: ModuleType, tiny_copy: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = export_run(tiny_copy())
    files = {path: path.read_bytes() for path in out.iterdir()}
    assert script.main(["--resume", "--steps", "3", "--run-dir", str(out)]) == 1
    assert "because it does not hold the state of the optimiser" in capsys.readouterr().err
    assert files == {path: path.read_bytes() for path in out.iterdir()}


def test_a_benchmark_that_is_made_on_the_spot(tiny_run: Callable[..., Path], tmp_path: Path) -> None:
    run = load_run(tiny_run("monet", "--dataset", "tetrominoes"))
    assert run.config.data.image_size == 35
    assert run.folder.summary()["splits"]["test"] == "16 scenes of Tetrominoes made on the spot, test stream of seed 0"
    export_run(run.path, tmp_path / "export")
    card = (tmp_path / "export" / "README.md").read_text()
    assert "rendered as the published Tetrominoes and drawn anew, made on the spot by the code" in card

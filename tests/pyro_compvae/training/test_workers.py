"""Two processes that train together on the CPU, started by ``torchrun``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import xarray
from helpers.joint_gradients import joint_gradients
from helpers.scripts import EXPERIMENTS, ROOT, load_script
from torch import Tensor, nn

from pyro_compvae.analysis import load_run, train
from pyro_compvae.data import SceneSet, load_scenes, write_scenes
from pyro_compvae.data.scenes import SPLITS
from pyro_compvae.device import choose_device
from pyro_compvae.errors import ConfigError
from pyro_compvae.guides import MulmonGuide, build_guide
from pyro_compvae.runs.checkpoint import load_checkpoint
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.training.distributed import ALONE, UnlikeWorkersError, WorkerError, Workers
from pyro_compvae.training.trainer import Trainer

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
TORCHRUN += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
TINY = ["--preset", "tiny", "--device", "cpu"]


def start(script: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
    }
    command = [*TORCHRUN, str(script), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run_two(script: Path, arguments: Sequence[str]) -> str:
    process = start(script, arguments)
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.terminate()
    assert process.returncode == 0, err
    return out


def end_of_endless_run(run_dir: Path, act: Callable[[subprocess.Popen[str]], None]) -> tuple[int, str, str]:
    """The exit code, output and errors of two workers that would train for hours if `act` did not end them."""
    process = start(EXPERIMENTS / "run_svi.py", [*TINY, "--steps", "1000000", "--run-dir", str(run_dir)])
    deadline = time.monotonic() + 120
    try:
        while not (run_dir / "checkpoint.pt").exists():
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline, "no checkpoint in two minutes"
            time.sleep(0.1)
        act(process)
        out, err = process.communicate(timeout=120)
    finally:
        process.terminate()  # torchrun passes this signal on, unlike SIGKILL
    return process.returncode, out, err


@pytest.mark.slow(seconds=40)
def test_gradients_are_those_of_one_process_with_the_joint_batch(tmp_path: Path) -> None:
    run_two(ROOT / "tests" / "helpers" / "joint_gradients.py", [str(tmp_path / "gradients.pt")])
    shared = torch.load(tmp_path / "gradients.pt", weights_only=True)
    alone = joint_gradients(ALONE)
    for guide in get_args(GuideName):
        assert shared[guide].keys() == alone[guide].keys()
        for name, gradient in alone[guide].items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(shared[guide][name], gradient, rtol=0, atol=1e-4 * scale, msg=f"{guide} {name}")
        assert max(float(gradient.abs().max()) for gradient in alone[guide].values()) > 0


class Pretending(Workers):
    """One of two workers, which is alone in its process."""

    def replicate(self, module: nn.Module, device: torch.device) -> nn.Module:
        return module

    def mean(self, values: Tensor) -> Tensor:
        return values

    def gather(self, item: Any) -> list[Any]:
        return [item] * self.size


def test_workers_observe_equally_many_views(tmp_path: Path) -> None:
    """Workers have their own noise; a step with more views would make all others wait."""
    config = preset("tiny", "mulmon").replace({"training.steps": 8})
    scenes = load_scenes(config.data, "train", multi_view=True)
    counts, noises = [], []
    for rank in range(2):
        guide = build_guide(config)
        assert isinstance(guide, MulmonGuide)
        drawn: list[int] = []
        noise: list[float] = []
        draw = guide.draw_views

        def watch(viewpoints: Tensor, draw: Any = draw, drawn: Any = drawn, noise: Any = noise) -> Any:
            found = draw(viewpoints)
            drawn.append(found[2])
            noise.append(float((found[0] - viewpoints).sum()))
            return found

        guide.draw_views = watch  # type: ignore[method-assign]
        workers = Pretending(rank, 2)
        Trainer(guide, config, scenes, RunFolder(tmp_path), workers=workers).run()
        assert guide.num_observed is None
        counts.append(drawn)
        noises.append(noise)
    assert counts[0] == counts[1]
    assert len(set(counts[0])) > 1
    assert noises[0] != noises[1]


@pytest.mark.slow
def test_two_workers_train_and_resume_bit_by_bit_and_one_goes_on(tmp_path: Path) -> None:
    script = EXPERIMENTS / "run_svi.py"
    whole, part = tmp_path / "whole", tmp_path / "part"
    out = run_two(script, [*TINY, "--steps", "6", "--run-dir", str(whole)])
    assert "cpu with 1 thread, 2 workers" in out
    assert out.count("ari_fg") > 0
    assert out.count('"guide"') == 1, "one summary, from one worker"
    run_two(script, [*TINY, "--steps", "3", "--run-dir", str(part)])
    run_two(script, ["--resume", "--device", "cpu", "--steps", "6", "--run-dir", str(part)])
    contents = [load_checkpoint(folder / "checkpoint.pt") for folder in (whole, part)]
    assert all(torch.equal(contents[0]["guide"][name], contents[1]["guide"][name]) for name in contents[0]["guide"])
    states = [random["cpu"] for random in contents[0]["random"]]
    assert len(states) == 2
    assert not torch.equal(*states), "each worker has noise of its own"
    assert load_script("run_svi").main(["--resume", "--device", "cpu", "--steps", "8", "--run-dir", str(part)]) == 0
    assert load_run(part).step == 8
    assert len(load_checkpoint(part / "checkpoint.pt")["random"]) == 1
    run_two(script, ["--resume", "--device", "cpu", "--steps", "9", "--run-dir", str(part)])
    assert load_run(part).step == 9


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_ends_the_job_and_the_last_checkpoint_is_kept(tmp_path: Path, victim: int) -> None:
    run_dir = tmp_path / "run"
    code, _, err = end_of_endless_run(run_dir, lambda run: os.kill(worker_of(run.pid, victim), signal.SIGKILL))
    assert code != 0
    assert f"worker {1 - victim} of 2: error: another worker is gone. The last good checkpoint is kept" in err
    step = load_checkpoint(run_dir / "checkpoint.pt")["step"]
    more = ["--resume", "--device", "cpu", "--steps", str(step + 1), "--run-dir", str(run_dir)]
    assert load_script("run_svi").main(more) == 0


@pytest.mark.slow
@pytest.mark.parametrize("receiver", ["torchrun", "worker 1"])
def test_a_signal_saves_and_stops_all_workers(tmp_path: Path, receiver: str) -> None:
    def act(run: subprocess.Popen[str]) -> None:
        os.kill(run.pid if receiver == "torchrun" else worker_of(run.pid, 1), signal.SIGTERM)

    _, out, err = end_of_endless_run(tmp_path / "run", act)
    assert "another worker is gone" not in err
    step = load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"]
    assert f"stopped at step {step} and saved" in out


@pytest.mark.slow
def test_a_refused_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    process = start(EXPERIMENTS / "run_svi.py", [*TINY, "--run-dir", str(tmp_path)])
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"worker 0 of 2: error: {tmp_path}: expected a new or empty run folder" in err
    assert "RuntimeError" not in err


def worker_of(launcher: int, rank: int) -> int:
    """The process that torchrun started with this rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return next(int(pid) for pid in children if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text())


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.slow
def test_evidence_of_two_workers_is_that_of_one(tiny_copy: Callable[..., Path]) -> None:
    run = tiny_copy()
    settings = ["--num-samples", "40", "--fit-steps", "3", "--cover-steps", "2", "--ais-chains", "0", "--device", "cpu"]
    arguments = [str(run), "--num-scenes", "3", "--batch-scenes", "1", *settings]
    table = run_two(EXPERIMENTS / "estimate_evidence.py", arguments)
    shared = xarray.load_dataset(run / "evidence.nc", group="sample_stats")
    for file in (run / "evidence.nc", *(run / "evidence").iterdir()):
        file.unlink()
    assert load_script("estimate_evidence").main(arguments) == 0
    xarray.testing.assert_identical(xarray.load_dataset(run / "evidence.nc", group="sample_stats"), shared)
    assert table.count("symmetry term") == 1


def test_minibatches_have_to_divide_among_the_workers(tmp_path: Path) -> None:
    config = preset("tiny").replace({"training.batch_size": 3})
    scenes = load_scenes(config.data, "train")
    for few, got in ((scenes, "got 3 scenes"), (scenes.part(slice(1)), "got 1 scenes")):
        with pytest.raises(ConfigError, match=rf"expected minibatches that the 2 workers can share .* {got}"):
            Trainer(build_guide(config), config, few, RunFolder(tmp_path), workers=Workers(0, 2))


def test_only_what_the_transport_says_is_a_lost_worker() -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection reset by peer")
    with pytest.raises(WorkerError, match="another worker is gone"), Workers(1, 2).losing_none():
        raise lost
    for workers, error in ((Workers(1, 2), RuntimeError("shapes do not fit")), (ALONE, lost)):
        with pytest.raises(RuntimeError) as caught, workers.losing_none():
            raise error
        assert caught.value is error


class Unlike(Workers):
    """One of two workers, of which the other has some facts of its own."""

    def gather(self, item: Any) -> list[Any]:
        return [item, item | {"seed": 7}]


def test_workers_with_other_facts_are_refused_by_name() -> None:
    unlike = r"worker 1: expected data and settings of worker 0, but seed is 3 there and 7 here\. Give all workers"
    with pytest.raises(UnlikeWorkersError, match=unlike):
        Unlike(0, 2).check_alike({"seed": 3, "steps": 5})
    Unlike(0, 2).check_alike({"seed": 7})
    ALONE.check_alike({"seed": 7})


def test_workers_compare_configurations_data_and_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comparison is of the facts that enter, before anything is trained or estimated."""
    facts: dict[str, Any] = {}
    monkeypatch.setattr(Workers, "check_alike", lambda self, new: facts.update(new))
    run = tmp_path / "run"
    train(preset("tiny").replace({"training.steps": 1}), run)
    names = {f"the digest of {field} of {split}" for field in ("images", "labels") for split in SPLITS}
    assert {"seed", "training.learning_rate", "lnms", *names} <= set(facts)
    assert "the checkpoint's step" not in facts, "the run is not resumed"
    assert "data.root" not in facts, "each machine may have its own"
    quick = ["--num-samples", "5", "--fit-steps", "1", "--cover-steps", "1", "--ais-chains", "0", "--num-scenes", "1"]
    assert load_script("estimate_evidence").main([str(run), *quick, "--families", "diagonal"]) == 0
    assert {"weights", "num_samples", "scenes"} <= set(facts)


@pytest.mark.slow
def test_two_workers_of_different_settings_or_data_do_not_begin(tmp_path: Path) -> None:
    for rank in range(2):
        colours = {"train": 8, "validation": 9, "test": rank}
        scenes = {name: SceneSet(torch.full((4, 3, 16, 16), c, dtype=torch.uint8)) for name, c in colours.items()}
        write_scenes(
            tmp_path / f"{rank}.h5", "mine", {name: (name, part.stored()) for name, part in scenes.items()}, {}
        )
    for options, words in (
        (["--seed", "RANK"], "but seed is 0 there and 1 here"),
        (["--dataset", "file", "--data-root", str(tmp_path / "RANK.h5")], "but the digest of images of test is"),
    ):
        script = ROOT / "tests" / "helpers" / "unlike_workers.py"
        process = start(script, [*TINY, *options, "--run-dir", str(tmp_path / "run")])
        _, err = process.communicate(timeout=120)
        assert process.returncode != 0
        assert words in err
        assert not (tmp_path / "run").exists()


def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("cuda") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="--nproc-per-node: expected at most 2"):
        choose_device("auto")

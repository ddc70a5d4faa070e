"""Checks on a machine with a GPU: whether it agrees with the CPU, how long a step takes, and what limits it.

    python tools/gpu_check.py --out FOLDER [--device cuda] [--budget 200] [--tiny]

Sections are independent, and an error ends only its own section. Results are in FOLDER/check.json after every section.
With ``--device cpu --tiny`` everything but graphs and kernels runs, so that the script can be tried without a GPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pyro
import torch
from gpu_speed import GUIDES, evidence_times, graphs_equal_eager, make_guide, make_inputs, step_times
from torch import Tensor
from torch.distributions import Normal

from pyro_compvae.analysis import load_run
from pyro_compvae.data import load_scenes
from pyro_compvae.evidence import FitConfig, fit_gaussian, importance_log_evidence
from pyro_compvae.evidence.density import LogJoint, value_and_gradient
from pyro_compvae.evidence.proposals.symmetric import normal_proposal
from pyro_compvae.guides import build_guide
from pyro_compvae.precision import allow_tf32
from pyro_compvae.runs.config import RunConfig
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.runs.presets import preset
from pyro_compvae.training.elbo import SceneElbo
from pyro_compvae.training.trainer import Trainer

RESULTS = Path(__file__).resolve().parents[1] / "results"
CPU = torch.device("cpu")


@contextmanager
def noise_of_the_cpu(seed: int) -> Iterator[None]:
    """A context in which all random numbers come from one CPU stream, so that every device gets the same noise."""
    generator = torch.Generator().manual_seed(seed)
    permute = torch.randperm

    def randn(*size: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        noise = torch.normal(torch.zeros(*shape, dtype=torch.float64), 1.0, generator=generator)
        return noise.to(device, dtype or torch.float32)

    def randn_like(like: Tensor, **_: Any) -> Tensor:
        return randn(tuple(like.shape), dtype=like.dtype, device=like.device)

    def standard_normal(shape: Any, dtype: Any, device: Any) -> Tensor:
        return randn(tuple(shape), dtype=dtype, device=device)

    with (
        mock.patch.object(torch, "randn", randn),
        mock.patch.object(torch, "randn_like", randn_like),
        mock.patch("torch.distributions.normal._standard_normal", standard_normal),
        mock.patch.object(torch, "randperm", lambda n, device=None, **_: permute(n, generator=generator).to(device)),
        mock.patch.object(torch, "randint", lambda low, high, size, **_: torch.tensor((low + high) // 2)),
    ):
        yield


def loss_and_gradients(
    config: RunConfig, batch: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[float, Tensor]:
    """The loss of a training step in nats per scene, and its gradient as one vector."""
    guide = make_guide(config, device, dtype)
    elbo = SceneElbo()(guide.model, guide)
    with noise_of_the_cpu(7), pyro.validation_enabled(False), pyro.get_param_store().scope():
        loss = elbo(*make_inputs(config, batch, device, dtype)) / batch
    loss.backward()
    gradients = [parameter.grad for parameter in guide.parameters() if parameter.grad is not None]
    return float(loss.detach()), torch.cat([gradient.double().flatten().cpu() for gradient in gradients])


def agreement(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Compare loss and gradients with float64 on the CPU: relative errors of the CPU's float32 and of the GPU."""
    found = {}
    for name in GUIDES:
        for size, batch in (("tiny", 2),) if tiny else (("default", 4), ("paper", 2)):
            config = preset(size, name).replace({"lnms": True})
            loss, reference = loss_and_gradients(config, batch, CPU, torch.float64)
            for way, where, tf32, precision in (
                ("cpu", CPU, False, "float32"),
                ("float32", device, False, "float32"),
                ("tf32", device, True, "float32"),
                ("bfloat16", device, True, "bfloat16"),
            ):
                allow_tf32(tf32)
                changed = config.replace({"training.precision": precision})
                value, gradient = loss_and_gradients(changed, batch, where)
                error = float((gradient - reference).norm() / reference.norm())
                found[f"{name} {size}, {way}"] = {"loss": abs(value - loss) / abs(loss), "gradient": error}
    allow_tf32(False)
    return found


def evidence(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Compare trained runs on CPU and device with the same noise, TF32 allowed: largest differences in nats."""
    allow_tf32(True)  # as after training; densities must switch it off themselves
    found = {}
    for name in ("iodine-sprites-lnms-seed0", "monet-sprites-lnms-seed0"):
        on_cpu = evidence_of_run(name, CPU, 2 if tiny else 8)
        there = evidence_of_run(name, device, 2 if tiny else 8)
        found[name] = {part: float((values - there[part]).abs().max()) for part, values in on_cpu.items()}
    allow_tf32(False)
    return found


def evidence_of_run(name: str, device: torch.device, num_scenes: int) -> dict[str, Tensor]:
    """log p(x, z), its gradient, densities of proposals, a fit, and importance sampling of a run in results/."""
    run = load_run(RESULTS / name, device)
    scenes = load_scenes(run.config.data, "test")[:num_scenes].to(device)
    arguments = run.guide.arguments(scenes)
    with noise_of_the_cpu(1):
        log_joint = LogJoint(run.model, *arguments)
        start = load_run(RESULTS / name).guide.posterior(*(argument.cpu() for argument in arguments))
    q = Normal(start.loc.detach().to(device), start.scale.detach().to(device))  # both get the same z
    with noise_of_the_cpu(2):
        z = normal_proposal(q).rsample(16)
        log_p, gradient = value_and_gradient(log_joint, z, 16)
        fit = fit_gaussian(log_joint, q, "full", FitConfig(steps=5))
        parts = {
            "log joint": log_p,
            "gradient": gradient,
            "density of the guide": normal_proposal(q).symmetric_log_prob(z),
            "density of a fit": fit.proposal().symmetric_log_prob(z),
            "ELBO of a fit": fit.elbo,
        }
    with noise_of_the_cpu(3):
        parts["importance"] = importance_log_evidence(run.model, run.guide, *arguments, num_samples=64).log_evidence
    return {part: values.detach().cpu() for part, values in parts.items()}


def repeatability(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Compare two runs, and a run with a resumed one, bit by bit: the largest differences of weights."""
    found: dict[str, Any] = {}
    for name in GUIDES:
        with tempfile.TemporaryDirectory() as folder:
            once, again = (train(name, Path(folder) / str(number), 8, device) for number in range(2))
            train(name, Path(folder) / "resumed", 4, device)
            resumed = train(name, Path(folder) / "resumed", 8, device)
        largest = [max(float((once[key] - other[key]).abs().max()) for key in once) for other in (again, resumed)]
        found[name] = dict(zip(("two runs", "resumed"), largest, strict=True))
    return found


def train(name: Any, folder: Path, steps: int, device: torch.device) -> dict[str, Tensor]:
    """Train a tiny run up to some step from the folder's checkpoint, if there is one; returns its weights."""
    folder.mkdir(exist_ok=True)
    config = preset("tiny", name).replace({"training.steps": steps, "training.checkpoint_every": 4})
    scenes = load_scenes(config.data, "train", multi_view=config.multi_view)
    torch.manual_seed(0)
    guide = build_guide(config).to(device)
    trainer = Trainer(guide, config, scenes, RunFolder(folder))
    trainer.restore()
    trainer.run()
    return {key: value.cpu() for key, value in guide.state_dict().items()}


Section = Callable[[torch.device, bool], Any]
SECTIONS: tuple[Section, ...] = (agreement, evidence, repeatability, graphs_equal_eager, step_times, evidence_times)


def main(arguments: list[str] | None = None) -> None:
    """Run all sections for which there is time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for check.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=200.0, help="seconds after which no section begins")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, to try the script")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    content: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": name, "seconds": {}}
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()

    def save(section: str, value: Any, since: float) -> None:
        now = time.perf_counter()
        content["seconds"][section] = round(now - since, 1)
        content[section] = value
        (args.out / "check.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"[{now - started:5.0f} s] {section}: {json.dumps(value, ensure_ascii=False)[:600]}", flush=True)

    for section in SECTIONS if on_gpu else [section for section in SECTIONS if section is not graphs_equal_eager]:
        began = time.perf_counter()
        if began - started > args.budget:
            print(f"no time is left for {section.__name__}", flush=True)
            continue
        try:
            result = section(device, args.tiny)
            for row, value in [(None, result)] if isinstance(result, dict) else result:
                save(f"{section.__name__}, {row}" if row else section.__name__, value, began)
                began = time.perf_counter()
                if row and began - started > args.budget:
                    break
        except Exception:  # the other sections must run in any case
            save(section.__name__, traceback.format_exc()[-1500:], began)


if __name__ == "__main__":
    main()

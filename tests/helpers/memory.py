"""The resident memory of a process that repeats the same call: ``python memory.py training iodine 500 100``."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import theilslopes

WARM_UP = 30
"""Number of calls until allocators and caches have the memory that they need."""

EVERY = 10
"""Number of calls between two measurements."""


class Growth(NamedTuple):
    """Bytes per call.

    clean: the growth by ordinary calls.
    leaking: the growth by further calls, each of which keeps its batch.
    batch: the size of one batch.
    """

    clean: float
    leaking: float
    batch: int


def growth(what: str, guide: str, calls: int, leaking_calls: int) -> Growth:
    """Measure the growth of memory per call, in a separate process.

    Its allocator (glibc's) gives every tensor separate pages and takes them back at once, so that no leak can hide in
    holes of the heap. The slope is the median over all pairs of measurements, which single jumps do not move.
    """
    command = [sys.executable, __file__, what, guide, str(calls), str(leaking_calls)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment |= {"MALLOC_MMAP_THRESHOLD_": "8192", "MALLOC_TRIM_THRESHOLD_": "0"}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    content = json.loads(output.splitlines()[-1])
    clean, leaking = (float(theilslopes(np.array(content[name]) / EVERY).slope) for name in ("clean", "leaking"))
    return Growth(clean, leaking, content["batch"])


def resident() -> int:
    """The bytes of this process that are in memory, after garbage has been freed."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def watch(name: str, guide: str, calls: int, leaking_calls: int) -> dict[str, Any]:
    """The resident bytes at every measurement after the warm-up."""
    held: list[Any] = []
    seen: dict[str, Any] = {"clean": [], "leaking": []}

    def called(number: int, batch: Any) -> None:
        leaking = number > WARM_UP + calls
        if leaking:
            held.append(batch.clone())
        if number > WARM_UP and number % EVERY == 0:
            seen["leaking" if leaking else "clean"].append(resident())
        seen["batch"] = batch.numel() * batch.element_size()

    {"training": training, "evidence": evidence}[name](guide, WARM_UP + calls + leaking_calls, called)
    return seen


def training(name: str, steps: int, called: Callable[[int, Any], None]) -> None:
    """A run with its log, events, evaluations and checkpoints."""
    torch, guide, config, scenes = prepared(name, {"log_every": 10, "evaluate_every": 50, "checkpoint_every": 10})
    evaluation, cpu = import_module("pyro_compvae.analysis.metrics.evaluation"), torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        names = evaluation.metric_names(config.num_slots, name == "mulmon")
        look = import_module("pyro_compvae.training.trainer").Look
        trainer = import_module("pyro_compvae.training.trainer").Trainer(
            guide,
            config.replace({"training.steps": steps}),
            scenes,
            import_module("pyro_compvae.runs.folder").RunFolder(Path(folder)),
            look(names, lambda step: evaluation.evaluate(guide, scenes, cpu)),
        )
        step = trainer._train_step

        def watched() -> None:
            step()
            called(trainer.step, scenes[: config.training.batch_size].image)

        trainer._train_step = watched
        trainer.run()


def evidence(name: str, batches: int, called: Callable[[int, Any], None]) -> None:
    """Importance sampling, and for every tenth batch annealed importance sampling."""
    _, guide, _, scenes = prepared(name, {})
    estimators = import_module("pyro_compvae.evidence")
    guide.eval()
    for number in range(1, batches + 1):
        batch = scenes[4 * (number % 4) : 4 * (number % 4) + 4]
        arguments = guide.arguments(batch)
        estimators.importance_log_evidence(guide.model, guide, *arguments, num_samples=10)
        if number % 10 == 0:
            few = estimators.AnnealingConfig(num_chains=2, num_temperatures=2, leapfrog_steps=1, pilot_chains=2)
            estimators.annealed_log_evidence(guide.model, guide, *arguments, config=few)
        called(number, batch.image)


def prepared(name: str, changes: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Prepare PyTorch; returns a tiny guide, its configuration and a few scenes."""
    torch = import_module("torch")
    torch.manual_seed(0)
    config = import_module("pyro_compvae.runs.presets").preset("tiny", name)
    config = config.replace({f"training.{field}": value for field, value in changes.items()})
    scenes = import_module("pyro_compvae.data").load_scenes(config.data, "test", multi_view=name == "mulmon")
    return torch, import_module("pyro_compvae.guides").build_guide(config), config, scenes


if __name__ == "__main__":
    print(json.dumps(watch(*sys.argv[1:3], *map(int, sys.argv[3:]))))

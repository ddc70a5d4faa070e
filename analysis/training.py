"""Training of a run from Python, which is also what ``run_svi.py`` does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_compvae.analysis.figures.training import look_figure, traverse
from pyro_compvae.analysis.metrics.evaluation import (
    evaluate,
    metric_names,
    query_mse_by_views,
    set_metrics,
    standard_error,
)
from pyro_compvae.analysis.own_scenes import keep_scenes, own_scenes, with_own_scenes
from pyro_compvae.analysis.runs import Run, load_run, take_over_model
from pyro_compvae.analysis.used_scenes import about_scenes, facts_of
from pyro_compvae.checks import check_counts
from pyro_compvae.data import SceneSet, load_scenes
from pyro_compvae.data.scenes import SPLITS
from pyro_compvae.device import choose_device
from pyro_compvae.errors import ArgumentError, CompvaeError, ConfigError
from pyro_compvae.guide import SceneGuide
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.config import RunConfig, flatten
from pyro_compvae.runs.environment import read_environment, write_environment
from pyro_compvae.runs.files import naming_full_disk
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.training.ambient import torch_as_it_was
from pyro_compvae.training.captured_step import CudaGraphs
from pyro_compvae.training.compilation import CompilationError, compile_networks
from pyro_compvae.training.distributed import Workers, joined_workers
from pyro_compvae.training.threads import threads_for, threads_in_words
from pyro_compvae.training.trainer import Look, Trainer

VALIDATION_SCENES = 64
"""How many scenes are evaluated during training; they are spread over the validation split."""

FIGURE_SCENES = 6
"""How many images the figures show that are drawn during training."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of training that are no part of a run's configuration."""

    resume: bool = False
    """Continue the run in the folder from its checkpoint, or from the start if it has none yet."""
    device: str | torch.device = "auto"
    """The device to compute on; auto takes a GPU if there is one."""
    compile: bool = False
    """Whether torch.compile fuses the elementwise operations of the decoder and the guide's networks, if it works."""
    cuda_graph: bool = True
    """Whether a single worker sends training steps to a GPU in one piece, which is several times as fast."""
    command: tuple[str, ...] = ("from Python:", "pyro_compvae.analysis.train")
    """The command that environment.json records for the run: a script and its arguments, or these words."""
    threads: int | None = None
    """How many threads to compute with on a CPU; by default as many as the work needs, and at most torch's number."""
    say: Callable[[str], object] = lambda line: None
    """A function that shows lines to the user, such as print."""

    def __post_init__(self) -> None:
        if self.threads is not None:
            check_counts(threads=self.threads)


def train(
    config: RunConfig,
    run_dir: Path | str,
    scenes: SceneSet | Tensor | NDArray | None = None,
    viewpoints: Tensor | NDArray | None = None,
    options: TrainOptions | None = None,
) -> Run:
    """Train a run in its own folder, which every script then takes, and return the run ready for evaluation.

    Ctrl-C and SIGTERM stop training after a checkpoint, and the run is returned as it is then.

    Args:
        config: the run's configuration.
        run_dir: a new or empty folder, or with ``options.resume`` the folder of the run to continue.
        scenes: a user's own scenes, instead of those that the configuration names: images (N, 3, H, H), or (N, V, 3, H,
            H) of V views, as bytes or as floats in [0, 1]; or a `SceneSet`, which may have true masks. Eight tenths are
            for training, a tenth for evaluations during training, and the last tenth for the test. They are kept in the
            run folder.
        viewpoints: the viewpoints of V views, (N, V, 3).
        options: options of training.

    Raises:
        ConfigError: if the configuration is impossible, or impossible on this machine.
        CheckpointError: if the folder holds other files, or with ``options.resume`` another run or none.
        LockedError: if another process trains in the folder.
        ArgumentError: for scenes that are no images, too few, or not square, or are given for a run that is resumed.
        DataError: if data on disk are missing or malformed.
        UnlikeWorkersError: if workers that are to train together have different configurations or scenes.
        DivergenceError: if the loss is not finite or has exploded; the last checkpoint is kept.

    >>> from tempfile import mkdtemp
    >>> from pyro_compvae.runs.presets import preset
    >>> images = torch.rand(20, 3, 16, 16)  # yours
    >>> run = train(preset("tiny", "monet", "file"), mkdtemp(), images)
    >>> run.step, len(run.scenes("train")), run.guide.posterior(images[:2]).mean.shape
    (4, 16, torch.Size([2, 7, 4]))
    """
    folder, options = RunFolder(Path(run_dir)), options or TrainOptions()
    device = choose_device(options.device)
    with torch_as_it_was(device):
        with joined_workers(device) as workers, folder.alone() if workers.is_first else nullcontext():
            if options.resume:
                config = folder.resumed_config(flatten(config), config.guide)
            elif workers.is_first:
                folder.check_new()
            own = own_scenes(scenes, viewpoints, options.resume)
            workers.check_alike(facts_of(config, {} if own is None else {"scenes": own}))
            if own is None:
                trainer, splits = _trainer(folder, config, options, device, workers)
            else:
                trainer, splits = _trainer_on_own(own, folder, config, options, device, workers)
            _begin(trainer, options)
            if trainer.run() and workers.is_first:
                traverse(folder.figure("traversal.png"), trainer.guide, _shown(splits["validation"], device))
                folder.write_summary(summarise(trainer, splits))
        return load_run(folder.path, device)


def _trainer_on_own(
    own: SceneSet, folder: RunFolder, config: RunConfig, options: TrainOptions, device: torch.device, workers: Workers
) -> tuple[Trainer, dict[str, SceneSet]]:
    """The trainer of a run on a user's own scenes, which are written into its folder, and the scenes of all splits."""
    config = with_own_scenes(folder, config, own)
    _guide(folder, config, torch.device("cpu"))  # a configuration that cannot be trained is refused before that
    keep_scenes(folder, own, workers)
    try:
        return _trainer(folder, config, options, device, workers)
    except CompvaeError:
        if workers.is_first:
            folder.scenes.unlink(missing_ok=True)  # so that the corrected call finds an empty folder
        raise


def _begin(trainer: Trainer, options: TrainOptions) -> None:
    """Restore a resumed run, choose the threads, write configuration and environment, and say where the run trains."""
    folder, device, workers = trainer.folder, trainer.device, trainer.workers
    torch.set_num_threads(threads := options.threads or threads_for(trainer.config, workers.size))
    if options.resume:
        read_environment(folder.environment)  # a damaged file is refused before anything is written
        trainer.restore()
        workers.check_alike({"the checkpoint's step": trainer.step})
    if workers.is_first:
        with naming_full_disk(folder.path):
            folder.begin(trainer.config)
        write_environment(folder.environment, options.command, device, workers.size)
        where = str(device) if device.type == "cuda" else f"{device} with {threads_in_words(threads)}"
        where += f", {workers.size} workers" if workers.size > 1 else ""
        options.say(f"{folder.path}: steps {trainer.step} to {trainer.config.training.steps} on {where}")


def _trainer(
    folder: RunFolder, config: RunConfig, options: TrainOptions, device: torch.device, workers: Workers
) -> tuple[Trainer, dict[str, SceneSet]]:
    """The trainer of a run, and the scenes of all splits."""
    guide = _guide(folder, config, device)
    splits = {split: load_scenes(config.data, split, multi_view=config.multi_view) for split in SPLITS}
    workers.check_alike(facts_of(config, splits))
    if options.compile:
        try:
            compile_networks(guide, device)
        except CompilationError as error:
            if workers.is_first:
                options.say(f"compile: networks stay as they are, torch.compile does not work here ({error})")
    if workers.is_first:
        for line in about_scenes(config, splits):
            options.say(line)
    # In multi-view data neighbours are views of one scene, so the evaluated scenes are spread over the split.
    validation = splits["validation"] = splits["validation"].spread(VALIDATION_SCENES)
    shown = _shown(validation, device)

    def look(step: int) -> dict[str, float]:
        look_figure(folder.figure(f"step_{step:07d}.png"), guide, shown, f"step {step:,}")
        return evaluate(guide, validation, device)

    looking = Look(metric_names(config.num_slots, config.multi_view), look)
    recorder = CudaGraphs(device) if options.cuda_graph and device.type == "cuda" and workers.size == 1 else None
    return Trainer(guide, config, splits["train"], folder, looking, workers, recorder), splits


def _guide(folder: RunFolder, config: RunConfig, device: torch.device) -> SceneGuide:
    torch.manual_seed(config.seed)
    try:
        guide = build_guide(config).to(device)
    except ArgumentError as error:  # the message names a network's argument, which the configuration has too
        raise ConfigError(str(error)) from error
    if config.frozen_model is not None:
        if not folder.checkpoint.exists():  # a checkpoint would hold the model too
            take_over_model(guide, config)
        guide.model.requires_grad_(False)
        warnings.filterwarnings("ignore", message=".*not registered in the param store because requires_grad=False")
    return guide


def _shown(scenes: SceneSet, device: torch.device) -> Any:
    return scenes.spread(FIGURE_SCENES if scenes.num_views is None else 1)[:].to(device)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def summarise(trainer: Trainer, splits: Mapping[str, SceneSet]) -> dict[str, Any]:
    """The metrics on all test scenes with their standard errors, and the run that they are of; what is undefined, such
    as metrics of masks if there are none, is None."""
    config, device, scenes = trainer.config, trainer.device, splits["test"]
    torch.manual_seed(config.seed)
    trainer.guide.eval()
    values = set_metrics(trainer.guide, scenes, device)
    metrics = {name: _known(value.nanmean().item()) for name, value in values.items()}
    errors = {name: _known(standard_error(value)) for name, value in values.items()}
    by_views: dict[str, dict[int, float]] = {}
    if scenes.num_views is not None:
        by_views["query_mse_by_observed_views"] = query_mse_by_views(trainer.guide, scenes, device)
    return {
        "guide": config.guide,
        "lnms": config.lnms,
        "dataset": config.data.name,
        "preset": config.preset,
        "seed": config.seed,
        "steps": trainer.step,
        "splits": {split: part.origin for split, part in splits.items()},
        "num_test_scenes": len(scenes),
        "digests": {split: part.digests for split, part in splits.items()},
        **metrics,
        **by_views,
        "standard_errors": errors,
        "seconds": round(trainer.seconds, 1),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {threads_in_words(torch.get_num_threads())}",
    }

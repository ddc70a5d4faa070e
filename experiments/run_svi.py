"""Train a multi-object VAE by SVI: ``python experiments/run_svi.py --guide iodine --lnms``."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from pyro_compvae.analysis.figures.decompositions import decomposition_figure, traversal_figure, views_figure
from pyro_compvae.analysis.metrics.evaluation import (
    MASK_METRICS,
    decompose,
    evaluate,
    infer,
    metric_names,
    query_mse_by_views,
)
from pyro_compvae.analysis.runs import run_name, take_over_model
from pyro_compvae.data import DataError, Scene, SceneSet, load_scenes
from pyro_compvae.device import choose_device
from pyro_compvae.errors import ConfigError
from pyro_compvae.guide import SceneGuide
from pyro_compvae.guides import build_guide
from pyro_compvae.precision import allow_tf32
from pyro_compvae.runs.checkpoint import CHECKPOINT, CheckpointError, naming_full_disk, write_text
from pyro_compvae.runs.config import (
    DatasetName,
    GuideName,
    RunConfig,
    differences,
    from_yaml,
    parse_assignments,
    to_yaml,
)
from pyro_compvae.runs.environment import read_environment, write_environment
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.weights import WEIGHTS
from pyro_compvae.training.captured_step import CudaGraphs
from pyro_compvae.training.compilation import CompilationError, compile_networks
from pyro_compvae.training.distributed import ALONE, WorkerError, Workers, start_workers
from pyro_compvae.training.trainer import DivergenceError, Trainer

VALIDATION_SCENES = 64
FIGURE_SCENES = 6


@dataclass
class Arguments:
    """Train a multi-object VAE with a Pyro guide. Every run gets a folder; nothing is ever overwritten."""

    guide: GuideName = "iodine"
    """Model and guide."""
    lnms: bool = True
    """Whether the L-NMS correlation prior is in the objective."""
    preset: str = "default"
    """Named configuration: default (two CPU cores), paper (Tables 2-4), tiny (seconds, to try things)."""
    dataset: DatasetName | None = None
    """Sprites and solids (several views) are made on the spot, the others are read from --data-root; by default
    sprites, and solids with --guide mulmon."""
    data_root: Path | None = None
    """Folder that holds clevr_mv/ or clevr_aug/; for --dataset file, a file that make_data.py convert has made."""
    steps: int | None = None
    """Training steps, instead of the preset's. On --resume it may extend the run."""
    batch_size: int | None = None
    """Scenes per step, instead of the preset's."""
    slots: int | None = None
    """K, instead of the preset's."""
    seed: int = 0
    """Of initialisation, minibatches and noise."""
    frozen_model: Path | None = None
    """Run folder whose generative model is taken over and left as it is; only the guide is trained. Two guides of one
    model differ in nothing but their gaps."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of the convolutions, instead of the preset's."""
    compile: bool = False
    """Whether torch.compile fuses the elementwise work of the decoder and the guide's networks, where it can; takes a
    minute or two at the start. For its worth, see docs/performance.md."""
    cuda_graph: bool = True
    """Whether a GPU gets a training step in one piece, several times as fast, instead of kernel by kernel; not with
    several workers."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    run_dir: Path | None = None
    """Run folder; runs/GUIDE-DATASET-lnms-seedS by default."""
    resume: bool = False
    """Continue the run in the run folder from its checkpoint, or from the start if it has none yet."""
    set: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Any other field of the configuration, such as --set training.learning_rate=1e-3 (repeatable)."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = tyro.cli(Arguments, args=arguments)
    workers = ALONE
    try:
        device = choose_device(args.device)
        allow_tf32(True)
        workers = start_workers(device)
        with workers.losing_none():
            code = train(args, arguments, device, workers)
            workers.wait()
        return code
    except KeyboardInterrupt:
        print("interrupted; what the last checkpoint holds is kept, --resume continues from it", file=sys.stderr)
        return 130
    except (ConfigError, DataError, CheckpointError, DivergenceError, WorkerError, OSError) as error:
        print(f"{workers.name}error: {error}", file=sys.stderr)
        return 1


def train(args: Arguments, arguments: list[str], device: torch.device, workers: Workers) -> int:
    """Train, evaluate on unseen scenes, write the summary; `arguments` are what `args` were parsed from."""
    flags = {argument.partition("=")[0].removeprefix("--").removeprefix("no-") for argument in arguments}
    run_dir = args.run_dir or Path("runs") / run_name(make_config(args))
    config = resume_config(args, flags, run_dir) if args.resume else make_config(args)
    if workers.is_first and not args.resume and holds_files(run_dir):
        raise CheckpointError(
            f"{run_dir}: expected a new or empty run folder, found one that holds files. "
            "Continue that run with --resume, or name another folder with --run-dir; nothing was overwritten."
        )
    multi_view = config.guide == "mulmon"
    torch.manual_seed(config.seed)
    try:
        guide = build_guide(config).to(device)
        if config.frozen_model is not None:
            if not (run_dir / CHECKPOINT).exists():  # which holds the model too
                take_over_model(guide, config)
            guide.model.requires_grad_(False)
            warnings.filterwarnings("ignore", message=".*not registered in the param store because requires_grad=False")
        splits = {
            split: load_scenes(config.data, split, multi_view=multi_view) for split in ("train", "validation", "test")
        }
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if args.compile:
        try:
            compile_networks(guide, device)
        except CompilationError as error:
            if workers.is_first:
                print(f"--compile: networks stay as they are, torch.compile does not work here ({error})", flush=True)
    check_scenes(config, splits["train"])
    # Neighbours are views of one scene in multi-view data, so the scenes to look at are spread over the split.
    validation = splits["validation"].spread(VALIDATION_SCENES)
    shown = validation.spread(1 if multi_view else FIGURE_SCENES)[:].to(device)

    def look(step: int) -> dict[str, float]:
        draw(run_dir / "figures" / f"step_{step:07d}.png", guide, shown, f"step {step:,}")
        return evaluate(guide, validation, device)

    names = metric_names(config.num_slots, multi_view)
    recorder = CudaGraphs(device) if args.cuda_graph and device.type == "cuda" and workers.size == 1 else None
    trainer = Trainer(guide, config, splits["train"], run_dir, device, look, names, workers, recorder)
    if args.resume:
        read_environment(run_dir)  # a damaged one is refused before anything is written
        trainer.restore()
    if workers.is_first:
        with naming_full_disk(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            write_text(run_dir / "config.yaml", to_yaml(config))  # first of all, as it makes the folder a run
            (run_dir / "figures").mkdir(exist_ok=True)
        write_environment(run_dir, "experiments/run_svi.py", arguments, device, workers.size)
        where = f"{device}, {workers.size} workers" if workers.size > 1 else str(device)
        print(f"{run_dir}: steps {trainer.step} to {config.training.steps} on {where}", flush=True)
    done = trainer.run()
    if not workers.is_first:
        return 0
    if not done:
        print(f"stopped at step {trainer.step} and saved; continue with --resume --run-dir {run_dir}")
        return 0
    summary = summarise(trainer, splits)
    traverse(run_dir / "figures" / "traversal.png", guide, shown)
    write_text(run_dir / "summary.json", json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))
    return 0


def holds_files(path: Path) -> bool:
    """Whether there is anything but hidden files, which a run that is killed while it writes its first file leaves."""
    return path.exists() and (not path.is_dir() or any(not file.name.startswith(".") for file in path.iterdir()))


def draw(path: Path, guide: SceneGuide, scene: Scene, title: str) -> None:
    """Scenes as rows, or the views of one scene, of which the first half are observed."""
    if scene.image.dim() == 5:
        views_figure(path, guide, scene, max(scene.image.shape[1] // 2, 1), title)
    else:
        decomposition_figure(path, scene, decompose(guide, infer(guide, scene)), title)


def traverse(path: Path, guide: SceneGuide, scene: Scene) -> None:
    """Move the latents of the slot that holds the most foreground of the first scene."""
    first = scene.scenes(slice(1))
    posterior = infer(guide, first)
    view = first.view(0) if first.image.dim() == 5 else first
    viewpoint = () if view.viewpoint is None or first.image.dim() == 4 else (view.viewpoint,)
    segmentation = decompose(guide, posterior, *viewpoint).segmentation
    foreground = segmentation.flatten() if view.labels is None else segmentation[view.labels > 0]
    slot = int(foreground.mode().values) if len(foreground) else 0
    traversal_figure(path, guide, posterior, slot, *viewpoint)


def make_config(args: Arguments) -> RunConfig:
    """The preset with what the command line changes.

    Raises:
        ConfigError: for an unknown preset or field, or an impossible value.
    """
    changes = {"seed": args.seed, "lnms": args.lnms} | named_fields(args)
    return preset(args.preset, args.guide, args.dataset).replace(changes)


def named_fields(args: Arguments) -> dict[str, Any]:
    """Fields of the configuration that the command line sets on top of the preset, by name."""
    options = {
        "num_slots": args.slots,
        "frozen_model": None if args.frozen_model is None else str(args.frozen_model.resolve()),
        "data.root": None if args.data_root is None else str(args.data_root.resolve()),
        "training.steps": args.steps,
        "training.batch_size": args.batch_size,
        "training.precision": args.precision,
    }
    return {name: value for name, value in options.items() if value is not None} | parse_assignments(args.set)


def resume_config(args: Arguments, flags: set[str], run_dir: Path) -> RunConfig:
    """The configuration of the run to resume; what the command line names must agree with it.

    The number of steps may differ, and so may the place of the data.

    Args:
        args: the command line.
        flags: the names of the flags that were given.
        run_dir: the run folder.

    Raises:
        CheckpointError: if there is no run in the folder but an export or nothing, or it is of another configuration.
    """
    config_path = run_dir / "config.yaml"
    if not config_path.is_file():
        raise CheckpointError(
            f"--resume: expected a run in {run_dir}, found no {config_path.name} there; begin one without --resume"
        )
    if (run_dir / WEIGHTS).is_file() and not (run_dir / CHECKPOINT).exists():
        raise CheckpointError(
            f"--resume: expected a run, got an export, {run_dir}: it cannot be trained on, for the state of the "
            "optimiser is not in it. Resume the run that it was made from"
        )
    stored = from_yaml(config_path.read_text(encoding="utf-8"))
    named = named_fields(args)
    fields = {"preset": "preset", "dataset": "data.name", "seed": "seed", "lnms": "lnms"}
    named |= {fields[flag]: getattr(args, flag) for flag in flags & set(fields)}
    if "guide" in flags and args.guide != stored.guide:  # whose sections of the configuration are others
        resumed, changed = stored, [f"guide is {stored.guide!r} there and {args.guide!r} here"]
    else:
        resumed = stored.replace(named)
        changed = differences(stored, resumed)
    if changed:
        raise CheckpointError(
            f"--resume: expected the configuration of the run in {run_dir}, got another one: {'; '.join(changed)}. "
            "Give the flags of that run (or none but --run-dir), or start a new run in another folder."
        )
    return resumed


def check_scenes(config: RunConfig, scenes: SceneSet) -> None:
    """Warn where a scene has more objects than there are slots beside the background's, or no true masks."""
    if scenes.max_objects is None:
        print(f"no masks in {scenes.origin}: {', '.join(MASK_METRICS)} are left out")
    elif config.num_slots < scenes.max_objects + 1:
        warnings.warn(
            f"--slots: expected at least {scenes.max_objects + 1} for scenes of up to {scenes.max_objects} objects and "
            f"their background, got {config.num_slots}; some slots will have to share.",
            stacklevel=2,
        )


def summarise(trainer: Trainer, splits: Mapping[str, SceneSet]) -> dict[str, Any]:
    """Metrics on all test scenes, with what they are of; null for those that want masks where there are none."""
    config, device, scenes = trainer.config, trainer.device, splits["test"]
    torch.manual_seed(config.seed)
    trainer.guide.eval()
    means = evaluate(trainer.guide, scenes, device)
    metrics: dict[str, Any] = {name: None if math.isnan(value) else value for name, value in means.items()}
    if scenes.num_views is not None:
        metrics["query_mse_by_observed_views"] = query_mse_by_views(trainer.guide, scenes, device)
    return {
        "guide": config.guide,
        "lnms": config.lnms,
        "dataset": config.data.name,
        "preset": config.preset,
        "seed": config.seed,
        "steps": trainer.step,
        "splits": {split: part.origin for split, part in splits.items()},
        "num_test_scenes": len(scenes),
        **metrics,
        "seconds": round(trainer.seconds, 1),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
    }


if __name__ == "__main__":
    sys.exit(main())

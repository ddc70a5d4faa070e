"""Train a multi-object VAE by SVI: ``python experiments/run_svi.py --guide iodine --lnms``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pyro_compvae.analysis.training import TrainOptions, train
from pyro_compvae.cli import run
from pyro_compvae.runs.config import RunConfig, parse_assignments
from pyro_compvae.runs.folder import RunFolder, run_name
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import DatasetName, GuideName
from pyro_compvae.training.distributed import is_first_worker


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
    """Seed of initialisation, minibatches and noise."""
    frozen_model: Path | None = None
    """Run folder whose generative model is taken over and left as it is; only the guide is trained. Two guides of one
    model differ in nothing but their gaps."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Precision of the convolutions, instead of the preset's."""
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
    given = sys.argv[1:] if arguments is None else arguments
    when_interrupted = "interrupted; what the last checkpoint holds is kept, --resume continues from it"
    return run(Arguments, lambda args: train_run(args, given), given, when_interrupted)


def train_run(args: Arguments, given: list[str]) -> None:
    """Train, evaluate on unseen scenes, and print the summary; `given` is what `args` were parsed from."""
    folder = RunFolder(args.run_dir or Path("runs") / run_name(new_config(args)))
    config = resumed_config(args, given, folder) if args.resume else new_config(args)
    script = ("-m", "pyro_compvae", "train") if sys.argv[0].startswith("compvae ") else ("experiments/run_svi.py",)
    done = train(
        config,
        folder.path,
        options=TrainOptions(
            args.resume, args.device, args.compile, args.cuda_graph, (*script, *given), partial(print, flush=True)
        ),
    )
    if not is_first_worker():
        return
    if done.step < config.training.steps:
        print(f"stopped at step {done.step} and saved; continue with --resume --run-dir {folder.path}")
    else:
        print(json.dumps(folder.summary(), indent=2))


def new_config(args: Arguments) -> RunConfig:
    """The preset with what the command line changes."""
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


def resumed_config(args: Arguments, given: list[str], folder: RunFolder) -> RunConfig:
    """The configuration of the run to resume, with which all flags that were given must agree."""
    flags = {argument.partition("=")[0].removeprefix("--").removeprefix("no-") for argument in given}
    fields = {"preset": "preset", "dataset": "data.name", "seed": "seed", "lnms": "lnms"}
    changes = named_fields(args) | {fields[flag]: getattr(args, flag) for flag in flags & set(fields)}
    return folder.resumed_config(changes, args.guide if "guide" in flags else None)


if __name__ == "__main__":
    sys.exit(main())

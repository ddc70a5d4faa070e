"""Train a multi-object VAE by SVI: ``python experiments/run_svi.py --guide iodine --lnms``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pyro_compvae.cli import INTERRUPTED, run
from pyro_compvae.runs.config import RunConfig, parse_assignments
from pyro_compvae.runs.folder import RunFolder, run_name
from pyro_compvae.runs.presets import preset
from pyro_compvae.runs.sections import DatasetName, GuideName
from pyro_compvae.training.distributed import is_first_worker


@dataclass
class Arguments:
    """Train a multi-object VAE with a Pyro guide. Every run gets a folder; nothing is ever overwritten."""

    guide: GuideName = "iodine"
    """The model with its guide."""
    lnms: bool = True
    """Whether the L-NMS correlation prior is part of the objective."""
    preset: str = "default"
    """The preset: default (for two CPU cores), paper (its Tables 2-4), or tiny (for seconds, to try things)."""
    dataset: DatasetName | None = None
    """The data set; by default sprites, and solids (several views) with --guide mulmon. clevr-mv, dolphin and file are
    read from --data-root, and the others are made on the spot."""
    data_root: Path | None = None
    """The folder that holds clevr_mv/ or clevr_aug/; for --dataset file, a file that make_data.py convert has made."""
    steps: int | None = None
    """Number of training steps, instead of the preset's. With --resume it may extend the run."""
    batch_size: int | None = None
    """Number of scenes per step, instead of the preset's."""
    slots: int | None = None
    """K, the number of slots, instead of the preset's."""
    seed: int = 0
    """The seed of initialisation, minibatches and noise."""
    frozen_model: Path | None = None
    """A run folder whose generative model is taken over unchanged; only the guide is trained. Two guides of the same
    model differ in nothing but their gaps."""
    precision: Literal["float32", "bfloat16"] | None = None
    """The precision of the convolutions, instead of the preset's."""
    compile: bool = False
    """Whether torch.compile fuses the elementwise operations of the decoder and the guide's networks, if it works; this
    takes a minute or two at the start. docs/performance.md says how much it gains."""
    cuda_graph: bool = True
    """Whether a single worker sends training steps to a GPU in one piece, which is several times as fast."""
    threads: int | None = None
    """How many threads to compute with on a CPU. By default one for small steps, such as those of the preset default,
    and for others as many as there are cores, or OMP_NUM_THREADS."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to train on; auto takes a GPU if there is one."""
    run_dir: Path | None = None
    """The run folder; by default runs/GUIDE-DATASET-lnms-seedS."""
    resume: bool = False
    """Continue the run in the run folder from its checkpoint, or from the start if it has none yet."""
    set: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Set any other field of the configuration, such as --set training.learning_rate=1e-3 (repeatable)."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    when_interrupted = "interrupted; the last checkpoint is kept, and --resume continues from it"
    return run(Arguments, lambda args: train_run(args, given), given, when_interrupted)


def train_run(args: Arguments, given: list[str]) -> int:
    """Train, evaluate on unseen scenes, and print the summary; returns the exit code.

    `args` were parsed from `given`.
    """
    from pyro_compvae.analysis import TrainOptions, train

    folder = RunFolder(args.run_dir or Path("runs") / run_name(new_config(args)))
    config = resumed_config(args, given, folder) if args.resume else new_config(args)
    script = ("-m", "pyro_compvae", "train") if sys.argv[0].startswith("compvae ") else ("experiments/run_svi.py",)
    options = TrainOptions(
        resume=args.resume,
        device=args.device,
        compile=args.compile,
        cuda_graph=args.cuda_graph,
        command=(*script, *given),
        threads=args.threads,
        say=partial(print, flush=True),
    )
    done = train(config, folder.path, options=options)
    is_done = done.step >= config.training.steps
    if is_first_worker():
        stopped = f"stopped at step {done.step} and saved; continue with --resume --run-dir {folder.path}"
        print(json.dumps(folder.summary(), indent=2) if is_done else stopped)
    return 0 if is_done else INTERRUPTED


def new_config(args: Arguments) -> RunConfig:
    """The preset's configuration with the changes of the command line."""
    changes = {"seed": args.seed, "lnms": args.lnms} | named_fields(args)
    return preset(args.preset, args.guide, args.dataset).replace(changes)


def named_fields(args: Arguments) -> dict[str, Any]:
    """The fields of the configuration that the command line sets on top of the preset, by name."""
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
    """The configuration of the run to resume; all flags that were given must agree with it."""
    flags = {argument.partition("=")[0].removeprefix("--").removeprefix("no-") for argument in given}
    fields = {"preset": "preset", "dataset": "data.name", "seed": "seed", "lnms": "lnms"}
    changes = named_fields(args) | {fields[flag]: getattr(args, flag) for flag in flags & set(fields)}
    return folder.resumed_config(changes, args.guide if "guide" in flags else None)


if __name__ == "__main__":
    sys.exit(main())

"""Sweep the scale of L-NMS and the number of slots, over seeds: ``python experiments/ablate.py``.

It writes into its folder

    scaleS-slotsK-seedN/        an ordinary run folder for every cell; what is done there is not done again
    ablation.csv, ablation.txt  scores of every cell and number of test slots, and their means over seeds
    ablation.png                the paper's Figure 6
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from analysis.ablation import Cell, ablation_csv, ablation_figure, ablation_table, cells, score_cell
from pyro_compvae.checkpoint import CheckpointError, DiskFullError, write_text
from pyro_compvae.config import (
    ConfigError,
    DatasetName,
    GuideName,
    RunConfig,
    differences,
    from_yaml,
    parse_assignments,
)
from pyro_compvae.data import DataError, load_scenes
from pyro_compvae.device import choose_device
from pyro_compvae.presets import preset

RUN_SVI = Path(__file__).with_name("run_svi.py")


@dataclass
class Arguments:
    """Train a run for every σ_c and every K, and test each with several K. If killed, the same call goes on."""

    out: Path = Path("runs/ablation")
    """Folder of the sweep."""
    guide: GuideName = "monet"
    """Model and guide; the paper took MONet."""
    preset: str = "default"
    """As of run_svi.py."""
    dataset: DatasetName | None = None
    """As of run_svi.py."""
    data_root: Path | None = None
    """As of run_svi.py."""
    scales: tuple[float, ...] = (0.1, 0.05, 0.2, 0.4)
    """σ_c; the first is that of the sweep over K."""
    slots: tuple[int, ...] = (5, 6)
    """K in training; the first is that of the sweep over σ_c."""
    test_slots: tuple[int, ...] = (5, 6, 7, 9)
    """K in testing, beside those in training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of every cell."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    set: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Any other field of the configuration, as of run_svi.py."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    args = tyro.cli(Arguments, args=arguments)
    try:
        return sweep(args)
    except KeyboardInterrupt:
        print("interrupted; the same call goes on", file=sys.stderr)
        return 130
    except (ValueError, CheckpointError, DataError, DiskFullError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def sweep(args: Arguments) -> int:
    """Train and test all cells, then write the table and the figure of those that are done; returns the exit code."""
    for name in ("scales", "slots", "seeds"):
        values = getattr(args, name)
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"--{name}: expected one or more values, each once; got {values}")
    if min((*args.slots, *args.test_slots)) < 2:
        raise ConfigError(f"--slots, --test-slots: expected at least 2, got {args.slots} and {args.test_slots}")
    device = choose_device(args.device)
    todo = cells(args.scales, args.slots, args.seeds)
    for cell in tqdm(todo, unit="run"):
        train(args, cell)
    failed = [cell for cell in todo if not (args.out / cell.name / "summary.json").is_file()]
    for cell in failed:
        print(
            f"error: {cell.name} did not finish, see {args.out / cell.name}.log; the same call tries again",
            file=sys.stderr,
        )
    todo = [cell for cell in todo if cell not in failed]
    if not todo:
        return 1
    test_slots = sorted({*args.slots, *args.test_slots})
    config = from_yaml((args.out / todo[0].name / "config.yaml").read_text(encoding="utf-8"))
    scenes = load_scenes(config.data, "test", multi_view=config.guide == "mulmon")
    scores = [s for cell in todo for s in score_cell(args.out / cell.name, cell, test_slots, scenes, device)]
    write_text(args.out / "ablation.csv", ablation_csv(scores))
    write_text(args.out / "ablation.txt", ablation_table(scores) + "\n")
    ablation_figure(args.out / "ablation.png", scores, f"{args.guide}, {config.data.name}, {len(args.seeds)} seeds")
    print(ablation_table(scores))
    return 1 if failed else 0


def train(args: Arguments, cell: Cell) -> None:
    """Train a cell, or what is left of it, as a run of run_svi.py.

    Raises:
        CheckpointError: if its folder holds a run of another configuration.
    """
    run_dir = args.out / cell.name
    stored = stored_config(run_dir)
    if stored is not None and (changed := foreign(args, cell, stored)):
        raise CheckpointError(
            f"{run_dir}: expected a run of this sweep, found one of another: {'; '.join(changed)}. "
            "Choose another --out."
        )
    if (run_dir / "summary.json").is_file():
        return
    command = [sys.executable, str(RUN_SVI), "--run-dir", str(run_dir), "--device", args.device]
    if stored is not None:
        command.append("--resume")
    else:
        command += ["--guide", args.guide, "--preset", args.preset, "--seed", str(cell.seed), "--lnms"]
        command += [] if args.dataset is None else ["--dataset", args.dataset]
        command += [] if args.data_root is None else ["--data-root", str(args.data_root)]
        changes = [f"lnms_prior.scale={cell.scale}", f"num_slots={cell.slots}", *args.set]
        command += [word for change in changes for word in ("--set", change)]
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / f"{cell.name}.log").open("a", encoding="utf-8") as log:
        # A cell that diverges must not keep the others from being trained.
        subprocess.run(command, stdout=log, stderr=log, check=False)


def stored_config(run_dir: Path) -> RunConfig | None:
    """The configuration of a run folder, if it has one."""
    path = run_dir / "config.yaml"
    return from_yaml(path.read_text(encoding="utf-8")) if path.is_file() else None


def foreign(args: Arguments, cell: Cell, stored: RunConfig) -> list[str]:
    """How a stored run differs from a cell, a phrase per field."""
    changes: dict[str, object] = {"lnms_prior.scale": cell.scale, "num_slots": cell.slots}
    changes |= {"seed": cell.seed, "lnms": True} | parse_assignments(args.set)
    expected = preset(args.preset, args.guide, args.dataset).replace(changes)
    return differences(stored, expected) + differences(stored, expected, ("training.steps",))


if __name__ == "__main__":
    sys.exit(main())

"""Compare runs without and with L-NMS: ``python experiments/compare.py RUN_0 RUN_PLUS [RUN_0 RUN_PLUS ...]``.

It writes these files into a new folder:

    comparison.nc               ELBO, log p̂(x), gap and metrics of every scene, side and pair (group "sample_stats")
    comparison.png              the paper's Figure 5, and Δ log p̂(x) and −Δ gap against ΔL⁺
    comparison.txt              the table and the sentence that are printed

It also writes comparison.nc with log weights into every run folder, which calls with other pairs reuse.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from pyro_compvae.analysis.evidence.compute import QUICK, EvidenceConfig
from pyro_compvae.analysis.runs import Run, load_run
from pyro_compvae.cli import run
from pyro_compvae.device import choose_device
from pyro_compvae.runs.files import check_writable, shortened, write_text
from pyro_compvae.runs.folder import RunFolder
from pyro_compvae.visible import visible


@dataclass
class Arguments:
    """Separate the effects of L-NMS on the model, on the posterior, and on the decomposition."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders in pairs of a run without L-NMS and a run with it, for example one pair per seed."""
    data_root: Path | None = None
    """Where the data are now, if they have moved since training: the file of scenes, or the folder of the data set."""
    num_scenes: int = 256
    """How many test scenes to use, from the first on."""
    batch_scenes: int = 16
    """How many scenes' evidence is estimated and saved together."""
    evidence: tyro.conf.OmitArgPrefixes[EvidenceConfig] = field(default_factory=lambda: QUICK)
    out: Path | None = None
    """The folder to write; by default against-NAME in the folder of the first RUN_PLUS, where NAME is that of its
    RUN_0, or against-NAME-and-N-more with more pairs."""
    seed: int = 0
    """The seed of all random numbers."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to compute on; auto takes a GPU if there is one."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run(Arguments, compare_pairs, arguments, "interrupted; the same call continues")


def compare_pairs(args: Arguments) -> None:
    """Compare all pairs, and write and print the results."""
    from pyro_compvae.analysis import Batches
    from pyro_compvae.analysis.comparison.compute import compare, comparison_settings, ladders
    from pyro_compvae.analysis.comparison.figure import comparison_figure
    from pyro_compvae.analysis.comparison.pairs import ComparisonError, same_model
    from pyro_compvae.analysis.comparison.table import comparison_table
    from pyro_compvae.analysis.results import save

    batches = Batches(args.num_scenes, args.batch_scenes, args.seed)
    if len(args.runs) < 2 or len(args.runs) % 2:
        raise ComparisonError(f"expected run folders in pairs, RUN_0 RUN_PLUS, got {len(args.runs)}")
    more = f"-and-{len(args.runs) // 2 - 1}-more" if len(args.runs) > 2 else ""
    out = args.out or args.runs[1] / f"against-{shortened(args.runs[0].name)}{more}"
    if RunFolder(out).is_run:
        raise ComparisonError(f"--out: expected a folder that is no run, got {out}, whose comparison.nc is of that run")
    device = choose_device(args.device)
    runs = [load_run(path, device, data_root=args.data_root) for path in args.runs]
    for path in args.runs:  # each keeps its own numbers
        check_writable(path)
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    text = [line for pair in pairs for line in (describe(pair), *warn(pair))]
    scenes = runs[0].scenes("test")
    data = compare(pairs, scenes, args.evidence, batches)
    out.mkdir(parents=True, exist_ok=True)
    text += ["", comparison_table(data, ladders(pairs, scenes), all(same_model(pair) for pair in pairs))]
    data = data.assign_coords(pair=[describe(pair) for pair in pairs])
    save(out / "comparison.nc", data, comparison_settings(pairs, scenes, args.evidence, batches))
    comparison_figure(out / "comparison.png", data)
    write_text(out / "comparison.txt", visible("\n".join(text)) + "\n")
    print("\n".join(text))


def describe(pair: tuple[Run, Run]) -> str:
    """A text with the names of a pair."""
    return f"0: {pair[0].path.name}, +: {pair[1].path.name}"


def warn(pair: tuple[Run, Run]) -> list[str]:
    """Lines that warn of differences of a pair other than L-NMS."""
    from pyro_compvae.analysis.comparison.pairs import check_comparable

    lines = []
    if others := check_comparable(pair):
        lines.append(f"  the two differ in more than L-NMS: {'; '.join(others)}. Their nats are of the same images.")
    if pair[0].config.lnms or not pair[1].config.lnms:
        lines.append("  expected the first run without L-NMS and the second with; read 0 and + as first and second.")
    return lines


if __name__ == "__main__":
    sys.exit(main())

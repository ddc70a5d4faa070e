"""Export of trained runs for sharing, without places on this machine."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from pyro_compvae.analysis.runs import load_run
from pyro_compvae.analysis.sharing.model_card import model_card
from pyro_compvae.errors import ArgumentError, CompvaeError
from pyro_compvae.runs.config import RunConfig, to_yaml
from pyro_compvae.runs.environment import read_environment
from pyro_compvae.runs.files import atomic_folder, write_text
from pyro_compvae.runs.folder import RunFolder, run_name
from pyro_compvae.runs.weights import save_weights

SUMMARY = ("steps", "num_test_scenes", "elbo", "ari_fg", "duplicates", "seconds", "device")
"""The entries of a summary.json that a model card needs."""

CALL = ("command", "python", "packages", "device")
"""The entries that it needs for every call in an environment.json."""

OPTIONS = ("--data-root", "--run-dir", "--frozen-model", "--out")
"""Options of scripts whose values are paths; they may be written with underscores too."""

FIELDS = ("data.root", "frozen_model", "data")
"""Fields for --set that are a path, or a section that contains one."""

PLACE = re.compile(r"""(?:(?<![\w./])|(?<=^-\w))(?:/|~|\\\\|[A-Za-z]:[\\/]).*""", re.DOTALL)
"""An absolute path up to the end of its word, at the word's start or after a sign (= or a quote) or a short option."""


class ExportError(CompvaeError, ValueError):
    """A run cannot be exported, or not to that folder."""


def export_run(
    run_dir: Path | str, out: Path | str | None = None, licence: str | None = None, half: bool = False
) -> Path:
    """Write what others need of a finished run into a separate folder, which `load_run` reads like a run folder.

    The folder gets model.safetensors, config.yaml, summary.json, environment.json if there is one, and a model card,
    README.md. Paths on this machine are not shared: they are replaced in the commands (`without_places`) and left out
    of the configuration. The export keeps the last name of a frozen model's path, the name of a file of data and the
    origin of its scenes, relative paths in other options, and the names of processor, system and packages.

    Args:
        run_dir: the folder of a finished run.
        out: the folder to write, new or empty; by default ``RUN_DIR/export``.
        licence: the licence of the weights; see `model_card`.
        half: whether weights are rounded to float16, for half the size. The numbers of the summary stay those of the
            run's own weights.

    Returns:
        The folder.

    Raises:
        CheckpointError: if `run_dir` holds no run that can be loaded, or its environment.json is damaged.
        ExportError: if the run has not finished, or `out` holds files.
        DiskFullError: if the disk has no room; nothing is left of the folder then.
    """
    run_dir = Path(run_dir)
    out = run_dir / "export" if out is None else Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(
            f"{out}: expected a new or empty folder, found one that holds files. Name another with --out, or delete "
            "that one; nothing was overwritten."
        )
    run = load_run(run_dir)
    summary = _summary(run.folder, run.step)
    calls = _calls(run.folder)
    config = _shareable(run.config)
    card = model_card(run_name(run.config), run.guide, config, summary, calls, licence, half)
    with atomic_folder(out) as folder:
        target = RunFolder(folder)
        if calls:
            write_text(target.environment, json.dumps(calls, indent=2, ensure_ascii=False) + "\n")
        target.write_summary(summary)
        write_text(folder / "README.md", card)
        target.begin(config)
        save_weights(target.weights, to_yaml(config), run.step, run.guide.state_dict(), half)
    return out


def without_places(command: str) -> str:
    """A command line in which places on this machine are replaced by PATH.

    Replaced are the values of options and fields that are paths (`OPTIONS`, `FIELDS`), in whatever form, and absolute
    paths anywhere else: those of Unix, those of Windows with a drive or a server, and those from a home folder. Other
    relative paths are kept, such as that of the script.
    """
    words: list[str] = []
    for word in shlex.split(command):
        before = words[-1].replace("_", "-") if words else ""
        words.append("PATH" if before in OPTIONS else _without_place(word))
    return shlex.join(words)


def _without_place(word: str) -> str:
    option, equals, _ = word.partition("=")
    if equals and option.replace("_", "-") in OPTIONS:
        return f"{option}=PATH"
    prefix = "--set=" if word.startswith("--set=") else ""
    field, equals, _ = word.removeprefix(prefix).partition("=")
    if equals and field in FIELDS:
        return f"{prefix}{field}=PATH"
    return PLACE.sub("PATH", word)


def _shareable(config: RunConfig) -> RunConfig:
    """The configuration without places on this machine: without that of the data, and with a frozen model's name."""
    frozen = Path(config.frozen_model).name if config.frozen_model else None
    return config.replace({"data.root": None, "frozen_model": frozen})


def _summary(folder: RunFolder, step: int) -> dict[str, Any]:
    path = folder.summary_file
    resume = "Finish the run: compvae train --resume --run-dir RUN_DIR"
    if not folder.is_finished:
        raise ExportError(f"{folder.path}: expected a finished run with a summary.json, found none. {resume}")
    try:
        summary = folder.summary()
        missing = set(SUMMARY) - set(summary)
    except (ValueError, TypeError) as error:
        raise ExportError(
            f"{path}: expected the metrics of a run, but it cannot be read ({error}). {resume}"
        ) from error
    if missing:
        raise ExportError(f"{path}: expected {', '.join(SUMMARY)}; missing {sorted(missing)}. {resume}")
    if summary["steps"] != step:
        raise ExportError(
            f"{path}: expected the metrics of the weights, step {step}, got those of step {summary['steps']}. {resume}"
        )
    return summary


def _calls(folder: RunFolder) -> list[dict[str, Any]]:
    try:
        calls = read_environment(folder.environment)
        missing = {name for call in calls for name in set(CALL) - set(call)}
        if missing:
            raise ArgumentError(f"missing {sorted(missing)}")
        if not all(isinstance(call[name], dict if name == "packages" else str) for call in calls for name in CALL):
            raise ArgumentError("some are of another kind")
        return [call | {"command": without_places(call["command"])} for call in calls]
    except (ValueError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{folder.environment}: expected the calls that made the run, each with {', '.join(CALL)}, but {error}. "
            "Mend the file or delete it."
        ) from error

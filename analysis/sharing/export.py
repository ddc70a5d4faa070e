"""Trained runs, made fit to be shared."""

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
from pyro_compvae.runs.files import write_text
from pyro_compvae.runs.folder import RunFolder, run_name
from pyro_compvae.runs.weights import save_weights

SUMMARY = ("steps", "num_test_scenes", "elbo", "ari_fg", "duplicates", "seconds", "device")
"""What a model card wants of a summary.json."""

CALL = ("command", "python", "packages", "device")
"""What it wants of every call of an environment.json."""

OPTIONS = ("--data-root", "--run-dir", "--frozen-model", "--out")
"""Options of scripts whose values are paths; with underscores they are the same."""

FIELDS = ("data.root", "frozen_model", "data")
"""What --set takes that is a path, or a section with one in it."""

PLACE = re.compile(r"""(?:(?<![\w./])|(?<=^-\w))(?:/|~|\\\\|[A-Za-z]:[\\/]).*""", re.DOTALL)
"""An absolute path to the end of its word: at the start, or after a sign such as = or a quote, or a short option."""


class ExportError(CompvaeError, ValueError):
    """A run cannot be exported, or not to there."""


def export_run(run_dir: Path | str, out: Path | str | None = None, licence: str | None = None) -> Path:
    """Write what others need of a finished run into a folder of its own, which `load_run` reads as it reads a run.

    model.safetensors, config.yaml, summary.json, environment.json where there is one, and README.md, a model card.
    Places on this machine stay here: they are replaced in the commands (`without_places`) and left out of the
    configuration. What is kept: the last name of the path of a frozen model, the name of a file of data and what it
    says of the origin of its scenes, relative paths in other options, and processor, system and packages.

    Args:
        run_dir: folder of a finished run.
        out: folder to write, new or empty; ``RUN_DIR/export`` by default.
        licence: of the weights, see `model_card`.

    Returns:
        The folder.

    Raises:
        CheckpointError: if `run_dir` is no run that can be loaded, or its environment.json is damaged.
        ExportError: if the run has not finished, or `out` holds files.
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
    config, target = _shareable(run.config), RunFolder(out)
    out.mkdir(parents=True, exist_ok=True)
    if calls:
        write_text(target.environment, json.dumps(calls, indent=2, ensure_ascii=False) + "\n")
    target.write_summary(summary)
    card = model_card(run_name(run.config), run.guide, config, summary, calls, licence)
    write_text(out / "README.md", card)
    target.begin(config)
    # Last, so that a folder which loads is whole.
    save_weights(target.weights, to_yaml(config), run.step, run.guide.state_dict())
    return out


def without_places(command: str) -> str:
    """A command line in which places on this machine have become PATH.

    These are the values of the options and fields that are paths (`OPTIONS`, `FIELDS`), in whatever form, and absolute
    paths anywhere else: of Unix, of Windows with a drive or a server, from a home folder. Other relative paths are
    kept, such as that of the script.
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
    """Without places on this machine: whoever has the data says where, and a frozen model is known by its name."""
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
        return [call | {"command": without_places(call["command"])} for call in calls]
    except (ValueError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{folder.environment}: expected the calls that made the run, each with {', '.join(CALL)}, but {error}. "
            "Mend the file or delete it."
        ) from error

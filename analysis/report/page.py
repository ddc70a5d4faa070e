"""The page of a report: a template filled with sections, scenes, style and script, which needs no other files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pyro_compvae.analysis.metrics.meanings import MEANINGS
from pyro_compvae.analysis.report.beginning import beginning, not_computed
from pyro_compvae.analysis.report.blocks import Numbers, Picture, Scenes, Section, Verdict
from pyro_compvae.analysis.report.folders import Missing, ReportedRun, open_folders
from pyro_compvae.analysis.report.scenes import SHOWN, duplicates_part, shown_scenes
from pyro_compvae.analysis.report.sections import sections
from pyro_compvae.errors import ArgumentError
from pyro_compvae.runs.files import write_text

HERE = Path(__file__).parent


def write_report(
    path: Path, run_dirs: Sequence[Path], num_scenes: int = 16, data_root: Path | None = None
) -> list[str]:
    """Write one self-contained HTML page about one run, or about several side by side.

    The page shows what is in the run folders. For everything else it says that it has not been computed, and how to
    compute it. Only the decompositions of the first test scenes are computed anew.

    Args:
        path: the HTML file, written atomically.
        run_dirs: the run folders, finished or not.
        num_scenes: how many decompositions the page has to leaf through.
        data_root: the place of the data now, if they have moved since training, for all runs whose data are on disk.

    Returns:
        A sentence on every folder that could not be read; the page shows them too, beside all other runs.

    Raises:
        ReportError: if there are no folders, or none is a run folder.
        ValueError: for fewer than one scene.
    """
    if num_scenes < 1:
        raise ArgumentError(f"num_scenes: expected at least 1, got {num_scenes}")
    runs, problems = open_folders(list(run_dirs), data_root)
    write_text(path, render(runs, num_scenes, problems))
    return problems


def render(folders: Sequence[ReportedRun], num_scenes: int, problems: Sequence[str] = ()) -> str:
    """The text of the page, which says in `problems` what is not on it."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests |= {
        "picture": lambda block: isinstance(block, Picture),
        "numbers": lambda block: isinstance(block, Numbers),
        "scenes": lambda block: isinstance(block, Scenes),
        "verdict": lambda block: isinstance(block, Verdict),
    }
    panels = [_panel(reported, num_scenes) for reported in folders]
    whole = sections(folders)
    return environment.get_template("page.html.jinja").render(
        folders=folders,
        problems=problems,
        title=" · ".join(reported.name for reported in folders),
        beginning=beginning(folders, whole),
        unfinished=not_computed(whole),
        panels=panels,
        num_scenes=max((len(panel["scenes"]) for panel in panels), default=0),
        num_views=max((len(scene["views"]) for panel in panels for scene in panel["scenes"]), default=1),
        before=[section for section in whole if section.key == "comparison" and section.shown],
        after=[s for s in (_duplicates(panels), *whole) if s.key != "comparison" and s.shown],
        names=[(name, MEANINGS[name].name) for name in SHOWN],
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "script.js").read_text(encoding="utf-8")),
    )


def _duplicates(panels: Sequence[dict[str, Any]]) -> Section:
    lead = (
        "Pairs of active slots that claim the same object or background, and pairs whose latents are nearly parallel."
    )
    parts = [duplicates_part(panel["name"], panel["scenes"], panel["of"]) for panel in panels if panel["scenes"]]
    return Section("duplicates", "Duplicates", lead, parts)


def _panel(reported: ReportedRun, num_scenes: int) -> dict[str, Any]:
    panel: dict[str, Any] = {"name": reported.name, "of": reported.at_step, "scenes": [], "missing": None}
    try:
        panel["scenes"] = shown_scenes(reported, num_scenes)
    except Missing as reason:
        panel["missing"] = reason
    except Exception as error:  # weights and scenes of any content must not break the rest of the page
        panel["missing"] = Missing(f"Scenes cannot be shown: {error!r}.")
    return panel

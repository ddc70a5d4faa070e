"""What a report says of what made its runs: configurations, commands, packages and machines."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_compvae.analysis import results
from pyro_compvae.analysis.report.blocks import Block, Numbers, Part, Section, Text
from pyro_compvae.analysis.report.folders import ReportedRun
from pyro_compvae.analysis.tables import Table
from pyro_compvae.data import DataError
from pyro_compvae.runs.config import flatten, to_yaml


def configuration(folders: Sequence[ReportedRun]) -> Section:
    """Where the configurations differ, and all of each."""
    flat = [flatten(reported.config) for reported in folders]
    names = list(dict.fromkeys(name for content in flat for name in content))
    rows = tuple(
        (name, *(_value(content.get(name)) for content in flat))
        for name in names
        if len({_value(content.get(name)) for content in flat}) > 1
    )
    parts = []
    if rows:
        heads = ("field", *(reported.name for reported in folders))
        parts.append(Part("", [Numbers("Fields that differ", Table(heads, rows))]))
    parts += [Part(f.name, [Text("config.yaml", to_yaml(f.config), folded=True)]) for f in folders]
    return Section("configuration", "Configuration", "Everything that defines the runs.", parts)


def _value(value: object) -> str:
    return "–" if value is None else str(value)


def environment(reported: ReportedRun) -> list[Block]:
    """Calls, packages, machine."""
    calls = reported.environment()
    last = calls[-1]
    details = {"device": last["device"], "system": last["system"], "python": last["python"], **last["packages"]}
    rows = tuple((name, str(value)) for name, value in details.items())
    commands = "\n".join(call["command"] for call in calls)
    return [Text("Commands", commands), Numbers("Environment", Table(("what", "value"), rows))]


def settings(reported: ReportedRun) -> list[Block]:
    """With what settings the files of the run folder were computed."""
    lines = []
    for path in sorted(reported.folder.path.glob("*.nc")):
        try:
            lines.append(f"{path.name}: {results.read(path).attrs.get('settings')}")
        except DataError as error:
            lines.append(f"{path.name}: cannot be read ({error})")
    return [Text("Settings of the files", "\n".join(lines), folded=True)] if lines else []

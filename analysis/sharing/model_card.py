"""Model cards in the form of the Hugging Face Hub, with YAML for machines and then Markdown for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pyro_compvae.analysis.metrics.meanings import MEANINGS, left_out, number
from pyro_compvae.analysis.sharing.markdown import Markdown, block, code, line
from pyro_compvae.guide import SceneGuide
from pyro_compvae.runs.config import RunConfig

OWN_DATA = {
    "sprites": "images of flat superellipses that overlap",
    "tetrominoes": "three pieces of four blocks each, rendered as the published Tetrominoes and drawn anew",
    "multi-dsprites": "squares, ellipses and hearts on grey, by the description of multi-dSprites",
    "multi-dsprites-colour": "squares, ellipses and hearts on a colour, by the description of multi-dSprites",
    "solids": "ray-cast scenes of solids, in several views each",
}
"""The data sets that the code of this project makes, with a description."""

METRICS = {name: meaning for name, meaning in MEANINGS.items() if name not in ("steps", "seconds", "num_test_scenes")}


def model_card(
    name: str,
    guide: SceneGuide,
    config: RunConfig,
    summary: Mapping[str, Any],
    calls: Sequence[Mapping[str, Any]],
    licence: str | None = None,
    half: bool = False,
) -> str:
    """The text of README.md of an exported run.

    Args:
        name: the name of the run.
        guide: the run's guide, with its model.
        config: the run's configuration, without places on this machine.
        summary: the content of its summary.json.
        calls: the content of its environment.json, if there is one.
        licence: the licence of the weights, by its name on the Hub. By default it is "mit" for OWN_DATA, and "other"
            for data in which others may have rights; then the person who shares the weights has to name it.
        half: whether the weights are rounded to float16.
    """
    licence = licence or ("mit" if config.data.name in OWN_DATA else "other")
    data = _data_name(config, summary)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        finalize=line,  # what is no Markdown of ours is text
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = code
    return environment.get_template("model_card.md.jinja").render(
        name=name,
        front_matter=Markdown(_front_matter(name, config, summary, licence, data)),
        guide=guide,
        title=Markdown(guide.title),
        metrics_note=Markdown(guide.metrics_note),
        known_limit=Markdown(guide.known_limit),
        config=config,
        licence=licence,
        half=half,
        data=data,
        size=config.data.image_size,
        num_weights=sum(weight.numel() for weight in guide.parameters()),
        summary=summary,
        metrics=[Markdown(" | ".join(row)) for row in _metrics(summary)],
        left_out=Markdown(_left_out(summary).capitalize()),
        own_data=OWN_DATA.get(config.data.name),
        splits=_splits(summary),
        commands=block([call["command"] for call in calls]),
        calls=calls,
        number=number,
    )


def _data_name(config: RunConfig, summary: Mapping[str, Any]) -> str:
    """The name of the data; for a file of scenes it is the first part of the origin of its splits."""
    name, colon, _ = _splits(summary).get("test", "").partition(": ")
    return name if config.data.name == "file" and colon else config.data.name


def _front_matter(name: str, config: RunConfig, summary: Mapping[str, Any], licence: str, data: str) -> str:
    found = {key: summary[key] for key in METRICS if _known(summary, key)}
    result = {
        "task": {"type": "image-segmentation", "name": "unsupervised decomposition of scenes"},
        "dataset": {"type": data, "name": _splits(summary).get("test", data), "split": "test"},
        "metrics": [{"type": key, "name": METRICS[key].label, "value": value} for key, value in found.items()],
    }
    tags = ["pyro", "variational-autoencoder", "object-centric", "unsupervised", config.guide]
    content = {
        "license": licence,
        "library_name": "pyro_compvae",
        "tags": [*tags, "l-nms"] if config.lnms else tags,
        "datasets": [data],
        "metrics": list(found),
        "model-index": [{"name": name, "results": [result]}],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _splits(summary: Mapping[str, Any]) -> Mapping[str, str]:
    """The origins of the scenes of every split."""
    return summary.get("splits") or {}


def _known(summary: Mapping[str, Any], key: str) -> bool:
    return summary.get(key) is not None and math.isfinite(summary[key])


def _left_out(summary: Mapping[str, Any]) -> str:
    """A line on metrics that need masks, if there are none."""
    missing = [key for key in METRICS if key in summary and not _known(summary, key)]
    return left_out(f"`{key}`" for key in missing) if missing else ""


def _metrics(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The cells of the table of metrics."""
    rows = [
        (f"`{key}`", meaning.label, number(summary[key]), meaning.hint)
        for key, meaning in METRICS.items()
        if _known(summary, key)
    ]
    kls = [number(value) for key, value in summary.items() if key.startswith("kl_slot_")]
    if kls:
        rows.append(("`kl_slot_k`", "KL of slots, nats", " ".join(kls), "a slot near 0 is unused"))
    by_views = summary.get("query_mse_by_observed_views")
    if by_views:
        what = f"query MSE, {', '.join(str(line(views)) for views in by_views)} views observed"
        rows.append(("`query_mse_by_observed_views`", what, " ".join(map(number, by_views.values())), "should fall"))
    return rows

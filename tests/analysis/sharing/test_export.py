"""Exported runs are the trained ones, and reveal nothing about the machine."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from helpers.full_disk import largest_file

from pyro_compvae.analysis import evaluate, export_run, load_run
from pyro_compvae.analysis.sharing.export import ExportError, without_places
from pyro_compvae.data import load_scenes
from pyro_compvae.errors import DiskFullError
from pyro_compvae.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pyro_compvae.runs.config import from_yaml, to_yaml
from pyro_compvae.runs.sections import GuideName
from pyro_compvae.runs.weights import load_weights, save_weights

CPU = torch.device("cpu")


@pytest.fixture(params=get_args(GuideName))
def run_dir(request: pytest.FixtureRequest, tiny_run: Callable[..., Path]) -> Path:
    return tiny_run(request.param)


@pytest.fixture
def monet(tiny_copy: Callable[..., Path]) -> Path:
    """A copy of a run that the test may damage."""
    return tiny_copy("monet")


def test_an_export_is_its_run_bit_for_bit(run_dir: Path, tmp_path: Path) -> None:
    out = export_run(run_dir, tmp_path / "export")
    assert {file.name for file in out.iterdir()} == {
        *("model.safetensors", "config.yaml", "summary.json", "environment.json", "README.md")
    }
    original, shared = load_run(run_dir), load_run(out)
    assert shared.identity == original.identity
    assert (shared.config, shared.step) == (original.config, original.step)
    assert shared.guide.kl_weight == original.guide.kl_weight
    trained = load_checkpoint(run_dir / "checkpoint.pt")["guide"]
    for name, value in shared.guide.state_dict().items():
        assert torch.equal(value, trained[name]), name
    scenes = load_scenes(shared.config.data, "test", multi_view=shared.config.guide == "mulmon")
    metrics = []
    for run in (original, shared):
        torch.manual_seed(1)
        metrics.append(evaluate(run.guide, scenes, CPU))
    assert metrics[0] == pytest.approx(metrics[1], rel=0, abs=0, nan_ok=True)
    assert load_run(export_run(out, tmp_path / "again")).identity == original.identity


def test_half_of_the_size_is_enough(run_dir: Path, tmp_path: Path) -> None:
    whole, half = export_run(run_dir, tmp_path / "whole"), export_run(run_dir, tmp_path / "half", half=True)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.7 * sizes[0]  # the header has some kilobytes
    rounded = load_run(half).guide.state_dict()
    for name, weight in load_run(whole).guide.state_dict().items():
        assert rounded[name].dtype == weight.dtype
        torch.testing.assert_close(rounded[name], weight, rtol=2**-11, atol=2**-24)
    notes = ["rounded to float16" in (folder / "README.md").read_text() for folder in (whole, half)]
    assert notes == [False, True]


def test_the_model_card_says_what_the_files_say(run_dir: Path, tmp_path: Path) -> None:
    out = export_run(run_dir, tmp_path / "export")
    _, header, body = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    content = yaml.safe_load(header)
    summary = json.loads((run_dir / "summary.json").read_text())
    config = load_run(out).config
    assert content["license"] == "mit"
    assert {config.guide, "l-nms", "pyro"} <= set(content["tags"])
    assert content["datasets"] == [config.data.name]
    (entry,) = content["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == f"{config.guide}-{config.data.name}-lnms-seed0"
    assert result["dataset"]["type"] == config.data.name
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["elbo"] == summary["elbo"]
    assert values == {name: summary[name] for name in values}
    assert set(content["metrics"]) == set(values)
    assert ("query_mse" in values) == (config.guide == "mulmon")
    assert f"| `mse` | MSE | {summary['mse']:.4g} |" in body
    assert f"python experiments/run_svi.py --preset tiny --guide {config.guide} --steps 2 --run-dir PATH" in body
    assert "made on the spot by the code of `pyro_compvae`, which is under the MIT licence" in body
    assert "{{" not in body


def test_places_on_this_machine_are_not_shared(monet: Path, tmp_path: Path) -> None:
    changes = {"data.name": "clevr-mv", "data.root": "/home/alice/data", "frozen_model": "/home/alice/runs/first"}
    content = load_checkpoint(monet / "checkpoint.pt")
    config = to_yaml(from_yaml(content["config"]).replace(changes))
    save_checkpoint(monet / "checkpoint.pt", content | {"config": config})
    (monet / "config.yaml").write_text(config)
    calls = json.loads((monet / "environment.json").read_text())
    calls[0]["command"] += " --data-root=/home/alice/data --frozen-model '/home/alice/runs/first'"
    (monet / "environment.json").write_text(json.dumps(calls))
    out = export_run(monet, tmp_path / "export")
    for file in out.iterdir():
        assert b"alice" not in file.read_bytes(), file
        assert str(tmp_path).encode() not in file.read_bytes(), file
        assert str(monet.parent).encode() not in file.read_bytes(), file
    shared = load_run(out).config
    assert (shared.data.root, shared.frozen_model) == (None, "first")
    card = (out / "README.md").read_text()
    assert "read from files that do not come along" in card
    assert "name their folder as `root`" in card
    assert "license: other\n" in card
    assert "has to be said by whoever shares them" in card
    assert "MIT" not in card
    assert "on the model of the run `first`" in card
    # The user of the export sets the place of the data.
    (out / "config.yaml").write_text(to_yaml(shared.replace({"data.root": "/home/bob/data"})))
    assert load_run(out).config.data.root == "/home/bob/data"


def test_the_licence_that_is_given_is_that_of_the_weights(monet: Path, tmp_path: Path) -> None:
    card = (export_run(monet, tmp_path / "export", licence="cc-by-4.0") / "README.md").read_text()
    assert "license: cc-by-4.0\n" in card
    assert "The weights are under the licence `cc-by-4.0`." in card


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python experiments/run_svi.py --lnms", "python experiments/run_svi.py --lnms"),
        ("python x.py --run-dir runs/a ../b", "python x.py --run-dir PATH ../b"),
        ("python x.py --data-root ../alice/data --lnms", "python x.py --data-root PATH --lnms"),
        ("python x.py --data_root ../alice --frozen_model=../b", "python x.py --data_root PATH --frozen_model=PATH"),
        ("python x.py --frozen-model=alice/a=b --out 'al ice'", "python x.py --frozen-model=PATH --out PATH"),
        ("python x.py --set data.root=../alice/data --c", "python x.py --set data.root=PATH --c"),
        ("python x.py --set=frozen_model=alice --set seed=3", "python x.py --set=frozen_model=PATH --set seed=3"),
        ("""python x.py --set 'data={"root": "../alice"}'""", "python x.py --set data=PATH"),
        ("""python x.py "/home/o'brien/alice" '[/a,"/b"]'""", "python x.py PATH '[PATH'"),
        ("python x.py -o/home/alice --a=//server/alice", "python x.py -oPATH --a=PATH"),
        (r"python x.py '\\server\alice' '--a=\\server\alice'", "python x.py PATH --a=PATH"),
        ("python x.py --set lnms_prior.scale=0.1 --slots 5", "python x.py --set lnms_prior.scale=0.1 --slots 5"),
        ("python x.py '/home/al ice/a,b' --c", "python x.py PATH --c"),
        ("python x.py --data-root=~/data --steps 3", "python x.py --data-root=PATH --steps 3"),
        ("""python x.py --set 'data.root="/data/x"'""", "python x.py --set data.root=PATH"),
        (r"python x.py 'C:\Users\alice' c:/data", "python x.py PATH PATH"),
    ],
)
def test_places_leave_a_command(command: str, expected: str) -> None:
    assert without_places(command) == expected


def test_nothing_is_overwritten(monet: Path, tmp_path: Path) -> None:
    assert export_run(monet) == monet / "export"
    before = (monet / "export" / "model.safetensors").stat().st_mtime_ns
    for out in (None, monet, monet / "config.yaml"):
        with pytest.raises(ExportError, match="expected a new or empty folder, found one that holds files"):
            export_run(monet, out)
    assert (monet / "export" / "model.safetensors").stat().st_mtime_ns == before
    (tmp_path / "empty").mkdir()
    export_run(monet, tmp_path / "empty")


@pytest.mark.parametrize("room", [100, 3_000, 8_000])
def test_a_full_disk_leaves_nothing_that_blocks_the_next_try(monet: Path, room: int) -> None:
    with largest_file(room), pytest.raises(DiskFullError, match="cannot be written, the disk is full"):
        export_run(monet)
    assert [path.name for path in monet.iterdir() if "export" in path.name] == []
    (monet / ".export-abcdefgh").mkdir()  # left by a process that was killed
    (monet / ".export-abcdefgh" / "README.md").touch()
    os.utime(monet / ".export-abcdefgh" / "README.md", (0, 0))
    os.utime(monet / ".export-abcdefgh", (0, 0))
    assert load_run(export_run(monet)).step == 2
    assert not (monet / ".export-abcdefgh").exists()


def test_unfinished_and_damaged_runs_are_not_shared(monet: Path, tmp_path: Path) -> None:
    out, summary = tmp_path / "out", json.loads((monet / "summary.json").read_text())

    def refuses(message: str) -> None:
        with pytest.raises(ExportError, match=message):
            export_run(monet, out)
        assert not out.exists()

    (monet / "environment.json").write_text('[{"command": "python"}]')
    refuses(r"environment.json: expected the calls .* but missing \['device', 'packages', 'python'\]\. Mend the file")
    (monet / "environment.json").write_text("[")
    with pytest.raises(
        CheckpointError, match=r"environment\.json: expected the calls that made the run, but it cannot"
    ):
        export_run(monet, out)
    assert not out.exists()
    (monet / "environment.json").unlink()
    (monet / "summary.json").write_text(json.dumps(summary | {"steps": 1}))
    refuses("summary.json: expected the metrics of the weights, step 2, got those of step 1. Finish the run")
    (monet / "summary.json").write_text(json.dumps({"steps": 2}))
    refuses(r"summary.json: expected steps, .* missing \['ari_fg'")
    for text in ("{", "3"):
        (monet / "summary.json").write_text(text)
        refuses("summary.json: expected the metrics of a run, but it cannot be read")
    (monet / "summary.json").unlink()
    refuses(r"expected a finished run with a summary.json, found none. Finish the run: compvae train --resume")
    (monet / "summary.json").write_text(json.dumps(summary))
    assert "not recorded" in (export_run(monet, out) / "README.md").read_text(), "without an environment.json"


def test_weights_of_others_are_refused(monet: Path, tmp_path: Path) -> None:
    out = export_run(monet, tmp_path / "export")
    file = out / "model.safetensors"
    content = load_weights(file)
    name, other = list(content["guide"])[:2]

    def refuses(message: str, config: str = content["config"], **weights: torch.Tensor) -> None:
        save_weights(file, config, 2, content["guide"] | weights)
        with pytest.raises(CheckpointError, match=message):
            load_run(out)

    wider = torch.cat([content["guide"][name]] * 2)
    refuses(
        rf"model.safetensors: expected the weights of the guide that config.yaml describes, but {name}: "
        rf"expected \({len(wider) // 2},\) torch.float32, got \({len(wider)},\) torch.float32. They are of another run",
        **{name: wider},
    )
    refuses(f"{name}: expected .* torch.float32, got .* torch.float64", **{name: content["guide"][name].double()})
    refuses(r"extra: expected no such weight, got \(1,\) torch.float32", extra=torch.zeros(1))
    kept = content["guide"].pop(other)
    refuses(f"{other}: expected .* torch.float32, got none")
    content["guide"][other] = kept
    refuses("configurations differ", config=to_yaml(load_run(monet).config.replace({"seed": 9})))
    refuses("expected a configuration beside the weights, but configuration: expected a mapping", config="3")
    file.unlink()
    with pytest.raises(CheckpointError, match="expected a checkpoint, found no such file"):
        load_run(out)


def test_checkpoints_of_others_are_refused(monet: Path) -> None:
    content = load_checkpoint(monet / "checkpoint.pt")
    for change, message in (
        ({"guide": 3}, "checkpoint.pt: expected the entries of a run, got others under guide"),
        ({"guide": content["guide"] | {"extra": 3}}, "extra: expected no such weight, got int"),
        ({"config": None}, "checkpoint.pt: expected the entries of a run, got others under config"),
        ({"config": "guide: 3"}, "checkpoint.pt: expected a configuration beside the weights"),
    ):
        save_checkpoint(monet / "checkpoint.pt", content | change)
        with pytest.raises(CheckpointError, match=message):
            load_run(monet)


def test_a_folder_with_two_sets_of_weights_is_refused(monet: Path, tmp_path: Path) -> None:
    out = export_run(monet, tmp_path / "export")
    shutil.copy(monet / "checkpoint.pt", out)
    with pytest.raises(CheckpointError, match=r"expected checkpoint.pt of a run or model.safetensors .* found both"):
        load_run(out)


def test_names_and_origins_are_text_in_the_model_card(monet: Path, tmp_path: Path) -> None:
    evil = "evil: \n\n# Heading\n```\n<script>alert(1)</script> [link](http://evil) | cell |\n---\n\x1b[2J"
    summary = json.loads((monet / "summary.json").read_text())
    (monet / "summary.json").write_text(json.dumps(summary | {"splits": {"test": evil, evil: evil}}))
    calls = json.loads((monet / "environment.json").read_text())
    call = calls[0] | {
        "command": evil.replace("\n\n", "\n\n```\n"),
        "device": evil,
        "python": evil,
        "packages": {evil: evil},
    }
    (monet / "environment.json").write_text(json.dumps([call]))
    out = export_run(monet, tmp_path / "export", licence=evil)
    text = (out / "README.md").read_text(encoding="utf-8")
    start, header, body = text.split("---\n", 2)
    assert start == ""
    assert yaml.safe_load(header)["license"] == evil
    lines = body.split("\n")
    ours = [
        "# monet-sprites-lnms-seed0",
        "## How to load it",
        "## Metrics",
        "## Data and licences",
        "## How it was made",
    ]
    assert [line for line in lines if line.startswith("#")] == [*ours, "## Limits and known failures"]
    fences = [line for line in lines if line.startswith("```")]
    assert len(fences) == 4, "two blocks of code, of which the second holds the commands"
    assert fences[2] == fences[3] == "````"
    outside = re.sub(r"(?s)(`+)(?!`).*?(?<!`)\1(?!`)", "", body)
    assert "script" in outside
    assert not re.search(r"(?<!\\)<script|(?<!\\)\[link", outside)
    assert "\x1b" not in text
    assert not any(line.startswith(("---", "| cell")) for line in lines)


@pytest.mark.parametrize(
    "changes", [{"packages": ["torch"]}, {"packages": None}, {"device": 3}, {"python": None}, {"command": ["a"]}]
)
def test_calls_of_another_kind_are_refused(monet: Path, changes: dict) -> None:
    calls = json.loads((monet / "environment.json").read_text())
    (monet / "environment.json").write_text(json.dumps([calls[0] | changes]))
    with pytest.raises(ExportError, match=r"expected the calls that made the run, .* but some are of another"):
        export_run(monet)


@pytest.mark.parametrize("content", [None, "text", {"elbo": 10**400}, {"steps": "2"}])
def test_summaries_of_another_kind_are_refused(monet: Path, content: object) -> None:
    (monet / "summary.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match="expected the metrics of a run, but it cannot be read"):
        export_run(monet)

"""What a report says first, what it says of which step and scenes, and what it leaves out with words."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray
from helpers.browser import chromium

from pyro_compvae.analysis.comparison.compute import QUANTITIES
from pyro_compvae.analysis.figures.curves import PANELS
from pyro_compvae.analysis.metrics.meanings import MEANINGS, with_interval
from pyro_compvae.analysis.report import write_report
from pyro_compvae.analysis.report.comparisons import comparisons_among
from pyro_compvae.analysis.report.folders import Missing, open_folders
from pyro_compvae.analysis.report.metrics import summary_of
from pyro_compvae.analysis.report.said import scenes_of
from pyro_compvae.analysis.results import save
from pyro_compvae.analysis.runs import load_run


def page_of(tmp_path: Path, *runs: Path, scenes: int = 2) -> str:
    """The page, without its script and style."""
    write_report(tmp_path / "page.html", runs, scenes)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    return re.sub(r"<style>.*?</style>|<script.*?</script>", "", text, flags=re.DOTALL)


def compared(zero: Path, plus: Path, name: str = "against-zero", num_scenes: int = 8) -> None:
    """Write a comparison of two runs, with numbers drawn at random, as compare.py does."""
    rng = np.random.default_rng(0)
    numbers = {name: (("pair", "side", "scene"), rng.normal(0, 1, (1, 2, num_scenes))) for name in QUANTITIES}
    numbers["reliable"] = (("pair", "side", "scene"), np.ones((1, 2, num_scenes)))
    data = xarray.Dataset(numbers, coords={"side": ["0", "+"]})
    identities = [[load_run(path).identity for path in (zero, plus)]]
    (plus / name).mkdir()
    save(plus / name / "comparison.nc", data, {"pairs": identities})


@pytest.fixture
def pair(tiny_run: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A run without L-NMS and a run with it, which a test may change."""
    zero = Path(shutil.copytree(tiny_run("iodine", "--no-lnms"), tmp_path / "zero"))
    return zero, Path(shutil.copytree(tiny_run("iodine"), tmp_path / "plus"))


def test_the_verdict_and_headline_numbers_come_before_all_pictures(pair: tuple[Path, Path], tmp_path: Path) -> None:
    compared(*pair)
    text = page_of(tmp_path, *pair)
    verdict = text.index("nats is Δ log p̂(x) =")
    headline = re.search(r"ELBO, nats ↑</th><td>-?[\d,.]+ ± [\d,.]+<small>\d+ test scenes</small>", text)
    assert headline is not None
    first_picture = min(text.index("<svg"), text.index("<img"))
    assert text.index("In short") < verdict < headline.start() < text.index("MSE ↓") < first_picture
    panel = text[text.index('id="comparison"') :]
    assert panel.index("nats is Δ log p̂(x) =") < panel.index("<table"), "before its own table too"


def test_comparisons_say_their_scenes_and_step_beside_figures_of_others(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    compared(*pair)
    text = page_of(tmp_path, *pair, scenes=3)
    assert "test scenes 1 to 8, nats per scene" in text
    assert "These are test scenes 1 to 3" in text
    assert "zero (0) and plus (+)<small>step 2</small>" in text
    assert "runs have not been compared" not in text


def test_comparisons_of_runs_elsewhere_are_left_out_with_words(pair: tuple[Path, Path]) -> None:
    compared(*pair)

    def said(*runs: Path) -> list[str]:
        folders, _ = open_folders(list(runs))
        return [reason.why for part in comparisons_among(folders).parts for reason in part.left_out]

    assert said(*pair) == []
    elsewhere = "The comparison is of runs that are not on this page, or that have been trained on since."
    assert said(pair[1]) == [elsewhere]
    (pair[1] / "against-zero" / "comparison.nc").write_bytes(b"no NetCDF")
    (damaged,) = said(*pair)
    assert damaged.startswith("comparison.nc cannot be shown")


def test_a_summary_of_another_step_or_run_is_left_out_with_words(
    tiny_copy: Callable[..., Path], tmp_path: Path
) -> None:
    run = tiny_copy("iodine")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"seed": 5}))
    with pytest.raises(Missing, match=r"summary\.json is of other weights: seed is 5 there and 0 in the run\."):
        summary_of(open_folders([run])[0][0])
    (run / "summary.json").write_text(json.dumps(summary | {"steps": 1}))
    text = page_of(tmp_path, run)
    assert "summary.json is of other weights: steps is 1 there and 2 in the run." in text
    assert "ELBO, nats ↑" not in text
    assert "left out, because it is damaged or does not belong" in text


def test_what_is_not_computed_is_one_list_and_nowhere_else(pair: tuple[Path, Path], tmp_path: Path) -> None:
    text = page_of(tmp_path, *pair)
    before, after = text.split('<section id="unfinished"')
    for run in pair:
        for command in ("evidence", "evidence --bdmc", "ladder", "diagnose"):
            subcommand, *options = command.split()
            assert after.count(f"<code>{' '.join(('compvae', subcommand, str(run), *options))}</code>") == 1
    assert after.count(f"<code>compvae compare {pair[0]} {pair[1]}</code>") == 1
    assert "compvae " not in re.sub(r"<footer>.*", "", before.split("<main")[1], flags=re.DOTALL)
    for section in ("evidence", "ladder", "posterior", "calibration", "comparison"):
        assert f'id="{section}"' not in text, "a section with nothing in it"


def test_a_metric_has_one_name(tiny_run: Callable[..., Path], tmp_path: Path) -> None:
    text = page_of(tmp_path, tiny_run("iodine"))
    write_report(tmp_path / "page.html", [tiny_run("iodine")], 1)
    names = re.search(r'id="metric-names">(.*?)</script>', (tmp_path / "page.html").read_text())
    assert names is not None
    assert dict(json.loads(names.group(1))).items() <= {key: value.name for key, value in MEANINGS.items()}.items()
    assert all(title == MEANINGS[key].label for key, title in PANELS.items() if key != "loss")
    for other in ("cosine &gt; 0.9</th>", "duplicates_latent", "pairs of slots on one object", "on one object</th>"):
        assert other not in text
    for key in ("duplicates", "duplicates_latent"):
        assert f'<th scope="col">{MEANINGS[key].name}</th>' in text


def test_intervals_are_those_of_the_summary() -> None:
    summary = {"elbo": -1234.567, "mse": 0.012342, "standard_errors": {"elbo": 10.0, "mse": 0.0001}}
    assert with_interval(summary, "elbo") == "-1,235 ± 20"
    assert with_interval(summary, "mse") == "0.01234 ± 0.00020"
    assert with_interval({"elbo": -1234.567}, "elbo") == "-1,234.6", "a summary of an older version"
    assert with_interval({"miou": None}, "miou") == "–"
    assert with_interval({"duplicates": 0.0, "standard_errors": {"duplicates": 0.0}}, "duplicates") == "0.00 ± 0.00"


def test_scenes_are_counted_from_one() -> None:
    data = xarray.Dataset({"x": ("scene", np.zeros(3))})
    assert scenes_of(data) == "test scenes 1 to 3"
    assert scenes_of(data.assign_coords(scene=[4, 5, 6])) == "test scenes 5 to 7"
    assert scenes_of(data.isel(scene=[0]), "simulated scenes") == "simulated scene 1"


def test_on_a_phone_pictures_are_large_and_in_print_nothing_is_cut(pair: tuple[Path, Path], tmp_path: Path) -> None:
    compared(*pair)
    page_of(tmp_path, *pair)
    with chromium() as browser:
        size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get((tmp_path / "page.html").as_uri())
        widths = "return [...document.querySelectorAll('.images img')].map(e => e.getBoundingClientRect().width)"
        found = browser.execute_script(widths)
        assert len(found) == 8
        assert min(found) >= 150
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        # A4 without its margins has about 720 pixels.
        size |= {"width": 720, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        boxes = "return [...document.querySelectorAll('.scroll, pre')].map(e => e.scrollWidth - e.clientWidth)"
        assert max(browser.execute_script(boxes)) <= 1
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 720

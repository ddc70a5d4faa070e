"""The report of runs, read as text, and used in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.browser import chromium
from helpers.pictures import undrawn
from helpers.scripts import RESULTS, load_script
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from pyro_compvae.analysis.ladder import compute as ladder
from pyro_compvae.analysis.posterior import diagnosis
from pyro_compvae.analysis.posterior.data_set import bundle, load_groups, save_inference_data
from pyro_compvae.analysis.report import page as report_page

FIT = ["--fit-steps", "2", "--cover-steps", "1", "--device", "cpu"]
DIAGNOSE = [*FIT, "--num-scenes", "2", "--num-draws", "8", "--num-chains", "2", "--warmup-steps", "2"]
DIAGNOSE += ["--ais-chains", "30", "--ais-temperatures", "1"]
DIAGNOSE += ["--simulated-scenes", "3", "--simulated-chains", "30", "--simulated-temperatures", "1"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("report")


def run_script(name: str, *arguments: str) -> None:
    assert load_script(name).main(list(arguments)) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_run: Callable[..., Path], quick_pilot: None) -> Path:
    """A run for which everything is computed, one for which nothing is, and one on several views."""
    torch.set_num_threads(1)  # this fixture runs before the one of every test
    folder = tmp_path_factory.mktemp("runs")
    for name, options in {"full": ("iodine",), "bare": ("iodine", "--no-lnms"), "views": ("mulmon",)}.items():
        shutil.copytree(tiny_run(*options), folder / name)
    full = str(folder / "full")
    ais = ["--ais-chains", "0", "--num-scenes", "2"]
    bdmc = ["--bdmc", "--bdmc-scenes", "2", "--bdmc-chains", "2", "--bdmc-temperatures", "2", "--ais-temperatures", "1"]
    steps = ["--approach-steps", "20", "--fit-steps", "20", "--flow-steps", "20", "--cover-steps", "1"]
    samples = ["--num-samples", "20", "--symmetry-samples", "20", "--ais-chains", "2", "--ais-temperatures", "2"]
    with undrawn(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "FIT_SAMPLES", 8)
        patch.setattr(diagnosis, "NutsConfig", partial(diagnosis.NutsConfig, max_tree_depth=3))
        run_script("estimate_evidence", full, *FIT, "--num-samples", "40", *ais, *bdmc)
        run_script("gap_ladder", full, "--num-scenes", "2", *steps, *samples, "--device", "cpu")
        run_script("diagnose", full, *DIAGNOSE)
        run_script("diagnose", str(folder / "views"), *DIAGNOSE)
    return folder


def report(script: ModuleType, out: Path, *names: Path, scenes: int = 3) -> str:
    assert script.main([*map(str, names), "--out", str(out), "--num-scenes", str(scenes)]) == 0
    return out.read_text(encoding="utf-8")


class Page(HTMLParser):
    """A parser that collects tags with their attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_what_is_there_is_shown_and_what_is_not_is_said(script: ModuleType, runs: Path, tmp_path: Path) -> None:
    page = Page(report(script, tmp_path / "page.html", runs / "full", runs / "bare"))
    for words in (
        "guide_symmetric",
        "amortisation",
        "coverage",
        "Test scene ",
        "against NUTS",
        "simulated scene",
        "--no-lnms",
    ):
        assert words in page.text
    for subcommand in ("evidence", "ladder", "diagnose"):
        assert f"compvae {subcommand} {runs / 'bare'}" in page.text
        assert f"compvae {subcommand} {runs / 'full'}" not in page.text
    assert not re.search(r"(?<!--nuts-)\b(slot|latent|scene|scenes) 0\b", page.text), "everything is counted from one"
    assert "test scenes 1 to 2" in page.text
    assert "simulated scenes 1 to 3" in page.text
    assert "lnms" in page.text, "where the configurations differ"
    assert "Views left out" not in page.text
    assert Counter(tag for tag, _ in page.tags)["svg"] >= 6


def test_the_page_is_whole_accessible_and_asks_nobody(script: ModuleType, runs: Path, tmp_path: Path) -> None:
    text = report(script, tmp_path / "page.html", runs / "full", runs / "views")
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), address
    assert "@import" not in text
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    assert all("alt" in attributes for attributes in page.all("img"))
    assert all(attributes["for"] in ids for attributes in page.all("label"))
    anchors = [address[1:] for a in page.all("a") if (address := a["href"])]
    assert set(anchors) <= set(ids)
    assert len(page.all("caption")) == len(page.all("table"))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert text.count("currentColor") > 100, "figures take the page's colour"
    assert not re.search(r"#010203|#000000", "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL)))


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_the_contrast_that_wcag_asks_for() -> None:
    style = (Path(report_page.__file__).parent / "style.css").read_text()
    schemes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{([^}]*)\}", style)
    ]
    schemes = [scheme for scheme in schemes if len(scheme) > 5]
    assert len(schemes) == 2, "light and dark"
    for scheme in schemes:
        for text in ("ink", "faint", "link", "warn"):
            for ground in ("paper", "panel"):
                low, high = sorted((luminance(scheme[text]), luminance(scheme[ground])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def displayed(panel: WebElement, role: str) -> str:
    return panel.find_element(By.CSS_SELECTOR, f'img[data-role="{role}"]').get_attribute("src") or ""


def open_page(browser: Chrome, path: Path) -> list[WebElement]:
    browser.get(path.as_uri())
    return browser.find_elements(By.CSS_SELECTOR, ".panel[data-run]")


@pytest.mark.slow
def test_the_page_in_a_browser(script: ModuleType, runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    report(script, path, runs / "full", runs / "bare")
    with chromium() as browser:
        full, bare = open_page(browser, path)
        assert browser.get_log("browser") == []
        width = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert width[0] <= width[1], "nothing sticks out"

        # The keyboard moves the slider: both runs go to the next scene.
        slider = browser.find_element(By.ID, "scene")
        before = [displayed(panel, "observation") for panel in (full, bare)]
        assert before[0] == before[1], "the same scene"
        slider.send_keys(Keys.ARROW_RIGHT)
        after = [displayed(panel, "observation") for panel in (full, bare)]
        assert after[0] == after[1] != before[0]
        assert browser.find_element(By.ID, "scene-name").text == "2 of 3"
        assert slider.get_attribute("aria-valuetext") == "scene 2 of 3"

        # The pointer moves over a slot, and off it.
        whole = displayed(full, "reconstruction")
        slots = full.find_elements(By.CSS_SELECTOR, ".slot")
        alone = [slot.find_element(By.TAG_NAME, "img").get_attribute("src") for slot in slots]
        ActionChains(browser).move_to_element(slots[2]).perform()
        assert displayed(full, "reconstruction") == alone[2]
        assert full.find_element(By.CSS_SELECTOR, '[data-caption="reconstruction"]').text == "slot 3 alone"
        assert displayed(bare, "reconstruction") not in alone
        ActionChains(browser).move_to_element(browser.find_element(By.TAG_NAME, "h1")).perform()
        assert displayed(full, "reconstruction") == whole

        # Pointing at a pixel shows the slot that claims it.
        segmentation = full.find_element(By.CSS_SELECTOR, 'img[data-role="segmentation"]')
        ActionChains(browser).move_to_element(segmentation).perform()
        assert displayed(full, "reconstruction") in alone
        ActionChains(browser).move_to_element(browser.find_element(By.TAG_NAME, "h1")).perform()

        # By keyboard, focus shows a slot, Enter holds it, and Escape releases it.
        browser.execute_script("arguments[0].focus()", slots[1])
        assert displayed(full, "reconstruction") == alone[1]
        slots[1].send_keys(Keys.ENTER)
        assert slots[1].get_attribute("aria-pressed") == "true"
        assert re.fullmatch(
            r"slot 2: [\d.]+ % of the pixels, KL [\d.]+ nats", slots[1].get_attribute("aria-label") or ""
        )
        slider.send_keys(Keys.ARROW_LEFT)
        assert displayed(full, "reconstruction") == slots[1].find_element(By.TAG_NAME, "img").get_attribute("src")
        slots[1].send_keys(Keys.ESCAPE)
        assert slots[1].get_attribute("aria-pressed") == "false"

        # Dark mode changes the colours of background and text, also in figures.
        colours = (
            "const s = (e) => getComputedStyle(e); return [s(document.body).backgroundColor, s(document.body).color]"
        )
        light = browser.execute_script(colours)
        feature = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        dark = browser.execute_script(colours)
        assert light != dark
        tick = browser.find_element(By.CSS_SELECTOR, ".chart svg text")
        assert tick.value_of_css_property("fill") == dark[1]
        assert browser.get_log("browser") == []


@pytest.mark.slow
def test_views_and_ways_to_scenes_in_a_browser(script: ModuleType, runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    text = report(script, path, runs / "views")
    assert "leave one view out: log p(x_v | x_-v) =" in text
    with chromium() as browser:
        (panel,) = open_page(browser, path)
        view = browser.find_element(By.ID, "view")
        name = browser.find_element(By.ID, "view-name")
        assert name.text == "view 1, observed"
        first = displayed(panel, "observation")
        view.send_keys(Keys.END)
        assert name.text.endswith("predicted")
        assert displayed(panel, "observation") != first
        for button in browser.find_elements(By.CSS_SELECTOR, "[data-goto]"):
            browser.execute_script("arguments[0].click()", button)
            goal = button.get_attribute("data-goto")
            assert browser.find_element(By.ID, "scene").get_attribute("value") == goal
        assert browser.get_log("browser") == []


def test_a_run_that_is_not_finished_or_without_weights(script: ModuleType, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    shutil.copy(runs / "bare" / "config.yaml", tmp_path / "part" / "config.yaml")
    page = Page(report(script, tmp_path / "page.html", tmp_path / "part"))
    assert "The run cannot be loaded" in page.text
    assert "Has the run saved one yet?" in page.text
    assert f"compvae train --resume --run-dir {tmp_path / 'part'}" in page.text
    assert "there is no metrics.csv" in page.text
    assert "command and environment were not recorded" in page.text


def test_files_of_another_run_damaged_and_incomplete_ones(script: ModuleType, runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "bare", run)
    shutil.copy(runs / "full" / "evidence.nc", run / "evidence.nc")
    (run / "ladder.nc").write_bytes(b"no NetCDF")
    groups = load_groups(runs / "full" / "posterior_guide.nc", "posterior")
    save_inference_data(run / "posterior_guide.nc", bundle(groups))
    (run / "summary.json").write_text("{")
    (run / "environment.json").write_text("{")
    with (run / "metrics.csv").open("a") as file:
        file.write("\0\0\0\n")
    page = Page(report(script, tmp_path / "page.html", run))
    assert "evidence.nc: expected numbers of this run, found those of other weights" in page.text
    assert "ladder.nc has no group 'sample_stats' that can be read" in page.text
    assert "posterior_guide.nc has no group 'sample_stats' that can be read" in page.text
    assert "summary.json cannot be read" in page.text
    assert "environment.json: expected the calls that made the run, but it cannot be read" in page.text
    assert "run ends at step 2" in page.text


@pytest.mark.usefixtures("no_pictures")
def test_one_bad_folder_costs_no_more_than_itself(
    script: ModuleType, tiny_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {name: tmp_path / name for name in ("empty", "text", "pipe", "alias", "huge", "loop", "file")}
    for name in ("empty", "text", "pipe", "alias", "huge"):
        bad[name].mkdir()
    os.mkfifo(bad["pipe"] / "config.yaml")
    (bad["text"] / "config.yaml").write_bytes(b"\xff")
    (bad["alias"] / "config.yaml").write_text("a: &a [1]\nb: *a\n")
    (bad["huge"] / "config.yaml").write_text("guide: iodine\nnum_slots: 1000000000\n")
    bad["loop"].symlink_to(bad["loop"])
    bad["file"].write_text("")
    sound = tiny_run("iodine")
    page = Page(report(script, tmp_path / "page.html", *bad.values(), sound, scenes=1))
    assert page.text.count("This folder is not on the page") == len(bad)
    assert sound.name in page.text
    assert "amortisation" not in page.text
    said = capsys.readouterr().err
    for name, folder in bad.items():
        assert f"not on the page: {folder}" in said, name
    assert script.main([str(folder) for folder in bad.values()]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.usefixtures("no_pictures")
def test_hostile_files_in_a_run_folder_cost_no_more_than_themselves(
    script: ModuleType, tiny_copy: Callable[..., Path], tmp_path: Path
) -> None:
    run = tiny_copy("iodine")
    os.mkfifo(run / "pipe.nc")
    os.mkfifo(run / "ladder.nc")
    (tmp_path / "secret.txt").write_text("a secret\n")
    (run / "metrics.csv").write_text("loss,elbo\n1,2\n")
    (run / "summary.json").write_text(json.dumps({"elbo": 10**400}))
    (run / "environment.json").unlink()
    (run / "environment.json").symlink_to(tmp_path / "secret.txt")
    page = Page(report(script, tmp_path / "page.html", run, scenes=1))
    assert "pipe.nc: cannot be read" in page.text
    assert "expected the column step and then others, got ['loss', 'elbo']" in page.text
    assert "expected the metrics of a run, got '1000" in page.text
    assert "slot 1" in page.text, "the decompositions are there"
    assert "secret" not in page.text


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.slow
def test_what_does_not_fit_together_costs_no_more_than_itself(script: ModuleType, runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "full", run)
    diagnose = [str(run), *DIAGNOSE, "--num-draws", "9"]
    run_script("diagnose", *diagnose, "--stages", "nuts", "--nuts-scene", "1")
    run_script("diagnose", *diagnose, "--num-scenes", "1", "--stages", "draws")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"ari_fg": float("nan")}))
    page = Page(report(script, tmp_path / "page.html", run))
    assert "predictive_checks.nc is of other draws than those here." in page.text
    assert "posterior_nuts.nc is of test scene 2, and posterior_guide.nc of test scene 1." in page.text
    assert "nan" in page.text
    assert "amortisation" in page.text


@pytest.mark.usefixtures("no_pictures")
def test_comparisons_are_shown_of_these_very_runs(
    script: ModuleType, tiny_run: Callable[..., Path], tmp_path: Path
) -> None:
    full, bare = tmp_path / "full", tmp_path / "bare"
    shutil.copytree(tiny_run("iodine"), full)
    shutil.copytree(tiny_run("iodine", "--no-lnms"), bare)
    page = Page(report(script, tmp_path / "page.html", bare, full))
    assert f"compvae compare {bare} {full}" in page.text
    quick = ["--num-samples", "30", "--cover-samples", "4", "--num-scenes", "8", "--device", "cpu"]
    run_script("compare", str(bare), str(full), "--fit-steps", "2", "--cover-steps", "1", *quick)
    page = Page(report(script, tmp_path / "page.html", bare, full))
    assert "bare (0) and full (+)" in page.text
    assert "ΔL⁺, the ELBO (Eq. 6)" in page.text
    run_script("run_svi", "--resume", "--steps", "3", "--run-dir", str(bare), "--device", "cpu")
    page = Page(report(script, tmp_path / "page.html", bare, full))
    assert "ΔL⁺, the ELBO (Eq. 6)" not in page.text


def test_two_trained_runs_make_a_small_page(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    report(script, path, RESULTS / "iodine-sprites-lnms-seed0", RESULTS / "monet-sprites-lnms-seed0", scenes=16)
    assert path.stat().st_size < 5e6


def test_a_run_that_cannot_be_loaded_says_so_in_a_browser(script: ModuleType, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    shutil.copy(runs / "bare" / "config.yaml", tmp_path / "part" / "config.yaml")
    path = tmp_path / "page.html"
    report(script, path, runs / "bare", tmp_path / "part")
    with chromium() as browser:
        bare, part = open_page(browser, path)
        assert bare.is_displayed()
        assert "The run cannot be loaded" in part.text
        assert browser.get_log("browser") == []


def test_bad_arguments_are_one_line(
    script: ModuleType, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = str(runs / "bare")
    for arguments, words in [
        ([], "expected one run folder or more, got none"),
        ([str(tmp_path)], "expected a run folder with a config.yaml"),
        ([bare, bare], "expected every run folder once"),
        ([bare, "--num-scenes", "0"], "num_scenes: expected at least 1, got 0"),
        ([bare, "--out", str(tmp_path / "no" / "page.html")], "No such file or directory"),
    ]:
        assert script.main(arguments) == 1
        message = capsys.readouterr().err
        assert words in message
        assert len(message.splitlines()) == 1
    assert script.main([bare, "--num-scenes", "1"]) == 0
    assert (runs / "bare" / "report.html").is_file()

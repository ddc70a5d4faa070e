"""Intervals of differences, and the sentences about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from matplotlib.figure import Figure

from pyro_compvae.analysis.comparison import figure as comparison_figures
from pyro_compvae.analysis.comparison.compute import Interval, bootstrap, delta, ladders
from pyro_compvae.analysis.comparison.figure import comparison_figure
from pyro_compvae.analysis.comparison.table import comparison_table, sentence
from pyro_compvae.analysis.results import save
from pyro_compvae.analysis.runs import Run
from pyro_compvae.data import SceneSet
from pyro_compvae.guides import build_guide
from pyro_compvae.runs.presets import preset


def differences(rng: np.random.Generator, pairs: int, scenes: int) -> np.ndarray:
    """Differences of mean 2, with effects of pairs and of scenes, and noise, of standard deviations 1, 2 and 1."""
    of_pairs, of_scenes = rng.normal(0, 1, (pairs, 1)), rng.normal(0, 2, (1, scenes))
    return 2 + of_pairs + of_scenes + rng.normal(0, 1, (pairs, scenes))


def test_intervals_know_of_pairs_and_of_scenes() -> None:
    """Pairs and scenes are crossed, as all pairs saw the same scenes; nested resampling would take scenes for noise."""
    P, N = 60, 80
    found = [bootstrap(differences(np.random.default_rng(seed), P, N), seed, 500) for seed in range(150)]
    expected = 1.96 * (1 / P + 4 / N + 1 / (P * N)) ** 0.5
    assert np.mean([(i.high - i.low) / 2 for i in found]) == pytest.approx(expected, rel=0.1)
    nested = 1.96 * (1 / P + 5 / (P * N)) ** 0.5
    assert nested < 0.6 * expected, "the two must differ"
    covered = np.mean([i.low < 2 < i.high for i in found])
    assert 0.95 - 4 * (0.95 * 0.05 / 150) ** 0.5 < covered <= 1


def test_with_one_pair_the_interval_is_that_of_scenes() -> None:
    values = differences(np.random.default_rng(0), 1, 400)
    interval = bootstrap(values)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert interval.mean == pytest.approx(values.mean())


def data(elbo: float, evidence: float, pairs: int = 1) -> xarray.Dataset:
    """Differences of ELBO and of log p̂(x) between sides, with some noise."""
    noise = np.random.default_rng(0).normal(0, 0.1, (pairs, 2, 40))
    step = np.array([0.0, 1.0])[None, :, None]
    numbers = {"elbo": elbo * step + noise, "log_evidence": evidence * step + 50 + noise[:, :, ::-1]}
    numbers["gap"] = numbers["log_evidence"] - numbers["elbo"]
    numbers |= {name: noise for name in ("miou", "mse", "duplicates", "duplicates_latent")}
    numbers["reliable"] = np.zeros_like(noise)
    dims = ("pair", "side", "scene")
    return xarray.Dataset({name: (dims, value) for name, value in numbers.items()}, coords={"side": ["0", "+"]})


@pytest.mark.parametrize(
    ("elbo", "evidence", "said"),
    [
        (3.0, 5.0, "a better model, and a wider gap"),
        (3.0, 0.0, "a model neither better nor worse beyond noise, and a narrower gap"),
        (-2.0, -2.0, "a worse model, and a gap neither wider nor narrower beyond noise"),
    ],
)
def test_the_sentence_says_what_the_difference_consists_of(elbo: float, evidence: float, said: str) -> None:
    found = data(elbo, evidence)
    assert sentence(found, shared=False).endswith(f": {said}.")
    np.testing.assert_allclose(delta(found, "elbo"), delta(found, "log_evidence") - delta(found, "gap"))


def test_with_one_model_the_sentence_speaks_of_the_posterior_alone() -> None:
    assert "is all posterior: the gap grows on the side +" in sentence(data(-2.0, 0.0), shared=True)
    assert "the gap shrinks" in sentence(data(2.0, 0.0), shared=True)


def test_the_table_divides_the_gap_if_there_are_ladders() -> None:
    found = data(3.0, 5.0, pairs=2)
    assert "run compvae ladder on every run" in comparison_table(found, None, False)
    gaps = np.zeros((2, 2, 2, 8))
    gaps[:, 1, 0] = -1.5
    coords = {"side": ["0", "+"], "gap_name": ["amortisation", "independence"]}
    parts = xarray.Dataset({"gap": (("pair", "side", "gap_name", "scene"), gaps)}, coords=coords)
    text = comparison_table(found, parts, False)
    row = next(line for line in text.splitlines() if line.strip().startswith("amortisation"))
    assert row.split()[1:] == ["0.00", "-1.50", "-1.50", "[-1.50,", "-1.50]", "-1.50", "100%", "-1.50", "-1.50"]
    assert "whose small number makes them too narrow" in text


def test_ladders_stand_beside_a_comparison_of_the_same_scenes_only(tmp_path: Path) -> None:
    scenes = SceneSet(torch.arange(10 * 3 * 4 * 4).view(10, 3, 4, 4).to(torch.uint8))
    config = preset("tiny")
    guide = build_guide(config)
    runs = [Run(tmp_path / name, config, 1, guide.model, guide) for name in "ab"]
    for run in runs:
        run.path.mkdir()

    def climb(run: Run, value: float, seen: dict[str, str] | None, **effort: int) -> None:
        gap = xarray.Dataset(
            {"gap": (("gap_name", "scene"), np.full((1, 8), value))}, coords={"gap_name": ["symmetry"]}
        )
        of = {} if seen is None else {"scenes": seen}
        run.folder.numbers("ladder").unlink(missing_ok=True)
        save(run.folder.numbers("ladder"), gap, {**run.identity, **of, **effort})

    def found() -> list[float] | None:
        together = ladders([(runs[0], runs[1])], scenes)
        return None if together is None else together["gap"].isel(scene=0).values.ravel().tolist()

    first, others = scenes.part(slice(8)).seen, scenes.part(slice(2, 10)).seen
    climb(runs[0], 1.0, first)
    assert found() is None, "one has no ladder"
    climb(runs[1], 2.0, first)
    assert found() == [1.0, 2.0]
    for seen, effort in ((others, {}), (None, {}), (first, {"fit_steps": 9})):
        climb(runs[1], 2.0, seen, **effort)
        assert found() is None


def test_signs_need_an_interval_on_one_side() -> None:
    assert [Interval(1, *ends).sign for ends in ((0.5, 2), (-0.5, 2), (-2, -1))] == [1, 0, -1]
    assert str(Interval(0.01, -0.02, 0.03)) == "+0.0100 [-0.0200, +0.0300]"
    assert str(Interval(1.234, 1.0, 1.5)) == "+1.23 [+1.00, +1.50]"


def test_without_masks_their_metrics_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = data(3.0, 5.0)
    found = whole.assign({name: whole[name] * np.nan for name in ("miou", "duplicates")})
    text = comparison_table(found, None, False)
    assert "nan" not in text
    assert text.splitlines().count("  no masks: miou, duplicates are left out") == 1
    assert [line.split()[1] for line in text.splitlines() if line.startswith("Δ ")][2:] == ["MSE", "duplicates_latent"]
    assert "no masks" not in comparison_table(whole, None, False)
    expected = ["ΔL⁺, nats", "Δ MSE", "Δ log p̂(x), nats", "−Δ gap, nats"]
    assert labels(drawn(found, monkeypatch)) == expected
    assert labels(drawn(whole, monkeypatch)) == [expected[0], "Δ mIoU", *expected[1:]]


def drawn(found: xarray.Dataset, monkeypatch: pytest.MonkeyPatch) -> Figure:
    figures: list[Figure] = []
    monkeypatch.setattr(comparison_figures, "save_figure", lambda _, figure: figures.append(figure))
    comparison_figure(Path("a.png"), found)
    return figures[0]


def labels(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes]


def test_figures_name_all_pairs_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, said in [
        (1, "0: a0, +: b0"),
        (2, "pair 1 is 0: a0, +: b0\npair 2 is 0: a1, +: b1"),
        (7, "7 pairs of runs"),
    ]:
        found = data(3.0, 5.0, pairs=count).assign_coords(pair=[f"0: a{p}, +: b{p}" for p in range(count)])
        assert drawn(found, monkeypatch).get_suptitle() == said


def test_axes_say_where_they_are_logarithmic_and_ticks_are_within_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    found = data(3.0, 5.0)
    found["elbo"][0, 1, 5] += 450.0
    found["elbo"][0, 0, 6] += 20.0
    found["gap"] = found["log_evidence"] - found["elbo"]
    axes = drawn(found, monkeypatch).axes
    for axis in (axes[0].yaxis, axes[1].xaxis, axes[-1].yaxis):
        assert axis.get_label_text().endswith("nats\n(logarithmic beyond ±10)")
    assert axes[0].get_yticks().tolist() == [-10, 0, 10, 100]
    assert axes[-1].get_yticks().tolist() == [-10, 0, 10, 100]
    assert axes[-2].get_yticks().tolist() == [0], "log p̂(x) has no outliers"
    assert axes[1].get_yscale() == "linear"


def test_what_has_no_correlation_says_so_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    found = data(3.0, 5.0)
    found["log_evidence"][:] = 7.0
    titles = [axes.get_title() for axes in drawn(found, monkeypatch).axes]
    assert titles[3] == "no r: all differences are equal"
    assert not any("nan" in title for title in titles)


def test_no_pair_hides_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points are drawn in random order, so that of any two pairs about half the points lie above the other's."""
    for axes in drawn(data(3.0, 5.0, pairs=2), monkeypatch).axes:
        (points,) = axes.collections
        colours = points.get_facecolor()
        first = (colours == colours[0]).all(1)
        assert 0.3 < np.mean(np.flatnonzero(first)) / len(first) < 0.7
        assert 0.4 < first.mean() < 0.6


def test_scenes_are_counted_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (points,) = drawn(data(3.0, 5.0), monkeypatch).axes[0].collections
    assert sorted(points.get_offsets()[:, 0]) == list(range(1, 41))

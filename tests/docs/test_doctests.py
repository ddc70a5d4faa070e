"""The examples in docstrings and in the pages of the documentation show their actual output."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import pyro_compvae
from pyro_compvae import analysis

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if ">>> " in page.read_text(encoding="utf-8")]
MODULES = sorted(module.name for module in pkgutil.walk_packages(pyro_compvae.__path__, "pyro_compvae."))


def failures(tests: list[doctest.DocTest]) -> str:
    """The failures that doctest reports, or an empty text."""
    report: list[str] = []
    for test in tests:
        doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    tests = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    assert failures(tests) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of a page are one session, in the folder of the project."""
    monkeypatch.chdir(DOCS.parent)
    text = page.read_text(encoding="utf-8")
    session = "\n".join(re.findall(r"^```pycon\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert session.count(">>> ") == text.count(">>> "), "every example in a ```pycon block"
    assert failures([doctest.DocTestParser().get_doctest(session, {}, page.name, str(page), 0)]) == ""


def test_the_main_functions_have_examples() -> None:
    for thing in (
        pyro_compvae.SpatialGaussianMixture,
        pyro_compvae.slot_correlation,
        pyro_compvae.lnms_log_density,
        pyro_compvae.log_permanent,
        analysis.mean_iou,
        analysis.adjusted_rand_index,
    ):
        assert ">>> " in (thing.__doc__ or ""), thing

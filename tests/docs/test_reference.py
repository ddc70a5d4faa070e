"""The API reference leaves no module out."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pyro_compvae

API = Path(__file__).parents[2] / "docs" / "api"


def test_every_module_is_on_one_page() -> None:
    modules = [
        module.name
        for package in (pyro_compvae,)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not module.ispkg
    ]
    pages = "".join(page.read_text(encoding="utf-8") for page in API.glob("*.md"))
    assert sorted(re.findall(r"automodule:: (\S+)", pages)) == sorted(modules)

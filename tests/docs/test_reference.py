"""The API reference contains every module."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pyro_compvae

API = Path(__file__).parents[2] / "docs" / "api"


def test_every_module_is_on_one_page() -> None:
    modules = [
        module.name
        for module in pkgutil.walk_packages(pyro_compvae.__path__, "pyro_compvae.")
        if not module.ispkg and not module.name.startswith(("pyro_compvae.experiments.", "pyro_compvae.__main__"))
    ]
    pages = "".join(page.read_text(encoding="utf-8") for page in API.glob("*.md"))
    assert sorted(re.findall(r"automodule:: (\S+)", pages)) == sorted(modules)

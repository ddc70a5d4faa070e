"""Sphinx's configuration of the documentation: ``python -m sphinx -W --keep-going -b html docs FOLDER``."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole

sys.path.append(str(Path(__file__).parent))
from docstrings import to_restructured_text

project = "pyro_compvae"
release = version = metadata.version("pyro-compvae")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
exclude_patterns = ["examples", "_build"]
html_theme = "furo"
html_show_copyright = False
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

default_role = "py:near"
suppress_warnings = ["ref.python"]  # if several objects have the same name, the first one is linked

COLON = "\ue000"
"""The character that stands for a colon in attributes' docstrings, before which napoleon would read a type."""


class NearRole(PyXRefRole):
    """The role of a name in single backticks, from any module; names that are not documented stay plain."""

    def process_link(
        self, env: Any, refnode: Any, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        """Treat the name like a target with a leading dot, which Sphinx looks for in all modules."""
        refnode["reftype"] = "obj"
        return title, super().process_link(env, refnode, has_explicit_title, title, f".{target}")[1]


def before_napoleon(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Convert every docstring to reStructuredText."""
    lines[:] = to_restructured_text(lines)
    if what in ("attribute", "data", "property"):
        lines[:] = [line.replace(":", COLON) for line in lines]


def after_napoleon(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Put the colons back."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def skip_fields(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Skip fields of a NamedTuple, which its docstring describes; their own say "alias for field number 0"."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> None:
    """Connect the functions above to Sphinx."""
    app.add_role_to_domain("py", "near", NearRole())
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-skip-member", skip_fields)

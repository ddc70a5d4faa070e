"""Importing the core packages loads no libraries for plots, files of data or ArviZ."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from helpers.scripts import EXPERIMENTS

from pyro_compvae import analysis

HEAVY = ("arviz", "arviz_stats", "matplotlib", "h5py", "h5netcdf", "xarray", "scipy.stats", "PIL", "tensorboard")


def test_the_core_is_light() -> None:
    program = "import json, sys, pyro_compvae.guides, pyro_compvae.evidence; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", program], text=True))
    assert [name for name in HEAVY if name in loaded] == []
    ours = {name for name in loaded if name.startswith("pyro_compvae.")}
    assert not {name for name in ours if name.startswith(("pyro_compvae.analysis", "pyro_compvae.data"))}


def test_scripts_show_their_help_without_what_they_compute_with(tmp_path: Path) -> None:
    """All but one: the options of reproduce.py are beside what computes with them.

    A user's own analysis.py in the folder is not taken for ours.
    """
    for name in ("analysis", "guides", "experiments"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not ours')")
    names = sorted(path.stem for path in EXPERIMENTS.glob("*.py") if path.stem not in ("__init__", "reproduce"))
    modules = ", ".join(f"pyro_compvae.experiments.{name}" for name in names)
    program = f"import json, sys, {modules}; print(json.dumps(sorted(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    command = [sys.executable, "-c", program]
    loaded = json.loads(subprocess.check_output(command, text=True, cwd=tmp_path, env=environment))
    assert [name for name in HEAVY if name in loaded and name not in ("h5py", "PIL")] == []


def test_names_of_a_lazy_package_are_those_that_type_checkers_see() -> None:
    checked = {
        alias.name: node.module
        for node in ast.walk(ast.parse(Path(analysis.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_compvae.analysis")
        for alias in node.names
    }
    assert set(checked) == set(analysis.__all__)
    for name, module in checked.items():
        assert getattr(analysis, name) is getattr(import_module(module or ""), name)
    with pytest.raises(AttributeError, match=r"module 'pyro_compvae\.analysis' has no attribute 'nothing'"):
        analysis.nothing  # noqa: B018

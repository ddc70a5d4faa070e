"""Scripts of experiments/ and docs/examples/, which is no package, loaded as modules, as if each were run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
EXAMPLES = ROOT / "docs" / "examples"
RESULTS = ROOT / "results"


def load_script(name: str, folder: Path = EXPERIMENTS) -> ModuleType:
    """The module in FOLDER/NAME.py."""
    spec = importlib.util.spec_from_file_location(f"{name}_script", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module

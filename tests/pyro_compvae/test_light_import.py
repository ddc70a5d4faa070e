"""Importing the core packages loads no libraries for plots, files of data or ArviZ."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("arviz", "arviz_stats", "matplotlib", "h5py", "h5netcdf", "xarray", "scipy.stats", "PIL", "tensorboard")


@pytest.mark.parametrize("package", ["pyro_compvae", "pyro_compvae.guides", "pyro_compvae.evidence"])
def test_the_core_is_light(package: str) -> None:
    program = f"import json, sys, {package}; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", program], text=True))
    assert [name for name in HEAVY if name in loaded] == []
    ours = {name for name in loaded if name.startswith("pyro_compvae.")}
    assert not {name for name in ours if name.startswith(("pyro_compvae.analysis", "pyro_compvae.data"))}

"""Numbers that are computed once and kept, with the scenes, settings and weights that they are of.

Nothing is lost when a file gets numbers of other scenes, settings or weights: those that it held are kept in the folder
"replaced" beside it, and the command that made them brings them back.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xarray

from pyro_compvae.analysis.netcdf import read_netcdf, write_netcdf
from pyro_compvae.data.records import DataError
from pyro_compvae.data.scenes import SceneSet
from pyro_compvae.errors import CompvaeError
from pyro_compvae.runs.files import make_own_folder, write_bytes

Settings = Mapping[str, Any]
"""Everything that numbers depend on, as JSON can hold it: the effort and the version of the code, the run's `identity`,
and under "scenes" those `SceneSet.digests` that enter."""

REPLACED = "replaced"
"""The folder of the numbers that files held before."""


def key_of(settings: Settings) -> str:
    """A short name for settings, which no other settings have."""
    return _hash(as_text(settings).encode())


def as_text(settings: Settings) -> str:
    """Settings in the form in which files record them, in the attribute "settings" of a group."""
    return json.dumps(dict(settings))


def recorded(data: xarray.Dataset) -> dict[str, Any]:
    """The settings that numbers record, empty if they record none."""
    return _parsed(data.attrs.get("settings"))


def is_of(path: Path, settings: Settings) -> bool:
    """Whether a file can be read and has exactly these settings; if it had them before, it gets those numbers back."""
    if _settings_text(path) == as_text(settings):
        return True
    kept = path.parent / REPLACED / f"{path.stem}_{key_of(settings)}.nc"
    if _settings_text(kept) != as_text(settings):
        return False
    make_way(path, settings)
    kept.replace(path)
    return True


def make_way(path: Path, settings: Settings) -> None:
    """Keep the numbers of a file, and say so, if they are of other settings than those that it is about to get.

    Raises:
        DiskFullError: if the disk has no room for them; the file stays as it is.
    """
    found = _settings_text(path)
    if found is None or found == as_text(settings):
        return
    content = path.read_bytes()
    # Files of earlier versions do not say of which scenes they are; two of them may differ in nothing else.
    complete = "scenes" in _parsed(found)
    kept = path.parent / REPLACED / f"{path.stem}_{_hash(found.encode() if complete else content)}.nc"
    if _settings_text(kept) == found:
        return
    make_own_folder(kept.parent)
    write_bytes(kept, content)
    back = "; the command that made them brings them back" if complete else ""
    warnings.warn(
        f"{path}: it held other numbers ({'; '.join(_changes(found, settings))}). They are kept as "
        f"{kept.relative_to(path.parent)} beside it{back}.",
        stacklevel=3,
    )


def check_identity(
    path: Path, data: xarray.Dataset, identity: Mapping[str, str | int], scenes: SceneSet | None = None
) -> None:
    """Refuse numbers of other weights than those of a run, or of other scenes than those that it has now.

    Args:
        path: the file of the numbers.
        data: the numbers, with the settings that the file records.
        identity: the run's identity.
        scenes: the run's test scenes, or None if they cannot be loaded. Files of earlier versions do not record theirs,
            and are not refused.

    Raises:
        IdentityError: if the numbers are of other weights or scenes.
    """
    found = recorded(data)
    if not found.items() >= identity.items():
        raise IdentityError(
            f"{path}: expected numbers of this run, found those of other weights (the run was trained on, or the file "
            "copied from elsewhere); delete it and compute it again"
        )
    if scenes is None or "scenes" not in found:
        return
    index = torch.as_tensor(data["scene"].values.copy())
    here = scenes.part(index).digests if int(index.max()) < len(scenes) else {}
    if not here.items() >= found["scenes"].items():
        raise IdentityError(
            f"{path}: expected numbers of the test scenes that the run has now, found those of others (the file of "
            "scenes has been replaced, or the numbers copied from elsewhere); compute them again"
        )


class IdentityError(CompvaeError, ValueError):
    """A file belongs to another run, or to other scenes."""


def save(path: Path, data: xarray.Dataset, settings: Settings) -> None:
    """Write the group "sample_stats" of a NetCDF file, which ArviZ and xarray open, and keep numbers of other settings.

    Args:
        path: the file.
        data: the numbers.
        settings: everything that they depend on.
    """
    make_way(path, settings)
    write_netcdf(path, {"sample_stats": data.assign_attrs(settings=as_text(settings))})


def read(path: Path) -> xarray.Dataset:
    """Read a data set that `save` wrote.

    Raises:
        DataError: if the file is missing or damaged, or has no such group.
    """
    return read_netcdf(path, "sample_stats")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _settings_text(path: Path) -> str | None:
    """The settings that a file records, empty if it records none, and None if there is no file that can be read."""
    try:
        return str(read(path).attrs.get("settings", "")) if path.is_file() else None
    except DataError:  # such a file is computed again
        return None


def _parsed(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _changes(found: str, settings: Settings) -> list[str]:
    """Where settings differ from those found in a file, as phrases."""
    there, here = _parsed(found), _parsed(as_text(settings))
    if not there:
        return ["it does not say which"]
    opaque = ("weights", "version")
    return [
        f"other {name}"
        if name in opaque or isinstance(here.get(name, there.get(name)), dict | list)
        else f"{name} is {there.get(name)} there and {here.get(name)} here"
        for name in there | here
        if there.get(name) != here.get(name)
    ]

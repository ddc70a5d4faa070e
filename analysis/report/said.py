"""Words for what a part of a report is of."""

from __future__ import annotations

import xarray


def scenes_of(data: xarray.Dataset, kind: str = "test scenes") -> str:
    """Which scenes numbers are of, counted from one: data of the first N scenes say no more than N."""
    count = data.sizes["scene"]
    first = int(data["scene"].values[0]) + 1 if "scene" in data.coords and count else 1
    return f"{kind} {first} to {first + count - 1}" if count > 1 else f"{kind.removesuffix('s')} {first}"

"""Open an HDF5 file and visit all of its structure, in a separate process: ``python -I hdf5_probe.py PATH``.

libhdf5 may loop or crash on a damaged file. If this process visits a file without such trouble, `hdf5.py` opens it.
This module imports nothing from the package, so that a probe takes a fraction of a second.
"""

import sys
from typing import Any

import h5py
import numpy as np

if sys.platform != "win32":
    import resource

MAX_ITEMS = 10_000
MAX_MEMORY = 4 << 30
"""The largest address space of the probe, in bytes."""

MAX_SECONDS = 5
"""How long the processor may be busy with a file, in seconds. A sound file of a million scenes takes less than one."""

MAX_TEXTS = 1_000_000
"""The largest array of texts or references, which are stored elsewhere in the file and so have to be visited too."""


def probe(path: str) -> str:
    """Say what is wrong with the structure of a file; the text is empty if nothing is."""
    with h5py.File(path, "r") as file:
        groups: list[h5py.Group] = [file]
        visited = 0
        while groups:
            group = groups.pop()
            visit_values(file, list(group.attrs.values()))
            for name in group:
                visited += 1
                if visited > MAX_ITEMS:
                    return f"more than {MAX_ITEMS} items"
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    return f"{group.name}/{name} is a link, which may point out of the file"
                item = group[name]
                if isinstance(item, h5py.Group):
                    groups.append(item)
                elif isinstance(item, h5py.Dataset):
                    visit_values(file, list(item.attrs.values()))
                    if item.external or item.is_virtual:
                        return f"{item.name} keeps its values outside of the file"
                    if item.dtype.hasobject:
                        if (item.size or 0) > MAX_TEXTS:
                            return f"{item.name} has more than {MAX_TEXTS} texts"
                        visit_values(file, item[()])
                    if item.chunks:
                        item.id.get_num_chunks()
                        item.id.chunk_iter(lambda chunk: None)
    return ""


def visit_values(file: h5py.File, values: Any) -> None:
    """Follow the references among the values of attributes, as readers of NetCDF do."""
    rest = [values]
    while rest:
        value = rest.pop()
        if isinstance(value, h5py.Reference) and value:
            file[value]
        elif isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim and value.dtype.hasobject):
            rest.extend(value)


if __name__ == "__main__":
    if sys.platform != "win32":
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = MAX_MEMORY if hard == resource.RLIM_INFINITY else min(MAX_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS + 1))
    sys.setrecursionlimit(200)
    try:
        problem = probe(sys.argv[1])
    except Exception as error:  # h5py raises a dozen types on damaged files
        problem = f"{type(error).__name__}: {error}"
    print(problem)

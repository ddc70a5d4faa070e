"""Open an HDF5 file and visit all of its structure, in a separate process: ``python -I hdf5_probe.py PATH``.

libhdf5 may loop or crash on a damaged file. If this process visits a file without such trouble, `hdf5.py` opens it.
This module imports nothing from the package, so that a probe takes a fraction of a second.
"""

import sys

import h5py

if sys.platform != "win32":
    import resource

MAX_SECONDS = 120
"""The processor time of the probe, which is stopped sooner unless the process that started it was killed."""

MAX_ITEMS = 10_000
MAX_MEMORY = 4 << 30
"""The largest address space of the probe, in bytes."""


def probe(path: str) -> str:
    """Say what is wrong with the structure of a file; the text is empty if nothing is."""
    with h5py.File(path, "r") as file:
        groups: list[h5py.Group] = [file]
        visited = 0
        while groups:
            group = groups.pop()
            dict(group.attrs)
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
                    dict(item.attrs)
                    if item.external or item.is_virtual:
                        return f"{item.name} keeps its values outside of the file"
                    if item.chunks:
                        item.id.get_num_chunks()
                        item.id.chunk_iter(lambda chunk: None)
    return ""


if __name__ == "__main__":
    if sys.platform != "win32":
        for kind, most in ((resource.RLIMIT_AS, MAX_MEMORY), (resource.RLIMIT_CPU, MAX_SECONDS)):
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    sys.setrecursionlimit(200)
    try:
        problem = probe(sys.argv[1])
    except Exception as error:  # h5py raises a dozen types on damaged files
        problem = f"{type(error).__name__}: {error}"
    print(problem)

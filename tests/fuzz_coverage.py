"""Coverage-guided fuzzing of readers in Python: ``python tests/fuzz_coverage.py "CLE-MV index" -runs=20000``.

Atheris (``pip install atheris``; Linux, and not every Python) grows inputs that reach new lines, starting from a sound
file. What follows the name of the target goes to libFuzzer. Any error but the reader's own ends it with exit code 1.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pyro_compvae.data", "pyro_compvae.runs.config"]):
    import fuzz


def main(name: str, options: list[str]) -> None:
    """Fuzz one target until libFuzzer ends the process."""
    target = fuzz.TARGETS[name]
    folder = tempfile.mkdtemp()
    path = target.make(Path(folder))
    corpus = Path(tempfile.mkdtemp())
    (corpus / "sound").write_bytes(target.unpack(path.read_bytes()))

    def read(content: bytes) -> None:
        path.write_bytes(target.repair(content))
        with contextlib.suppress(target.error):
            target.read(path)

    limits = ["-timeout=20", "-rss_limit_mb=4096", "-max_len=65536", f"-artifact_prefix={corpus}/"]
    atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

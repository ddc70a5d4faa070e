"""Processes to be killed, which start in milliseconds, as forks of one that has imported the scripts."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

SINGLE = {**os.environ, "OMP_NUM_THREADS": "1"}
"""The environment of processes with one thread."""


class Nursery:
    """Run scripts of experiments/ in separate processes, one at a time, and kill them if asked to."""

    def __init__(self, *scripts: str) -> None:
        command, pipe = [sys.executable, __file__, *scripts], subprocess.PIPE
        self.server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=SINGLE)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.kill()
        self.server.communicate()

    def run(
        self,
        script: str,
        arguments: list[str],
        log: Path,
        kill_after: float | None = None,
        fault: str | None = None,
        where: str | int = 0,
    ) -> int:
        """The exit code of a script, or minus the signal that ended it.

        Args:
            script: the name of the script.
            arguments: the arguments of its command line.
            log: the file for its output.
            kill_after: the seconds from its start after which it is killed, unless it has ended.
            fault: the name in FAULTS of the fault by which it kills itself.
            where: the place of this fault.
        """
        request = {"script": script, "arguments": arguments, "log": str(log), "kill_after": kill_after}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps({**request, "fault": fault, "where": where}), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())


def serve(names: list[str]) -> None:
    """Fork a process for every request, and answer with its exit code."""
    load_script = import_module("helpers.scripts").load_script
    scripts = {name: load_script(name) for name in names}
    import_module("torch._dynamo")  # optimisers import this at the last moment
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            log = os.open(request["log"], os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = 99
            try:
                import_module("pyro_compvae.runs.files").STALE = 0.0  # leftovers go at once
                if request["fault"] is not None:
                    FAULTS[request["fault"]](request["where"])
                code = scripts[request["script"]].main(request["arguments"])
            finally:
                sys.stdout.flush()
                os._exit(code)
        if request["kill_after"] is not None:
            time.sleep(request["kill_after"])
            os.kill(pid, signal.SIGKILL)  # this does nothing to a process that has ended but has not been waited for
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def die() -> NoReturn:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def in_the_middle_of(name: str) -> None:
    """Die when half of the atomic file with this name is written."""
    path = Path(name)

    def write_half(temporary: Path, content: bytes) -> None:
        whole = bytes(content)
        if not (temporary.name.removeprefix(".").startswith(path.stem) and temporary.suffix == path.suffix):
            temporary.open("wb").write(whole)
            return
        temporary.open("wb").write(whole[: len(whole) // 2])
        die()

    Path.write_bytes = write_half  # type: ignore[method-assign,assignment]


def before_renaming(name: str) -> None:
    """Die when the atomic file with this name is written but not yet renamed."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and Path(arguments[1]).name == name:
            die()

    sys.addaudithook(hook)


def at_operation(number: int) -> None:
    """Die before the operation with this number, counted from 1, that makes, opens, renames or deletes a file."""
    left = [number]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.remove", "os.mkdir", "os.chmod") or (event == "open" and _writes(arguments)):
            left[0] -= 1
            if left[0] == 0:
                die()

    sys.addaudithook(hook)


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def in_the_middle_of_row(number: int) -> None:
    """Die when half of a row of a table is written; the header is row 0."""

    class Cut(csv.DictWriter):
        rows = 0

        def __init__(self, file: Any, *arguments: Any, **options: Any) -> None:
            super().__init__(file, *arguments, **options)
            self.file = file

        def writerow(self, row: Any) -> Any:
            self.file.flush()
            before = os.fstat(self.file.fileno()).st_size
            super().writerow(row)
            Cut.rows += before > 0
            if Cut.rows == number:
                self.file.flush()
                after = os.fstat(self.file.fileno()).st_size
                os.truncate(self.file.fileno(), (before + after) // 2)
                die()

    csv.DictWriter = Cut  # type: ignore[misc]


FAULTS: dict[str, Callable[[Any], None]] = {
    function.__name__: function for function in (in_the_middle_of, before_renaming, at_operation, in_the_middle_of_row)
}

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    serve(sys.argv[1:])

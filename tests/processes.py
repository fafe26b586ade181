"""Programs run as a user types them, in warm processes: forked from one that has loaded the libraries."""

import multiprocessing
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lib.paths import ROOT

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.warm"])


class Program:
    """A program that has been started: `python -m module arguments`, or `python script.py arguments`."""

    def __init__(self, program: str, *arguments: object, folder: Path, environment: Mapping[str, str] = os.environ):
        """folder: where it runs. environment: all its variables."""
        self.folder = TemporaryDirectory()
        self.written = [Path(self.folder.name) / name for name in ("stdout", "stderr")]
        self.arguments = [program, *map(str, arguments)]
        warm_up()
        given = (program, self.arguments[1:], folder, dict(environment), self.written)
        self.process = CONTEXT.Process(target=_become, args=given)
        self.process.start()

    def finish(self, timeout: float = 600) -> subprocess.CompletedProcess:
        """Wait for its end: exit status, and what it wrote. Raises subprocess.TimeoutExpired."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        out, err = (path.read_text() if path.exists() else "" for path in self.written)
        return subprocess.CompletedProcess(self.arguments, self.process.exitcode, out, err)

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self.process.kill()
        self.process.join()

    @property
    def was_killed(self) -> bool:
        return (self.process.exitcode or 0) < 0


@cache
def warm_up() -> None:
    """Start the process that all others are forked from, and wait until it has loaded the libraries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        forkserver.ensure_running()
    first = CONTEXT.Process(target=int)
    first.start()
    first.join()


def _become(*given: object) -> None:
    from tests import warm

    warm.become(*given)
